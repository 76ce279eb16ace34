//! Clients of the guest's serial port: bytes both ways, on the connection that they have asked on.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use rustix::time::Timespec;

use super::Machine;

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// How often it is tried again what the guest, or a client, had no room for.
pub const AGAIN: Duration = Duration::from_millis(20);

/// The most keys that wait for the guest, in bytes. From who sends more nothing is read until it has taken some.
pub const MOST_KEYS: usize = 4 << 10;

/// A client.
pub struct Console {
    /// How much of what the guest has said was looked at.
    seen: u64,
    /// What of that the client has not taken yet.
    waiting: Vec<u8>,
}

impl Console {
    /// One that sees what there is, and what comes.
    pub fn new() -> Self {
        Self { seen: 0, waiting: Vec::new() }
    }

    /// Moves what can be moved. True: not all could, and it is to be tried [`AGAIN`].
    pub fn carry(
        &mut self,
        machine: &dyn Machine,
        socket: &UnixStream,
        keys: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let typed = machine.type_to_console(keys).min(keys.len());
        keys.drain(..typed);
        // From one whose keys wait nothing is read, and so its end is not seen.
        let mut peer = [PollFd::new(socket, PollFlags::RDHUP)];
        if !keys.is_empty() && poll(&mut peer, Some(&NOW)) == Ok(1) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.waiting.is_empty() {
            (self.waiting, self.seen) = machine.console_since(self.seen);
        }
        while !self.waiting.is_empty() {
            match send(socket, &self.waiting, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => drop(self.waiting.drain(..sent)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(!self.waiting.is_empty() || !keys.is_empty())
    }
}
