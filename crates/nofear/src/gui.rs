//! Windows: an Xpra server in the guest, its client on the host, and a Unix socket between them that stands for a
//! port of the guest.
//!
//! `docs/gui.md` says what is promised. The client trusts nothing that comes from the guest: [`arguments`] switches
//! off all that the user has not asked for.

pub mod advice;
pub mod arguments;
pub mod attach;
pub mod client;
pub mod confine;
pub mod display;
pub mod keeper;
pub mod look;
pub mod options;
pub mod sandbox;
pub mod terminal;
pub mod xpra;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;

use agent_proto::{DISPLAY_PORT, Display, User};
use anyhow::Context;
use rustix::event::{EventfdFlags, eventfd};
use vmm::VsockListener;

use crate::runtime_dir::RuntimeDir;
use arguments::Look;
use client::{Client, Program};
use confine::Confinement;
use display::Display as HostDisplay;
use options::GuiArgs;
use xpra::Xpra;

/// Windows that are ready for their VM.
pub struct Gui {
    /// For the VM's vsock device.
    pub listener: VsockListener,
    /// For the session.
    pub windows: Windows,
}

/// The session's part of the windows.
#[derive(Debug)]
pub struct Windows {
    /// The server, for the guest's agent.
    pub server: Display,
    /// Written when the server answers: the client's connection goes there then.
    pub hold: OwnedFd,
    /// The client; none: it has ended, and the VM goes on without.
    pub client: Option<Client>,
    /// Whether the VM goes on when the client ends.
    pub keep: bool,
    /// Whether the server answers.
    pub ready: bool,
    /// The lines that the server has said, and the last of them.
    pub lines: u32,
    /// See above.
    pub last_words: String,
}

impl Windows {
    /// The server answers: lets the client to it.
    pub fn open(&mut self) -> anyhow::Result<()> {
        self.ready = true;
        rustix::io::write(&self.hold, &1_u64.to_ne_bytes()).context("write to an event descriptor")?;
        Ok(())
    }
}

/// The variables of the host that the client for windows gets, beside those of the display: what it looks like.
const CLIENT_VARIABLES: [&str; 12] = [
    "XDG_SESSION_TYPE",
    "XDG_CURRENT_DESKTOP",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LC_MESSAGES",
    "GDK_SCALE",
    "GDK_DPI_SCALE",
    "GTK_THEME",
    "XCURSOR_THEME",
    "XCURSOR_SIZE",
];

/// Prepares windows, and starts their client, which waits for the guest.
///
/// # Errors
///
/// When there is no display, or no Xpra that can be used.
pub fn open(args: &GuiArgs, user: &User, look: &Look, runtime_dir: &RuntimeDir) -> anyhow::Result<Gui> {
    let display = host_display()?;
    let xpra = Xpra::find()?;
    let in_guest = format!("{}/xpra.sock", runtime_folder(user));
    let argv = [xpra.program.display().to_string()]
        .into_iter()
        .chain(arguments::server(&xpra.known, args, &in_guest)?)
        .map(String::into_bytes)
        .collect();
    let env = crate::environment::environment(std::env::vars_os(), user, user.uid == 0, false, &[]);
    let runtime = format!("XDG_RUNTIME_DIR={}", runtime_folder(user)).into_bytes();
    let server = Display { argv, env: env.into_iter().chain([runtime]).collect(), socket: in_guest };
    let socket = runtime_dir.listen_for_windows()?;
    let hold =
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("make an event descriptor")?;
    let listener = VsockListener {
        port: DISPLAY_PORT,
        socket: socket.into(),
        hold: Some(hold.try_clone().context("duplicate an event descriptor")?),
    };
    let client = start_client(&xpra, args, look, &display, &runtime_dir.windows_socket())?;
    Ok(Gui {
        listener,
        windows: Windows {
            server,
            hold,
            client: Some(client),
            keep: args.keep,
            ready: false,
            lines: 0,
            last_words: String::new(),
        },
    })
}

/// The display that windows would be shown on.
pub fn host_display() -> anyhow::Result<HostDisplay> {
    HostDisplay::of(|name| std::env::var_os(name), |path| path.exists())
}

/// Starts the client for the windows behind `socket`.
fn start_client(
    xpra: &Xpra,
    args: &GuiArgs,
    look: &Look,
    display: &HostDisplay,
    socket: &Path,
) -> anyhow::Result<Client> {
    let arguments = arguments::client(&xpra.known, args, look, socket)?.into_iter().map(Into::into);
    let command = [xpra.program.clone().into_os_string()].into_iter().chain(arguments).collect();
    let looks =
        CLIENT_VARIABLES.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
    let fixed = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        // No settings of the user's, or of the system's, that could allow something.
        ("HOME", "/nonexistent"),
        ("XPRA_SYSTEM_CONF_DIRS", "/nonexistent"),
        ("XPRA_DEFAULT_CONF_DIRS", "/nonexistent"),
        ("XPRA_USER_CONF_DIRS", "/nonexistent"),
        // It waits for the guest to start, however slow this machine is.
        ("XPRA_SOCKET_TIMEOUT", "86400"),
        ("NO_AT_BRIDGE", "1"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
    ];
    let fixed = fixed.into_iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let program = Program { command, env: display.env.iter().cloned().chain(looks).chain(fixed).collect() };
    let (program, keeper_options) = Confinement::find().around(program, display, socket);
    Client::start(&program, &keeper_options)
}

/// What a command of the guest's needs to know to show windows, as `NAME=value`.
pub fn variables(user: &User) -> Vec<Vec<u8>> {
    let display = format!("DISPLAY={}", arguments::DISPLAY);
    let runtime = format!("XDG_RUNTIME_DIR={}", runtime_folder(user));
    // Xpra's server has no Wayland, and nobody in the guest serves accessibility.
    let others = ["XDG_SESSION_TYPE=x11", "GDK_BACKEND=x11", "QT_QPA_PLATFORM=xcb", "NO_AT_BRIDGE=1"];
    [display, runtime]
        .into_iter()
        .map(String::into_bytes)
        .chain(others.map(|one| one.as_bytes().to_vec()))
        .collect()
}

/// In the guest.
fn runtime_folder(user: &User) -> String {
    format!("/run/user/{}", user.uid)
}
