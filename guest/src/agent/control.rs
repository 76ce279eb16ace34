//! The control connection: whole frames out of a socket that never blocks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_proto::{FromAgent, MAX_TO_AGENT, ToAgent};
use rustix::io::Errno;

/// How much one read takes; most frames are far smaller.
const CHUNK: usize = 16 << 10;

/// The host's messages in, the agent's out.
pub(super) struct Control {
    socket: OwnedFd,
    /// Received, and not decoded yet.
    input: Vec<u8>,
    /// Encoded, and not sent yet.
    output: Vec<u8>,
}

impl Control {
    pub(super) fn new(socket: OwnedFd) -> Result<Self, Errno> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket, input: Vec::new(), output: Vec::new() })
    }

    /// Takes in all that has come. False when nothing will come any more.
    pub(super) fn fill(&mut self) -> bool {
        loop {
            self.input.reserve(CHUNK);
            match rustix::io::read(&self.socket, rustix::buffer::spare_capacity(&mut self.input)) {
                Ok(0) => return false,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
    }

    /// The next message that has come in whole.
    pub(super) fn next(&mut self) -> io::Result<Option<ToAgent>> {
        let Some(&length) = self.input.first_chunk() else { return Ok(None) };
        let length = u32::from_le_bytes(length) as usize;
        if length <= MAX_TO_AGENT && self.input.len() - 4 < length {
            return Ok(None);
        }
        let mut rest = self.input.as_slice();
        let message = agent_proto::read_frame(&mut rest, MAX_TO_AGENT)?;
        let used = self.input.len() - rest.len();
        self.input.drain(..used);
        Ok(message)
    }

    /// Puts a message behind those that wait to be sent.
    pub(super) fn send(&mut self, message: &FromAgent) {
        // Writing to memory does not fail, and every `FromAgent` can be encoded.
        let _ = agent_proto::write_frame(&mut self.output, message);
    }

    /// Sends what the socket takes; the rest goes when it can take more.
    pub(super) fn flush(&mut self) -> Result<(), Errno> {
        while !self.output.is_empty() {
            match rustix::io::write(&self.socket, &self.output) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
