//! The host's display: where it is, and what a program needs to see to draw there.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use anyhow::bail;

#[cfg(test)]
mod tests;

/// Where X servers have their sockets.
const X11_SOCKETS: &str = "/tmp/.X11-unix";

/// The first port of X servers on other machines.
const FIRST_PORT: u16 = 6000;

/// The host's display.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Display {
    /// Sockets, and the file that holds the key to the display.
    pub files: Vec<PathBuf>,
    /// The variables that say where it is.
    pub env: Vec<(OsString, OsString)>,
    /// The port of a display that is reached over the network, as by `ssh -X`.
    pub tcp_port: Option<u16>,
}

impl Display {
    /// Reads the environment, of which `get` gives the variables. `exists` says whether a file is there.
    ///
    /// # Errors
    ///
    /// When there is no display, or X's is not understood.
    pub fn of(
        get: impl Fn(&str) -> Option<OsString>,
        exists: impl Fn(&PathBuf) -> bool,
    ) -> anyhow::Result<Self> {
        let mut display = Self::default();
        let set = |name: &str| get(name).filter(|value| !value.is_empty());
        if let Some(name) = set("DISPLAY") {
            display.add_x11(&name, &exists)?;
            let home = || set("HOME").map(|home| PathBuf::from(home).join(".Xauthority").into_os_string());
            if let Some(key) = set("XAUTHORITY").or_else(home).filter(|key| exists(&PathBuf::from(key))) {
                display.files.push(PathBuf::from(&key));
                display.env.push(("XAUTHORITY".into(), key));
            }
        }
        if let (Some(name), Some(folder)) = (set("WAYLAND_DISPLAY"), set("XDG_RUNTIME_DIR")) {
            // An absolute name stands for itself.
            let socket = PathBuf::from(&folder).join(&name);
            if exists(&socket) {
                display.files.push(socket);
                display.env.extend([("WAYLAND_DISPLAY".into(), name), ("XDG_RUNTIME_DIR".into(), folder)]);
            }
        }
        if display.env.is_empty() {
            bail!("there is no display to show windows on: neither DISPLAY nor WAYLAND_DISPLAY names one");
        }
        Ok(display)
    }

    /// What its user calls it: `:0`, or `wayland-0`.
    pub fn name(&self) -> String {
        let get = |wanted| self.env.iter().find(|(name, _)| name == wanted);
        let named = get("DISPLAY").or_else(|| get("WAYLAND_DISPLAY"));
        named.map(|(_, value)| value.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// `:1`, `:1.0`, `unix:1`, `localhost:10.0`, or a socket's path.
    fn add_x11(&mut self, name: &OsStr, exists: impl Fn(&PathBuf) -> bool) -> anyhow::Result<()> {
        let text = name.to_string_lossy();
        let unknown = || anyhow::anyhow!("DISPLAY is {text}, and no display has such a name");
        let (host, number) = text.rsplit_once(':').ok_or_else(unknown)?;
        let number: u16 =
            number.split('.').next().and_then(|digits| digits.parse().ok()).ok_or_else(unknown)?;
        let socket = match host {
            "" | "unix" => PathBuf::from(X11_SOCKETS).join(format!("X{number}")),
            path if path.starts_with('/') => PathBuf::from(text.as_ref()),
            _ => {
                self.tcp_port = Some(FIRST_PORT.checked_add(number).ok_or_else(unknown)?);
                self.env.push(("DISPLAY".into(), name.to_owned()));
                return Ok(());
            }
        };
        if !exists(&socket) {
            bail!("DISPLAY is {text}, but there is no {}", socket.display());
        }
        self.files.push(socket);
        self.env.push(("DISPLAY".into(), name.to_owned()));
        Ok(())
    }
}
