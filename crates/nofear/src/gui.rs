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
mod notifications;
pub mod opener;
pub mod options;
mod pulse;
pub mod sandbox;
mod shown;
pub mod sound;
pub mod terminal;
mod theme;
pub mod xpra;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use agent_proto::{DISPLAY_PORT, Display, OPENER, OPENER_PROGRAM, User};
use anyhow::Context;
use rustix::event::{EventfdFlags, eventfd};
use vmm::VsockListener;

use crate::runtime_dir::RuntimeDir;
use arguments::Look;
use client::{Client, Program};
use confine::Confinement;
use display::Display as HostDisplay;
use opener::Opener;
use options::{GuiArgs, OpenUrl};
use sound::{Kind, Sound};
use xpra::Xpra;

/// Windows that are ready for their VM.
pub struct Gui {
    /// For the VM's vsock device.
    pub listener: VsockListener,
    /// For the session.
    pub windows: Windows,
    /// What commands in the VM are told by, beside the first.
    pub variables: Vec<Vec<u8>>,
    /// The name of the display that they are shown on.
    pub display: String,
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
    /// Whether sound was asked for, and nothing is known against it.
    pub sound: bool,
    /// The command's program, for people.
    pub program: String,
    /// How long the command may run before it is looked whether any window is shown.
    pub patience: Duration,
    /// When that is.
    pub look: Option<Instant>,
    /// Who is asked whether addresses are opened.
    pub opener: Option<Opener>,
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

/// How long Xpra's server waits, in seconds: for its X server (3 by itself, which a loaded machine does not keep), for
/// a client's first words, and for an answer of one. Whoever does not want to wait ends the VM.
const SERVER_PATIENCE: [&str; 3] = ["XPRA_VFB_WAIT=300", "XPRA_SOCKET_TIMEOUT=300", "XPRA_PING_TIMEOUT=600"];

/// After so long without a window the user is told that the command runs all the same.
const LONG_WITHOUT_WINDOW: Duration = Duration::from_secs(30);

/// Prepares windows, and starts their client, which waits for the guest.
///
/// # Errors
///
/// When there is no display, or no Xpra that can be used.
///
/// `terminal`: the command has this process's.
pub fn open(
    args: &GuiArgs,
    user: &User,
    look: &Look,
    runtime_dir: &RuntimeDir,
    terminal: bool,
) -> anyhow::Result<Gui> {
    let display = host_display()?;
    let xpra = Xpra::find()?;
    let sound = Sound::of(args, runtime_dir.sound_socket())?;
    let mut beside = match sound {
        Some(_) => vec![Kind::find()?.program(args.microphone)],
        None => Vec::new(),
    };
    let plugins = sound.as_ref().and_then(|_| sound::plugins_in_guest(&runtime_folder(user)));
    let (make_plugins, plugin_path) = plugins.unzip();
    beside.extend(make_plugins);
    if args.notifications {
        beside.push(notifications::bus(user)?);
    }
    let opener = match args.open_url {
        OpenUrl::Never => None,
        OpenUrl::Ask => Some(Opener::start(terminal)?),
    };
    let in_guest = format!("{}/xpra.sock", runtime_folder(user));
    let argv = [xpra.program.display().to_string()]
        .into_iter()
        .chain(arguments::server(&xpra.known, args, &in_guest)?)
        .map(String::into_bytes)
        .collect();
    let env = crate::environment::environment(std::env::vars_os(), user, user.uid == 0, false, &[]);
    let runtime = format!("XDG_RUNTIME_DIR={}", runtime_folder(user));
    let bus = args.notifications.then(|| notifications::variable(user));
    let more = sound::guest_variables(args).into_iter().chain([runtime]).chain(bus);
    let more = more.chain(SERVER_PATIENCE.map(String::from)).chain(plugin_path).map(String::into_bytes);
    let bytes = |argv: Vec<String>| argv.into_iter().map(String::into_bytes).collect();
    let server = Display {
        beside: beside.into_iter().map(bytes).collect(),
        opener: args.open_url == OpenUrl::Ask,
        argv,
        env: env.into_iter().chain(more).collect(),
        socket: in_guest,
    };
    let socket = runtime_dir.listen_for_windows()?;
    let hold =
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("make an event descriptor")?;
    let listener = VsockListener {
        port: DISPLAY_PORT,
        socket: socket.into(),
        hold: Some(hold.try_clone().context("duplicate an event descriptor")?),
    };
    let places = Places { display: &display, channel: &runtime_dir.windows_socket(), sound: sound.as_ref() };
    let client = start_client(&xpra, args, look, &places)?;
    Ok(Gui {
        listener,
        variables: variables(user, args),
        display: display.name(),
        windows: Windows {
            server,
            hold,
            client: Some(client),
            keep: args.keep,
            ready: false,
            lines: 0,
            last_words: String::new(),
            sound: sound.is_some(),
            program: String::new(),
            patience: LONG_WITHOUT_WINDOW,
            look: None,
            opener,
        },
    })
}

/// The display that windows would be shown on.
pub fn host_display() -> anyhow::Result<HostDisplay> {
    HostDisplay::of(|name| std::env::var_os(name), |path| path.exists())
}

/// What the client reaches.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// Where it shows windows.
    pub display: &'a HostDisplay,
    /// Where they come from.
    pub channel: &'a Path,
    /// Where it plays, if it may.
    pub sound: Option<&'a Sound>,
}

