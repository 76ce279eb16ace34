//! A terminal emulator of the host's, for `nofear run -g` without a command.

use std::path::PathBuf;

use anyhow::Context;

use super::xpra;

/// The user's choice by Debian's alternatives first, then those that need no session bus.
const EMULATORS: [&str; 10] = [
    "x-terminal-emulator",
    "xterm",
    "uxterm",
    "urxvt",
    "alacritty",
    "kitty",
    "xfce4-terminal",
    "konsole",
    "mate-terminal",
    "st",
];

/// Where one is.
pub fn find() -> anyhow::Result<PathBuf> {
    EMULATORS.iter().find_map(|name| xpra::program(name)).context(
        "there is no terminal emulator here for 'run -g' without a command: install xterm, or name a program",
    )
}
