//! A tap of the host's kernel, opened and set up by somebody who may.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::io::{Errno, ioctl_fionbio, read};
use virtio::Chain;

use super::{Backend, Incoming, Outgoing};
use crate::{HEADER, MAX_FRAME, Offloads};

// linux/if_tun.h.
const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUN_F_CSUM: libc::c_ulong = 1;
const TUN_F_TSO4: libc::c_ulong = 2;
const TUN_F_TSO6: libc::c_ulong = 4;
const IFF_TAP: libc::c_int = 2;
const IFF_NO_PI: libc::c_int = 0x1000;
const IFF_VNET_HDR: libc::c_int = 0x4000;

/// Why a descriptor is no use as a tap.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// It belongs to no interface.
    #[error("ask the tap's descriptor for its interface")]
    NoTap(#[source] io::Error),
    /// The interface was made with other flags than IFF_TAP, IFF_NO_PI and IFF_VNET_HDR.
    #[error("the tap was made with flags {0:#x}: it needs IFF_TAP, IFF_NO_PI and IFF_VNET_HDR")]
    Flags(libc::c_int),
    /// The kernel refuses a header of 12 bytes, or its offloads.
    #[error("set the tap's header and offloads up")]
    SetUp(#[source] io::Error),
}

/// One queue of a tap.
#[derive(Debug)]
pub struct Tap {
    descriptor: OwnedFd,
    /// The frame in hand, with its header.
    buffer: Box<[u8]>,
    length: usize,
}

impl Tap {
    /// Takes a descriptor of `/dev/net/tun` that belongs to a tap with IFF_NO_PI and IFF_VNET_HDR.
    ///
    /// # Errors
    ///
    /// What [`TapError`] lists.
    pub fn new(descriptor: OwnedFd) -> Result<Self, TapError> {
        // SAFETY: all zeros is a valid `ifreq`; TUNGETIFF writes one.
        let (result, flags) = unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            let result = libc::ioctl(descriptor.as_raw_fd(), TUNGETIFF, &raw mut request);
            (result, libc::c_int::from(request.ifr_ifru.ifru_flags) & 0xffff)
        };
        if result != 0 {
            return Err(TapError::NoTap(io::Error::last_os_error()));
        }
        let needed = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        if flags & needed != needed {
            return Err(TapError::Flags(flags));
        }
        let size = HEADER as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads an int.
        let result = unsafe { libc::ioctl(descriptor.as_raw_fd(), TUNSETVNETHDRSZ, &raw const size) };
        if result != 0 {
            return Err(TapError::SetUp(io::Error::last_os_error()));
        }
        let tap = Self { descriptor, buffer: vec![0; HEADER + MAX_FRAME].into(), length: 0 };
        tap.set_offloads(Offloads::NONE).map_err(TapError::SetUp)?;
        ioctl_fionbio(&tap.descriptor, true).map_err(|e| TapError::SetUp(e.into()))?;
        Ok(tap)
    }

    /// A socket that keeps messages apart, in the place of a tap.
    #[cfg(test)]
    pub(crate) fn standing_in(socket: OwnedFd) -> Self {
        Self { descriptor: socket, buffer: vec![0; HEADER + MAX_FRAME].into(), length: 0 }
    }

    fn set_offloads(&self, guest: Offloads) -> io::Result<()> {
        let mut flags = 0;
        for (wanted, flag) in
            [(guest.checksum, TUN_F_CSUM), (guest.tso4, TUN_F_TSO4), (guest.tso6, TUN_F_TSO6)]
        {
            flags |= if wanted { flag } else { 0 };
        }
        // SAFETY: TUNSETOFFLOAD takes a number.
        let result = unsafe { libc::ioctl(self.descriptor.as_raw_fd(), TUNSETOFFLOAD, flags) };
        // What stands in for a tap in tests knows none.
        if result == 0 || cfg!(test) { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Backend for Tap {
    const END_IS_TOLD: bool = false;

    fn offloads(&self) -> Offloads {
        Offloads::ALL
    }

    fn start(&mut self, guest: Offloads) -> io::Result<()> {
        self.length = 0;
        self.set_offloads(guest)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// One `writev`, of the copy that was judged and of the guest's own memory.
    fn send(&mut self, frame: Outgoing<'_>) -> io::Result<()> {
        loop {
            match frame.chain.write_after(frame.head, frame.offset, frame.rest, self.descriptor.as_fd()) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn flush(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    fn peek(&mut self) -> io::Result<Incoming<'_>> {
        while self.length == 0 {
            match read(&self.descriptor, &mut *self.buffer) {
                Ok(length) if length > HEADER => self.length = length,
                // The interface is gone.
                Ok(_) | Err(Errno::BADFD) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let (header, frame) = self.buffer[..self.length].split_at(HEADER);
        let header = header.first_chunk().copied().unwrap_or_default();
        Ok(Incoming { header, frame })
    }

    fn consume(&mut self) {
        self.length = 0;
    }

    fn receive(&mut self, head: &mut [u8], buffers: &[Chain]) -> Option<io::Result<usize>> {
        if self.length > 0 {
            // The one in hand comes first.
            return None;
        }
        loop {
            let longest = HEADER + MAX_FRAME;
            let got = Chain::read_before(head, buffers, head.len(), longest, self.descriptor.as_fd())?;
            match got {
                Ok(length) if length > HEADER => return Some(Ok(length)),
                Ok(_) => return Some(Err(io::ErrorKind::UnexpectedEof.into())),
                Err(e) if e.raw_os_error() == Some(libc::EBADFD) => {
                    return Some(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Some(Err(e)),
            }
        }
    }
}
