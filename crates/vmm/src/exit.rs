//! How a VM ended, and where that is told.

use std::{
    fmt,
    sync::mpsc::{Receiver, Sender, channel},
};

use crate::Error;

/// How a VM ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// The guest switched itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel said that it panicked.
    Panic,
    /// A vCPU could not deliver a fault: the guest's kernel is broken beyond a panic.
    TripleFault,
    /// [`crate::Handle::stop`] was called.
    Stopped,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerOff => "power off",
            Self::Reset => "reset",
            Self::Panic => "kernel panic",
            Self::TripleFault => "triple fault",
            Self::Stopped => "stopped",
        })
    }
}

/// Where the end of a VM is told.
#[derive(Clone)]
pub(crate) struct Ends(Sender<Result<Exit, Error>>);

impl Ends {
    pub(crate) fn new() -> (Self, Receiver<Result<Exit, Error>>) {
        let (sender, ended) = channel();
        (Self(sender), ended)
    }

    pub(crate) fn send(&self, end: Result<Exit, Error>) {
        // Nobody waits any more: the VM has ended.
        let _ = self.0.send(end);
    }
}
