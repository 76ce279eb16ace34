//! Where the guest's connections come out on the host: by descriptors, so that a device's thread connects to nothing.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use rustix::{
    io::{Errno, ioctl_fionbio},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};

/// What a port of the host's opens onto: each connection of the guest's comes out at the other side, [`Visitors`].
///
/// A clone is another door to the same place.
#[derive(Clone, Debug)]
pub struct Door(Arc<OwnedFd>);

/// Who came through a [`Door`]: like a listening socket, without a name that others could connect to.
///
/// It can be waited for by its descriptor, which is readable when [`accept`](Self::accept) has something. Some hundred
/// connections wait in it, as many as the host lets a socket hold; a guest that has more is refused.
#[derive(Debug)]
pub struct Visitors {
    socket: OwnedFd,
    /// So that it never says that no one can come any more.
    _door: Door,
}

impl Door {
    /// A door, and where it leads to.
    ///
    /// # Errors
    ///
    /// No more descriptors.
    pub fn new() -> io::Result<(Self, Visitors)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (outside, inside) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let door = Self(Arc::new(outside));
        Ok((door.clone(), Visitors { socket: inside, _door: door }))
    }

    /// A connection to who is behind it. It is non-blocking, and may be written to before it is accepted.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`]: too many wait. Else: no more descriptors, or nobody is behind it any more.
    pub fn enter(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        ioctl_fionbio(&ours, true)?;
        let handed_over = [theirs.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut passed = SendAncillaryBuffer::new(&mut space);
        passed.push(SendAncillaryMessage::ScmRights(&handed_over));
        // A byte, since nothing at all would be the end.
        sendmsg(&*self.0, &[IoSlice::new(b"v")], &mut passed, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        Ok(ours.into())
    }
}

impl Visitors {
    /// The next connection. Reading it waits, as with any new socket; this does not.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`]: there is none. Else: no more descriptors; the connection is lost.
    pub fn accept(&self) -> io::Result<UnixStream> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut passed = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        loop {
            match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut byte)], &mut passed, flags) {
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
                Ok(_) => break,
            }
        }
        let socket = passed.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        socket.map(UnixStream::from).ok_or_else(|| io::Error::from_raw_os_error(Errno::MFILE.raw_os_error()))
    }
}

impl AsFd for Visitors {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn would_block<T: std::fmt::Debug>(result: io::Result<T>) -> bool {
        matches!(result, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    #[test]
    fn what_enters_comes_out_in_order_with_what_it_said() {
        let (door, visitors) = Door::new().unwrap();
        assert!(would_block(visitors.accept()));
        let mut entered: Vec<_> = (0..3).map(|_| door.enter().unwrap()).collect();
        for (at, stream) in entered.iter_mut().enumerate() {
            stream.write_all(&[at as u8]).unwrap();
        }
        for at in 0..3 {
            let mut byte = [9];
            visitors.accept().unwrap().read_exact(&mut byte).unwrap();
            assert_eq!(byte[0], at);
        }
        drop(door);
        assert!(would_block(visitors.accept()));
    }

    #[test]
    fn too_many_are_refused_and_there_is_room_again() {
        let (door, visitors) = Door::new().unwrap();
        let refused = (0..10_000).map(|_| door.enter()).find(Result::is_err).unwrap();
        assert!(refused.is_err());
        while visitors.accept().is_ok() {}
        door.enter().unwrap();
    }

    #[test]
    fn nobody_behind_it_is_an_error() {
        let (door, visitors) = Door::new().unwrap();
        drop(visitors);
        assert_eq!(door.enter().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