/// Starts the client for windows.
fn start_client(xpra: &Xpra, args: &GuiArgs, look: &Look, places: &Places<'_>) -> anyhow::Result<Client> {
    let arguments = arguments::client(&xpra.known, args, look, places.channel)?.into_iter().map(Into::into);
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
    let sound = places.sound.iter().flat_map(|sound| sound.variables());
    let env = places.display.env.iter().cloned().chain(looks).chain(fixed).chain(sound).collect();
    let program = Program { command, env };
    let (program, mut keeper_options) = Confinement::find().around(program, places);
    keeper_options.extend(["--titles".into(), look.title("").into()]);
    Client::start(&program, &keeper_options)
}

/// What a command of the guest's needs to know to show windows, as `NAME=value`.
pub fn variables(user: &User, args: &GuiArgs) -> Vec<Vec<u8>> {
    let display = format!("DISPLAY={}", arguments::DISPLAY);
    let runtime = format!("XDG_RUNTIME_DIR={}", runtime_folder(user));
    // Xpra's server has no Wayland, and nobody in the guest serves accessibility.
    let others = ["XDG_SESSION_TYPE=x11", "GDK_BACKEND=x11", "QT_QPA_PLATFORM=xcb", "NO_AT_BRIDGE=1"];
    [display, runtime]
        .into_iter()
        .map(String::into_bytes)
        .chain(others.map(|one| one.as_bytes().to_vec()))
        .chain(sound::guest_variables(args).into_iter().map(String::into_bytes))
        .chain(args.notifications.then(|| notifications::variable(user).into_bytes()))
        .chain(theme::variables().into_iter().map(String::into_bytes))
        .chain(asking(args).into_iter().flatten())
        .collect()
}

/// How programs find the one that asks for addresses to be opened here: as their desktop's browser.
fn asking(args: &GuiArgs) -> Option<[Vec<u8>; 3]> {
    let variables = [
        format!("BROWSER={OPENER}/{OPENER_PROGRAM}"),
        format!("XDG_CONFIG_DIRS={OPENER}:/etc/xdg"),
        format!("XDG_DATA_DIRS={OPENER}:/usr/local/share:/usr/share"),
    ];
    (args.open_url == OpenUrl::Ask).then(|| variables.map(String::into_bytes))
}

/// In the guest.
fn runtime_folder(user: &User) -> String {
    format!("/run/user/{}", user.uid)
}
