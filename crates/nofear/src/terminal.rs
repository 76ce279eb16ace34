//! The host's terminal: raw while the command has it, and as it was on every way out.

use std::os::fd::BorrowedFd;
use std::sync::Mutex;

use agent_proto::TerminalSize;
use anyhow::Context;
use rustix::process::Signal;
use rustix::termios::{LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use crate::sys;

#[cfg(test)]
pub(crate) mod tests;

/// A terminal in raw mode, and how it was before. Global, for the panic hook and the logger.
static RAW: Mutex<Option<(BorrowedFd<'static>, Termios)>> = Mutex::new(None);

/// The terminal that is both the standard input and output. Dropped, it is as it was before.
#[derive(Debug)]
pub struct Terminal {
    descriptor: BorrowedFd<'static>,
}

impl Terminal {
    /// The terminal of this process, if its standard input and output are one.
    pub fn of_standard_streams() -> Option<Self> {
        let (input, output) = (rustix::stdio::stdin(), rustix::stdio::stdout());
        (isatty(input) && isatty(output)).then_some(Self { descriptor: input })
    }

    /// Passes every key on as a byte, and shows every byte as it comes. Also to be called when the process
    /// continues after a stop, since the shell has set its own modes meanwhile.
    pub fn enter_raw_mode(&self) -> anyhow::Result<()> {
        let current = tcgetattr(self.descriptor).context("read the terminal's modes")?;
        let mut raw = current.clone();
        raw.make_raw();
        let mut saved = lock();
        if saved.is_none() {
            *saved = Some((self.descriptor, current));
        }
        drop(saved);
        tcsetattr(self.descriptor, OptionalActions::Now, &raw).context("set the terminal to raw mode")
    }

    /// Lets the keys that send signals do so again, as Ctrl-C, in an otherwise raw mode. For the time after
    /// the command's end, when nobody in the VM has a use for keys and the user may not want to wait.
    pub fn allow_signals(&self) -> anyhow::Result<()> {
        if !is_raw() {
            return Ok(());
        }
        let mut modes = tcgetattr(self.descriptor).context("read the terminal's modes")?;
        modes.local_modes |= LocalModes::ISIG;
        // As in `restore`: from the background this would stop the process.
        let _ = sys::block_signals(&[Signal::TTOU]);
        tcsetattr(self.descriptor, OptionalActions::Now, &modes).context("let the terminal send signals")
    }

    /// The size in characters, 80 x 24 for a terminal that does not tell.
    pub fn size(&self) -> TerminalSize {
        match tcgetwinsize(self.descriptor) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
                TerminalSize { rows: size.ws_row, columns: size.ws_col }
            }
            _ => TerminalSize { rows: 24, columns: 80 },
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal what it was before raw mode, if it is in it. Safe to call at any time.
pub fn restore() {
    if let Some((descriptor, modes)) = lock().take() {
        // From the background this would stop the process by SIGTTOU, instead of letting it end.
        let _ = sys::block_signals(&[Signal::TTOU]);
        // Nothing better can be done on the way out; the terminal may be gone.
        let _ = tcsetattr(descriptor, OptionalActions::Now, &modes);
    }
}

/// Whether the terminal is raw now, so that a new line needs a carriage return.
pub fn is_raw() -> bool {
    lock().is_some()
}

/// Restores the terminal before a panic is reported: the process may abort without unwinding.
pub fn restore_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        report(panic);
    }));
}

/// The data is valid whoever panicked while holding the lock.
fn lock() -> std::sync::MutexGuard<'static, Option<(BorrowedFd<'static>, Termios)>> {
    RAW.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
