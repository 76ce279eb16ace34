//! Frames of the agent's protocol on a socket that must never be waited for: the guest may stop in the middle
//! of a frame, or stop taking them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use agent_proto::MAX_TO_AGENT;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The bytes of a frame's length.
const LENGTH: usize = 4;

/// The most bytes that wait for an agent that takes none.
const MAX_WAITING: usize = MAX_TO_AGENT + (64 << 10);

/// What [`Connection::receive`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<T> {
    /// A frame.
    Message(T),
    /// No whole frame yet.
    Nothing,
    /// The end of the connection.
    End,
}

/// A connection of the agent.
pub struct Connection {
    socket: UnixStream,
    /// The first bytes of the next frame. Never bytes behind it, which may be a stream's.
    partial: Vec<u8>,
    waiting: VecDeque<u8>,
}

impl Connection {
    /// A connection that has just been accepted.
    pub fn new(socket: UnixStream) -> Self {
        Self { socket, partial: Vec::new(), waiting: VecDeque::new() }
    }

    /// The socket, with all that follows the last frame received.
    pub fn into_socket(self) -> UnixStream {
        self.socket
    }

    /// Receives a frame of at most `limit` bytes, as far as it has come.
    pub fn receive<T: DeserializeOwned>(&mut self, limit: usize) -> io::Result<Received<T>> {
        loop {
            let wanted = match self.partial.first_chunk::<LENGTH>() {
                None => LENGTH,
                Some(length) => {
                    let length = u32::from_le_bytes(*length) as usize;
                    if length > limit {
                        let text = format!("a frame of {length} bytes, over the limit of {limit}");
                        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                    }
                    LENGTH + length
                }
            };
            if self.partial.len() >= LENGTH && self.partial.len() == wanted {
                let message = agent_proto::read_frame(&mut self.partial.as_slice(), limit);
                self.partial.clear();
                return message.map(|message| message.map_or(Received::End, Received::Message));
            }
            self.partial.reserve_exact(wanted - self.partial.len());
            let missing = wanted - self.partial.len();
            let mut bytes = [0_u8; 4096];
            let room = missing.min(bytes.len());
            match recv(&self.socket, &mut bytes[..room], RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(Received::End),
                Ok((n, _)) => self.partial.extend_from_slice(&bytes[..n.min(room)]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Queues a frame. `false`: the agent has not taken so many bytes that this one is left out.
    pub fn queue<T: Serialize>(&mut self, message: &T) -> io::Result<bool> {
        let mut frame = Vec::new();
        agent_proto::write_frame(&mut frame, message)?;
        if frame.len() - LENGTH > MAX_TO_AGENT || self.waiting.len() + frame.len() > MAX_WAITING {
            return Ok(false);
        }
        self.waiting.extend(frame);
        Ok(true)
    }

    /// Whether there is something to [`Self::flush`].
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends what the agent takes now. That it has gone is told by the other direction.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.has_waiting() {
            let (bytes, _) = self.waiting.as_slices();
            match send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => drop(self.waiting.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::PIPE | Errno::CONNRESET) => self.waiting.clear(),
                Err(e) => return Err(e.into()),
            }
        }
        // A long argument vector is sent once; its room is not kept for signals.
        self.waiting.shrink_to_fit();
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
