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

    /// Play the program's sound on this machine
    #[arg(short, long, requires = "gui")]
    pub sound: bool,

    /// Let the program listen to this machine's microphone, at any time until it ends
    #[arg(long, requires = "gui")]
    pub microphone: bool,

    /// Show the program's notifications on this desktop
    ///
    /// They look like any other program's: nothing says that they come from a virtual machine.
    #[arg(long, requires = "gui")]
    pub notifications: bool,

    /// What to do with addresses that the program wants opened: with 'ask', this machine's browser opens those of http
    /// and https that you agree to, one by one
    #[arg(long, value_name = "WHAT", value_enum, default_value_t, requires = "gui")]
    pub open_url: OpenUrl,

    /// Let the program run on when what shows its windows is closed; 'nofear attach' shows them again
    #[arg(long, requires = "gui")]
    pub keep: bool,
}

/// What becomes of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OpenUrl {
    /// They stay in the virtual machine.
    #[default]
    Never,
    /// The user is asked, each time.
    Ask,
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
