//! What the client for windows sees of this machine: the display's socket, the VM's, and what it needs to draw.
//!
//! The client reads what a hostile guest sends. Whatever takes it over finds no home, no other socket and no network:
//! by bubblewrap (namespaces) where that works, otherwise by Landlock, which its [keeper](super::keeper) applies.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::client::Program;
use super::display::Display;
use super::sound::{self, Sound};
use super::{Places, xpra};

#[cfg(test)]
mod tests;

/// Software, and what describes it. Those that are not there are left out.
pub const SOFTWARE: [&str; 9] =
    ["/usr", "/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/opt", "/gnu"];

/// What drawing needs beside it: fonts, the linker's list, time zone, and settings of toolkits. Nothing of a user's.
pub const SETTINGS: [&str; 16] = [
    "/etc/alternatives",
    "/etc/fonts",
    "/etc/gtk-3.0",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/locale.alias",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/python3",
    "/etc/X11/xkb",
    "/var/cache/fontconfig",
    "/var/lib/dbus/machine-id",
    "/etc/machine-id",
];

/// Where the client finds those of GStreamer's plugins that it may use.
const PLUGINS: &str = "/gstreamer";

/// How the client is confined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// By this bubblewrap.
    Namespaces(PathBuf),
    /// By Landlock, as far as this kernel has it.
    Landlock,
}

impl Confinement {
    /// The best that works here.
    pub fn find() -> Self {
        match xpra::program("bwrap") {
            Some(program) if works(&program) => Self::Namespaces(program),
            Some(_) => {
                log::info!("bubblewrap does not work here; the windows' client is confined by Landlock");
                Self::Landlock
            }
            None => Self::Landlock,
        }
    }

    /// The program with this confinement around it, and the options of its keeper.
    pub fn around(&self, program: Program, places: &Places<'_>) -> (Program, Vec<OsString>) {
        let mut keeper = places.sound.map(through_keeper).unwrap_or_default();
        match self {
            Self::Namespaces(bubblewrap) => {
                let mut command = vec![bubblewrap.clone().into_os_string()];
                command.extend(namespaces(places));
                command.push("--".into());
                command.extend(program.command);
                (Program { command, env: program.env }, keeper)
            }
            Self::Landlock => {
                keeper.extend(landlock(places.display));
                (program, keeper)
            }
        }
    }
}

/// Whether this machine lets an ordinary user make namespaces.
fn works(bubblewrap: &Path) -> bool {
    let mut command = Command::new(bubblewrap);
    command.args(["--unshare-all", "--ro-bind", "/", "/", "--", "/bin/true"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The options of bubblewrap.
fn namespaces(places: &Places<'_>) -> Vec<OsString> {
    let Places { display, channel, sound } = *places;
    let mut options: Vec<OsString> = ["--unshare-all", "--die-with-parent"].map(Into::into).into();
    if display.tcp_port.is_some() {
        options.push("--share-net".into());
    }
    let mut add = |how: &str, arguments: &[&OsStr]| {
        options.push(how.into());
        options.extend(arguments.iter().map(Into::into));
    };
    for folder in SOFTWARE {
        match std::fs::read_link(folder) {
            Ok(target) => add("--symlink", &[target.as_os_str(), OsStr::new(folder)]),
            Err(_) => add("--ro-bind-try", &[OsStr::new(folder), OsStr::new(folder)]),
        }
    }
    for file in SETTINGS {
        add("--ro-bind-try", &[OsStr::new(file), OsStr::new(file)]);
    }
    add("--proc", &[OsStr::new("/proc")]);
    add("--dev", &[OsStr::new("/dev")]);
    add("--tmpfs", &[OsStr::new("/tmp")]);
    let plugins = if sound.is_some() { sound::plugins() } else { Vec::new() };
    for file in &plugins {
        let inside = Path::new(PLUGINS).join(file.file_name().unwrap_or_default());
        add("--ro-bind", &[file.as_os_str(), inside.as_os_str()]);
    }
    if !plugins.is_empty() {
        add("--setenv", &[OsStr::new(sound::PLUGIN_PATH), OsStr::new(PLUGINS)]);
    }
    let sound = sound.map(|sound| sound.socket.as_path());
    for file in display.files.iter().map(PathBuf::as_path).chain([channel]).chain(sound) {
        // A socket can be connected to, whatever the mount says.
        add("--ro-bind", &[file.as_os_str(), file.as_os_str()]);
    }
    options
}

/// The options of the keeper that let the client to the sound server.
fn through_keeper(sound: &Sound) -> Vec<OsString> {
    let mut options: Vec<OsString> = ["--sound-socket".into(), sound.socket.clone().into()].into();
    options.extend(["--sound-server".into(), sound.server.clone().into()]);
    options.extend(sound.microphone.then(|| "--microphone".into()));
    options
}

/// The options of the keeper. Landlock does not keep anybody from a Unix socket: the files' own modes do.
fn landlock(display: &Display) -> Vec<OsString> {
    let readable =
        SOFTWARE.iter().chain(&SETTINGS).map(Path::new).chain(display.files.iter().map(PathBuf::as_path));
    let mut options: Vec<OsString> = vec!["--landlock".into()];
    for path in readable {
        options.extend(["--readable".into(), path.as_os_str().to_owned()]);
    }
    if let Some(port) = display.tcp_port {
        options.extend(["--tcp-port".into(), port.to_string().into()]);
    }
    debug_assert!(options.iter().all(|option| !option.as_bytes().contains(&0)));
    options
}
