//! The signals that a person, or a supervising program, sends to the command.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use rustix::process::Signal;

use crate::sys;

/// Those that are passed on to the command in the VM, the size of the terminal, and the return from a stop.
const HANDLED: [Signal; 6] =
    [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::WINCH, Signal::CONT];

/// The bytes of a `signalfd_siginfo`; its first four are the signal's number (signalfd(2)).
const RECORD: usize = 128;

/// The signals, as a descriptor to poll.
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks the signals in this thread and those it starts later. To be called before any thread is
    /// started, or that thread would take them and die of them.
    pub fn block() -> anyhow::Result<Self> {
        sys::block_signals(&HANDLED).context("block signals")?;
        sys::signal_descriptor(&HANDLED).map(Self).context("make a signal descriptor")
    }

    /// The next signal that has come, if any.
    pub fn next(&self) -> io::Result<Option<Signal>> {
        let mut record = [0_u8; RECORD];
        match rustix::io::read(&self.0, &mut record) {
            Ok(RECORD) => {}
            Ok(_) => return Ok(None),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        let [a, b, c, d, ..] = record;
        let number = i32::from_ne_bytes([a, b, c, d]);
        Ok(HANDLED.into_iter().find(|signal| signal.as_raw() == number))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
impl Signals {
    /// Signals that a test writes as records into a non-blocking pipe.
    pub fn from_records(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// The record of a signal.
    pub fn record(signal: Signal) -> [u8; RECORD] {
        let mut record = [0; RECORD];
        record[..4].copy_from_slice(&signal.as_raw().to_ne_bytes());
        record
    }
}
