//! A server in a process of its own. The device passes requests and answers on through memory that both share, and holds
//! no file; the server holds files, and nothing of the guest but what a request has in it.
//!
//! Both ends are of one program, forked. Neither believes the other: it may have fallen to a guest.

use std::{
    collections::VecDeque,
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        PoisonError, RwLock,
        mpsc::{Sender, channel},
    },
    thread::{self, ScopedJoinHandle},
};

use ninep::Server;
use rustix::{
    event::epoll,
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::{Errno, read, write},
    net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt::set_socket_send_buffer_size},
};
use virtio::{Chain, Slots};

use crate::{QUEUE_SIZE, Served, THREADS, message};

/// What is said on the socket: a slot, two lengths, and whether it failed, 16 bytes in this machine's order.
type Words = [u32; 4];
const LENGTH: usize = 16;

/// Of a server's thread, in bytes.
const STACK: usize = 128 << 10;

/// In the place of a slot: the session is over.
const RESET: u32 = u32::MAX;

/// The device's end.
pub(crate) struct Remote {
    socket: OwnedFd,
    /// Waits for the socket.
    epoll: OwnedFd,
    slots: Slots,
    /// What is in each slot while the server has it.
    requests: Vec<Option<(u16, Chain)>>,
    /// How many that are.
    under_way: usize,
    finished: VecDeque<Served>,
    /// Called when nothing is expected of the server any more, and gone then.
    lost: Option<OnLost>,
}

type OnLost = Box<dyn FnOnce() + Send>;

/// The server's end: serves a device in another process.
pub struct Servant {
    socket: OwnedFd,
    slots: Slots,
}

/// Why the device can't go on: its server has ended, or does what no server does.
pub(crate) struct Lost;

/// Both ends, for messages of at most `msize` bytes.
pub(crate) fn pair(msize: u32, lost: OnLost) -> io::Result<(Remote, Servant)> {
    // A message that is too long is refused by the server, so that much of it must arrive.
    let slots = Slots::new(QUEUE_SIZE.into(), msize as usize + 1)?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    for end in [&ours, &theirs] {
        // Room for as many messages as there are slots, whatever the host's default is.
        set_socket_send_buffer_size(end, QUEUE_SIZE as usize * 1024)?;
    }
    fcntl_setfl(&ours, fcntl_getfl(&ours)? | OFlags::NONBLOCK)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &ours, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    let requests = std::iter::repeat_with(|| None).take(QUEUE_SIZE.into()).collect();
    let remote = Remote {
        socket: ours,
        epoll,
        slots: slots.clone(),
        requests,
        under_way: 0,
        finished: VecDeque::new(),
        lost: Some(lost),
    };
    Ok((remote, Servant { socket: theirs, slots }))
}

