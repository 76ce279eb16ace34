//! What `run` can be asked for about windows.

use clap::{Args, ValueEnum};

/// Options of `run` about windows.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Windows (they need -g)")]
pub struct GuiArgs {
    /// Show the program's windows on this desktop, by Xpra
    ///
    /// Without a command: a terminal emulator. Each window's title begins with the profile's name, and its border
    /// has the profile's colour.
    #[arg(short, long)]
    pub gui: bool,

    /// Which way what is copied goes: into the virtual machine, out of it, or both
    ///
    /// With 'to-guest' the program can read whatever you copy on this desktop at any time; with 'to-host' it can
    /// change what you paste.
    #[arg(long, value_name = "DIRECTION", value_enum, default_value_t, requires = "gui")]
    pub clipboard: Clipboard,

    /// Let the program run on when what shows its windows is closed; 'nofear attach' shows them again
    #[arg(long, requires = "gui")]
    pub keep: bool,
}

/// Which way the clipboard's content goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Clipboard {
    /// Neither.
    #[default]
    None,
    /// Out of the virtual machine.
    ToHost,
    /// Into it.
    ToGuest,
    /// Both ways.
    Both,
}
