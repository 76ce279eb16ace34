//! Bytes from one non-blocking descriptor to another.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// The most bytes that one read takes, and that wait for a slow reader.
const CHUNK: usize = 64 << 10;

/// How many chunks move before the other streams get their turn.
const TURN: u32 = 16;

/// What is left to do for what moves bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing before the next edge.
    Wait,
    /// Its turn is over, and it has more.
    Again,
    /// Nothing any more: close both ends.
    Close,
}

/// Why bytes stopped moving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Nothing to read now.
    SourceEmpty,
    /// Nothing to read any more.
    SourceEnded,
    /// EIO: no process has the terminal open. ECONNRESET: the host has gone.
    SourceLost,
    /// The sink takes nothing now.
    SinkFull,
    /// The sink takes nothing any more.
    SinkGone,
    /// The others have their turn; there may be more.
    TurnOver,
}

/// One direction between two descriptors.
pub(crate) struct Flow {
    /// `buffer[start..]` was read and is not written yet.
    buffer: Vec<u8>,
    start: usize,
    source_ended: bool,
    /// The last byte read; a line's end when there was none.
    pub(crate) last: u8,
}

impl Default for Flow {
    fn default() -> Self {
        Self { buffer: Vec::new(), start: 0, source_ended: false, last: b'\n' }
    }
}

impl Flow {
    /// Moves bytes until one end stops it.
    pub(crate) fn advance(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Stopped {
        let mut chunks = 0;
        loop {
            while self.start < self.buffer.len() {
                match rustix::io::write(to, &self.buffer[self.start..]) {
                    Ok(n) => self.start += n,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return Stopped::SinkFull,
                    Err(_) => return Stopped::SinkGone,
                }
            }
            if self.source_ended {
                return Stopped::SourceEnded;
            }
            if chunks == TURN {
                return Stopped::TurnOver;
            }
            chunks += 1;
            self.buffer.clear();
            self.start = 0;
            self.buffer.reserve(CHUNK);
            match rustix::io::read(from, rustix::buffer::spare_capacity(&mut self.buffer)) {
                Ok(0) => self.source_ended = true,
                Ok(_) => self.last = self.buffer.last().copied().unwrap_or(self.last),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Stopped::SourceEmpty,
                Err(_) => return Stopped::SourceLost,
            }
        }
    }

    /// Drops what was read and is not written yet.
    pub(crate) fn discard(&mut self) {
        self.start = self.buffer.len();
    }

    /// Adds bytes as if they had been read.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }
}