fn bytes(words: Words) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn words(bytes: [u8; LENGTH]) -> Words {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

/// The next message; none at the other end's end.
fn receive(socket: &OwnedFd) -> rustix::io::Result<Option<Words>> {
    let mut message = [0; LENGTH];
    loop {
        match read(socket, &mut message) {
            Ok(0) => return Ok(None),
            Ok(LENGTH) => return Ok(Some(words(message))),
            Ok(_) => return Err(Errno::BADMSG),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

fn send(socket: &OwnedFd, message: Words) -> rustix::io::Result<()> {
    match write(socket, &bytes(message)) {
        Ok(LENGTH) => Ok(()),
        Ok(_) => Err(Errno::BADMSG),
        Err(e) => Err(e),
    }
}

impl Remote {
    /// Readable when an answer has come.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    fn is_lost(&self) -> bool {
        self.lost.is_none()
    }

    fn lost(&mut self) -> Lost {
        if let Some(call) = self.lost.take() {
            call();
        }
        Lost
    }

    /// Gives a request to the server. There must be fewer under way than a queue has entries.
    pub fn submit(&mut self, tag: u16, chain: Chain) -> Result<(), Lost> {
        if self.is_lost() {
            return Err(Lost);
        }
        // The first that is free: memory that was used before.
        let slot = self.requests.iter().position(Option::is_none).ok_or(Lost)?;
        let number = slot as u32;
        let readable = chain.readable().min(self.slots.size());
        let writable = chain.writable().min(self.slots.size());
        let sent = self.slots.put(number, &chain, readable)
            && send(&self.socket, [number, readable as u32, writable as u32, 0]).is_ok();
        if !sent {
            return Err(self.lost());
        }
        self.requests[slot] = Some((tag, chain));
        self.under_way += 1;
        Ok(())
    }

    /// The next request that was answered, its answer in place.
    pub fn finished(&mut self) -> Result<Option<Served>, Lost> {
        match self.finished.pop_front() {
            Some(served) if !self.is_lost() => Ok(Some(served)),
            _ => self.hear(),
        }
    }

    /// Whether every request has been answered, and every answer handed out.
    pub fn is_done(&self) -> bool {
        self.under_way == 0 && self.finished.is_empty()
    }

    fn hear(&mut self) -> Result<Option<Served>, Lost> {
        if self.is_lost() {
            return Err(Lost);
        }
        // Also when nothing is under way: the server may have ended, or say what nobody has asked for.
        match receive(&self.socket) {
            Ok(Some(message)) => self.take(message).map(Some).ok_or_else(|| self.lost()),
            Err(Errno::AGAIN) => Ok(None),
            Ok(None) | Err(_) => Err(self.lost()),
        }
    }

    fn take(&mut self, [number, length, failed, _]: Words) -> Option<Served> {
        let (tag, chain) = self.requests.get_mut(usize::try_from(number).ok()?)?.take()?;
        self.under_way -= 1;
        let length = usize::try_from(length).ok()?;
        let outcome = message::Outcome { length, failed: failed != 0 };
        self.slots.take(number, &chain, length).then_some(Served { tag, chain, outcome })
    }

    /// Waits until there is none under way. [`finished`](Self::finished) has what became of them.
    pub fn wait(&mut self) -> Result<(), Lost> {
        while self.under_way > 0 {
            match self.hear()? {
                Some(served) => self.finished.push_back(served),
                None => self.sleep()?,
            }
        }
        Ok(())
    }

    /// Until the server says something, or ends.
    fn sleep(&mut self) -> Result<(), Lost> {
        let mut events = Vec::with_capacity(1);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(_) => Err(self.lost()),
        }
    }

    /// Ends the session: on return the server has forgotten it, and no answer is under way.
    pub fn reset(&mut self) -> Result<(), Lost> {
        self.wait()?;
        self.finished.clear();
        if self.is_lost() {
            return Err(Lost);
        }
        send(&self.socket, [RESET, 0, 0, 0]).map_err(|_| self.lost())?;
        loop {
            match receive(&self.socket) {
                Ok(Some([RESET, ..])) => {
                    // What a guest has once filled does not stay.
                    let _ = self.slots.clear();
                    return Ok(());
                }
                Err(Errno::AGAIN) => self.sleep()?,
                Ok(_) | Err(_) => return Err(self.lost()),
            }
        }
    }
}

impl Servant {
    /// Leaves the memory of both out of the processes that this one forks from now on: to be called when the servant's
    /// has been.
    ///
    /// # Errors
    ///
    /// What `madvise(2)` returns.
    pub fn keep_from_forks(&self) -> io::Result<()> {
        self.slots.keep_from_forks()
    }

    /// The descriptor that it needs beside its server's.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Serves until the device is gone, by this thread and a few more; each of those calls `enter` first, to confine
    /// itself. Nothing is served unless all of them say yes.
    ///
    /// # Errors
    ///
    /// A thread can't be started, or said no; or the device sends what it never does.
    pub fn serve(&self, server: &Server, enter: impl Fn() -> bool + Sync) -> io::Result<()> {
        let refused = || Err(io::ErrorKind::PermissionDenied.into());
        // Held until it is known whether they may begin.
        let (may_begin, (tell, told)) = (RwLock::new(false), channel());
        let mut hold = may_begin.write().unwrap_or_else(PoisonError::into_inner);
        let body = |tell: Sender<bool>| {
            // Nobody listens any more where another could not be started.
            let _ = tell.send(enter());
            match *may_begin.read().unwrap_or_else(PoisonError::into_inner) {
                true => self.serve_here(server),
                false => refused(),
            }
        };
        let body = &body;
        thread::scope(|scope| {
            let start = |_| {
                let tell = tell.clone();
                thread::Builder::new().stack_size(STACK).spawn_scoped(scope, move || body(tell))
            };
            let others = (0..THREADS).map(start).collect::<io::Result<Vec<_>>>();
            let are_in = others.is_ok() && enter() && told.iter().take(THREADS).all(|is_in| is_in);
            *hold = are_in;
            drop(hold);
            let own = if are_in { self.serve_here(server) } else { refused() };
            // Each ends when the device has gone.
            let end = |thread: ScopedJoinHandle<_>| thread.join().unwrap_or(Err(io::ErrorKind::Other.into()));
            others?.into_iter().map(end).fold(own, Result::and)
        })
    }

    fn serve_here(&self, server: &Server) -> io::Result<()> {
        let mut request = Vec::new();
        while let Some([slot, readable, writable, _]) = receive(&self.socket)? {
            let answer = if slot == RESET {
                server.reset();
                [RESET, 0, 0, 0]
            } else {
                let chain = self.slots.chain(slot, readable as usize, writable as usize);
                let chain = chain.ok_or(io::ErrorKind::InvalidData)?;
                let outcome = message::serve(server, &chain, &mut request);
                // At most what is writable.
                [slot, outcome.length as u32, outcome.failed.into(), 0]
            };
            send(&self.socket, answer)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Servant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servant").finish_non_exhaustive()
    }
}
