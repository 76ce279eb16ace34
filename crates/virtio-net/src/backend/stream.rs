//! passt's stream: a Unix socket that carries frames, each after its length in four bytes, big-endian.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::net::UnixStream,
};

use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{Backend, Incoming, Outgoing};
use crate::{HEADER, MAX_FRAME, Offloads};

const LENGTH: usize = 4;

/// Frames up to this are gathered before they are sent; a longer one goes out of the guest's own memory.
const SMALL: usize = 2048;

/// Gathered frames go when they are so many bytes.
const BATCH: usize = 64 << 10;

/// Room for what comes in one call: a frame of any length, and many short ones.
const INCOMING: usize = 4 * (LENGTH + MAX_FRAME);

/// A stream to passt, or to whatever speaks like it.
#[derive(Debug)]
pub struct PasstStream {
    socket: OwnedFd,
    /// Bytes that have not been sent yet, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    /// Bytes that came: the frame in hand begins at `start`, what is known ends at `end`.
    incoming: Box<[u8]>,
    start: usize,
    end: usize,
}

impl PasstStream {
    /// Takes a connected stream.
    pub fn new(socket: UnixStream) -> Self {
        Self {
            socket: socket.into(),
            outgoing: Vec::with_capacity(BATCH + 2 * SMALL + LENGTH + MAX_FRAME),
            sent: 0,
            incoming: vec![0; INCOMING].into(),
            start: 0,
            end: 0,
        }
    }

    /// The length of the frame in hand, when all of it is there.
    fn whole(&self) -> io::Result<Option<usize>> {
        let Some(length) = self.incoming[self.start..self.end].first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_FRAME {
            // Whoever sends that does not send frames; there is no way to find the next one.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((self.end - self.start >= LENGTH + length).then_some(length))
    }

    /// Reads what has come behind what is there.
    fn fill(&mut self) -> io::Result<()> {
        if self.start > 0 {
            self.incoming.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        match recv(&self.socket, &mut self.incoming[self.end..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((_, length)) => {
                self.end += length;
                Ok(())
            }
            Err(e) => Err(io::Error::from(e)),
        }
    }

    /// Ends a frame that goes out of `frame.chain`; what the socket does not take waits in `outgoing`.
    fn send_long(&mut self, frame: Outgoing<'_>) -> io::Result<()> {
        let before = self.outgoing.len();
        self.begin(frame);
        let first = &self.outgoing[self.sent..];
        let went = match frame.chain.send_after(first, frame.offset, frame.rest, self.socket.as_fd()) {
            Ok(went) => went,
            Err(e) => {
                self.outgoing.truncate(before);
                return Err(e);
            }
        };
        let beyond = went.saturating_sub(first.len());
        if went < first.len() {
            self.sent += went;
        } else {
            self.outgoing.clear();
            self.sent = 0;
        }
        // A frame that has begun must be ended, and the guest may change its memory: it waits here.
        self.copy(frame, beyond);
        Ok(())
    }

    fn begin(&mut self, frame: Outgoing<'_>) {
        if self.sent >= BATCH {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
        let head = frame.head.get(HEADER..).unwrap_or_default();
        let length = (head.len() + frame.rest) as u32;
        self.outgoing.extend(length.to_be_bytes());
        self.outgoing.extend(head);
    }

    /// Copies the rest of a frame, without its first `gone` bytes.
    fn copy(&mut self, frame: Outgoing<'_>, gone: usize) {
        let at = self.outgoing.len();
        let count = frame.rest.saturating_sub(gone);
        self.outgoing.resize(at + count, 0);
        // The device has seen that the chain is that long.
        let _ = frame.chain.read_at(frame.offset + gone, &mut self.outgoing[at..]);
    }

    fn waiting(&self) -> usize {
        self.outgoing.len() - self.sent
    }
}

impl Backend for PasstStream {
    const END_IS_TOLD: bool = true;

    fn offloads(&self) -> Offloads {
        Offloads::NONE
    }

    fn start(&mut self, _: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn send(&mut self, frame: Outgoing<'_>) -> io::Result<()> {
        if self.waiting() >= BATCH && !self.flush()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if frame.rest > SMALL {
            return self.send_long(frame);
        }
        self.begin(frame);
        self.copy(frame, 0);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<bool> {
        while self.waiting() > 0 {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(&self.socket, &self.outgoing[self.sent..], flags) {
                Ok(went) => self.sent += went,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(e) => return Err(e.into()),
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        Ok(true)
    }

    fn peek(&mut self) -> io::Result<Incoming<'_>> {
        loop {
            match self.whole()? {
                // No frame: passt has nothing to say with it.
                Some(length) if length < 14 => self.start += LENGTH + length,
                Some(length) => {
                    let at = self.start + LENGTH;
                    return Ok(Incoming { header: [0; HEADER], frame: &self.incoming[at..at + length] });
                }
                None => match self.fill() {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    other => other?,
                },
            }
        }
    }

    fn consume(&mut self) {
        if let Ok(Some(length)) = self.whole() {
            self.start += LENGTH + length;
        }
    }
}
