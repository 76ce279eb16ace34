//! Our terminal while a command in the emulated host uses it.

use std::io;

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use super::frames::Window;

/// A terminal in raw mode, until dropped.
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Only if both stdin and stdout are terminals: otherwise bytes must arrive as they are.
    pub fn enter() -> Result<Option<Self>> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        if !isatty(&stdin) || !isatty(&stdout) {
            return Ok(None);
        }
        let before = tcgetattr(&stdin).context("read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).context("set the terminal to raw mode")?;
        Ok(Some(Self { before }))
    }

    /// Its size now.
    pub fn window(&self) -> Option<Window> {
        let size = tcgetwinsize(io::stdout()).ok()?;
        Some(Window { rows: size.ws_row, columns: size.ws_col })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing is left to do about a terminal that went away.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}
