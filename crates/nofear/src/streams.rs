//! The pumps: one thread for each standard stream, which moves its bytes between this process's descriptor
//! and the guest's connection.
//!
//! Threads, and not one event loop, because descriptors 0 to 2 are shared with other processes and must stay
//! as blocking as they are: a reader that is slow to take the output then holds up its own pump alone. The
//! threads start before the connections are there, so that they need no leave to start threads later.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::Context;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, send, shutdown};

#[cfg(test)]
mod tests;

/// The most bytes moved at once: the default size of a pipe.
const CHUNK: usize = 64 << 10;

/// A pump calls little; its buffer is not on its stack.
const STACK: usize = 128 << 10;

/// A standard stream of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standard {
    /// Descriptor 0.
    Input,
    /// Descriptor 1.
    Output,
    /// Descriptor 2.
    Error,
}

impl Standard {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "standard input",
            Self::Output => "standard output",
            Self::Error => "standard error",
        }
    }
}

/// What other threads tell the session.
#[derive(Debug)]
pub enum Event {
    /// A pump has moved its stream's last byte, or can't move any more.
    PumpEnded(Standard, io::Result<()>),
    /// The VM has ended; why, for people.
    VmEnded(String),
}

/// Where other threads tell the session things.
#[derive(Clone)]
pub struct Notifier {
    sender: Sender<Event>,
    wake: Arc<OwnedFd>,
}

impl Notifier {
    /// Tells it, and wakes the session.
    pub fn tell(&self, event: Event) {
        if self.sender.send(event).is_ok() {
            // It only fails when the counter is full, and then the session is awake.
            let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        }
    }
}

/// What the other threads have told, with a descriptor to poll.
pub struct Inbox {
    receiver: Receiver<Event>,
    wake: Arc<OwnedFd>,
}

impl Inbox {
    /// The next event, if there is one.
    pub fn next(&self) -> Option<Event> {
        self.receiver.try_recv().ok()
    }

    /// Forgets the wake-ups so far. To be called before [`Self::next`], so that none is lost.
    pub fn clear(&self) {
        // Nothing to read is as good.
        let _ = rustix::io::read(&*self.wake, &mut [0_u8; 8]);
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// The two ends of what other threads tell the session.
pub fn inbox() -> anyhow::Result<(Notifier, Inbox)> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let wake = Arc::new(eventfd(0, flags).context("make an event descriptor")?);
    let (sender, receiver) = channel();
    Ok((Notifier { sender, wake: Arc::clone(&wake) }, Inbox { receiver, wake }))
}

/// The descriptors that the pumps read and write.
#[derive(Clone, Copy)]
pub struct StandardStreams {
    /// Descriptor 0.
    pub input: BorrowedFd<'static>,
    /// Descriptor 1.
    pub output: BorrowedFd<'static>,
    /// Descriptor 2.
    pub error: BorrowedFd<'static>,
}

impl StandardStreams {
    /// Those of this process.
    pub fn of_process() -> Self {
        Self {
            input: rustix::stdio::stdin(),
            output: rustix::stdio::stdout(),
            error: rustix::stdio::stderr(),
        }
    }
}

/// The three pumps, each waiting for its connection.
pub struct Pumps {
    input: Sender<UnixStream>,
    output: Sender<UnixStream>,
    error: Sender<UnixStream>,
}

impl Pumps {
    /// Starts the threads. Each calls `confine` before anything else.
    pub fn start(
        streams: StandardStreams,
        notifier: &Notifier,
        confine: fn() -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let start = |which: Standard, descriptor: BorrowedFd<'static>| -> anyhow::Result<_> {
            let (sender, connections) = channel::<UnixStream>();
            let notifier = notifier.clone();
            let pump = move || {
                let confined = confine().map_err(io::Error::other);
                // The session ends without a connection when the command can't be started.
                let Ok(connection) = connections.recv() else { return };
                let result = confined.and_then(|()| match which {
                    Standard::Input => pump_in(descriptor, &connection),
                    Standard::Output | Standard::Error => pump_out(&connection, descriptor),
                });
                notifier.tell(Event::PumpEnded(which, result));
            };
            let name = which.name().replace(' ', "-");
            thread::Builder::new()
                .name(name)
                .stack_size(STACK)
                .spawn(pump)
                .with_context(|| format!("start the thread of the {}", which.name()))?;
            Ok(sender)
        };
        Ok(Self {
            input: start(Standard::Input, streams.input)?,
            output: start(Standard::Output, streams.output)?,
            error: start(Standard::Error, streams.error)?,
        })
    }

    /// Gives a pump its connection.
    pub fn connect(&self, which: Standard, connection: UnixStream) {
        let pump = match which {
            Standard::Input => &self.input,
            Standard::Output => &self.output,
            Standard::Error => &self.error,
        };
        // A pump lives until it has had its one connection, and is given no second.
        let _ = pump.send(connection);
    }
}

/// Moves bytes to the guest until there are no more, and tells it so, or until it takes no more.
fn pump_in(from: BorrowedFd<'_>, to: &UnixStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(CHUNK);
    let result = loop {
        match read(from, &mut buffer) {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(e) => break Err(e.into()),
        }
        if send_all(to, &buffer).is_err() {
            // The command has closed its input: no error, as for the writer's end of a pipe that nobody is
            // asked to write into.
            return Ok(());
        }
    };
    let _ = shutdown(to, Shutdown::Write);
    result
}

/// Moves bytes from the guest until its end of the stream. When nobody takes them here, the guest's side is
/// closed too, so that the command learns it from its next write, by SIGPIPE, as in a local pipeline.
fn pump_out(from: &UnixStream, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(CHUNK);
    loop {
        match read(from.as_fd(), &mut buffer) {
            // A reset is the end, too: a terminal's connection is closed with keys that nobody reads.
            Ok(0) | Err(Errno::CONNRESET) => return Ok(()),
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
        if let Err(e) = write_all(to, &buffer) {
            let _ = shutdown(from, Shutdown::Both);
            return if e == Errno::PIPE { Ok(()) } else { Err(e.into()) };
        }
    }
}

/// Reads up to a chunk into the emptied buffer.
fn read(from: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
    loop {
        buffer.clear();
        match rustix::io::read(from, rustix::buffer::spare_capacity(buffer)) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(from, PollFlags::IN)?,
            result => return result,
        }
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(to, PollFlags::OUT)?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn send_all(to: &UnixStream, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match send(to, bytes, SendFlags::NOSIGNAL) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Waits for a descriptor that another process has made non-blocking.
fn wait(descriptor: BorrowedFd<'_>, flags: PollFlags) -> Result<(), Errno> {
    match poll(&mut [PollFd::from_borrowed_fd(descriptor, flags)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e),
    }
}
