//! The signals that a person, or a supervising program, sends to the command.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::Signal;

use crate::sys;

/// Those that are passed on to the command in the VM, the size of the terminal, and the return from a stop.
const HANDLED: [Signal; 6] =
    [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::WINCH, Signal::CONT];

/// This many SIGINT or SIGTERM, each within [`INSIST_WITHIN`] of the one before, end more than the command that they
/// ask to end.
const INSIST: u32 = 3;

/// See [`INSIST`].
const INSIST_WITHIN: Duration = Duration::from_secs(2);

/// The bytes of a `signalfd_siginfo`; its first four are the signal's number (signalfd(2)).
const RECORD: usize = 128;

/// The signals, as a descriptor to poll.
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks the signals in this thread and those it starts later. To be called before any thread is
    /// started, or that thread would take them and die of them.
    ///
    /// Signals that this process was started to ignore, as by `nohup` or a shell's `&`, stay ignored: a
    /// blocked one would come all the same, and end a command that was not to see it.
    pub fn block() -> anyhow::Result<Self> {
        let mut handled = Vec::with_capacity(HANDLED.len());
        for signal in HANDLED {
            let news = matches!(signal, Signal::WINCH | Signal::CONT);
            if news || !sys::is_ignored(signal).context("ask which signals are ignored")? {
                handled.push(signal);
            }
        }
        sys::block_signals(&handled).context("block signals")?;
        sys::signal_descriptor(&handled).map(Self).context("make a signal descriptor")
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

/// How urgently somebody asks for the end of a command that does not end.
#[derive(Debug, Default)]
pub struct Insistence {
    count: u32,
    last: Option<Instant>,
}

impl Insistence {
    /// Whether this signal is one of several in quick succession.
    pub fn grows(&mut self, signal: Signal) -> bool {
        if !matches!(signal, Signal::INT | Signal::TERM) {
            return false;
        }
        let now = Instant::now();
        let quick = self.last.is_some_and(|last| now.duration_since(last) < INSIST_WITHIN);
        self.count = if quick { self.count + 1 } else { 1 };
        self.last = Some(now);
        self.count >= INSIST
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_told_from_one_with_its_default() {
        // Rust's runtime ignores SIGPIPE before main.
        assert!(sys::is_ignored(Signal::PIPE).unwrap());
        assert!(!sys::is_ignored(Signal::TERM).unwrap());
    }

    /// Runs itself once more, with a shell in the place of `nohup`.
    #[test]
    fn a_signal_that_was_ignored_at_the_start_stays_so() {
        const CHILD: &str = "NOFEAR_TEST_IGNORES_HANGUPS";
        if std::env::var_os(CHILD).is_some() {
            let signals = Signals::block().unwrap();
            sys::raise(Signal::HUP);
            sys::raise(Signal::QUIT);
            assert_eq!(signals.next().unwrap(), Some(Signal::QUIT));
            assert_eq!(signals.next().unwrap(), None);
            return;
        }
        let name = "signals::tests::a_signal_that_was_ignored_at_the_start_stays_so";
        let script = "trap '' HUP; exec \"$0\" --exact \"$1\"";
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-c", script]).arg(std::env::current_exe().unwrap()).arg(name).env(CHILD, "1");
        let output = shell.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
}
