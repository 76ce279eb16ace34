//! The arguments of Xpra's server and client, from what the installed version knows.
//!
//! Pure: nothing here asks the system, and nothing is decided by the guest. What must be said for the client to
//! trust nothing is an error where it can't be said; the rest is left out.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::bail;

use super::options::{Clipboard, GuiArgs};

#[cfg(test)]
mod tests;

/// The guest's X display.
pub const DISPLAY: &str = ":10";

/// The guest's X server. No access control: its socket is in the guest, where the user's processes are one another's
/// equals.
const X_SERVER: &str = "Xvfb +extension GLX +extension Composite +extension RANDR +extension RENDER -ac \
    -screen 0 5760x2560x24+32 -dpi 96 -nolisten tcp -noreset";

/// The names of the options that a version of Xpra knows, without their dashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known(BTreeSet<String>);

/// How windows are told from the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// What stands before every title.
    pub name: String,
    /// The border's colour, as `#rrggbb`.
    pub colour: String,
}

impl Look {
    /// A window's title, as it is shown.
    pub fn title(&self, own: &str) -> String {
        format!("[{}] {own}", self.name)
    }
}

/// Whether an option can be left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Without it the client would do something for the guest that nobody has allowed.
    Must,
    /// A version that does not know it does not do it either, or does no harm.
    May,
}

impl Known {
    /// Reads what `xpra --help` prints: each option stands at its line's beginning.
    pub fn from_help(help: &str) -> Self {
        let mut names = BTreeSet::new();
        for line in help.lines() {
            let words = line.trim_start();
            if !words.starts_with('-') || line.len() - words.len() > MAX_INDENT {
                continue;
            }
            // The explanation stands two blanks behind the last name.
            let options = words.split("  ").next().unwrap_or_default();
            for option in options.split([',', ' ']).filter_map(|word| word.strip_prefix("--")) {
                let end = option.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
                let name = &option[..end.unwrap_or(option.len())];
                if !name.is_empty() {
                    names.insert(name.to_owned());
                }
            }
        }
        Self(names)
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

impl<S: Into<String>> FromIterator<S> for Known {
    fn from_iter<T: IntoIterator<Item = S>>(names: T) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }
}

/// Further in, help texts mention options of others.
const MAX_INDENT: usize = 6;

/// The arguments of the server in the guest: nothing that it offers is trusted, so what it must do is all that
/// matters.
pub fn server(known: &Known, args: &GuiArgs, socket: &str) -> anyhow::Result<Vec<String>> {
    let mut list = List { known, arguments: vec!["start".into(), DISPLAY.into()] };
    for (name, value) in [("bind", socket), ("daemon", "no"), ("xvfb", X_SERVER)] {
        list.add(Need::Must, name, value)?;
    }
    for (name, value) in [
        ("attach", "no"),
        ("exit-with-children", "no"),
        ("exit-with-client", "no"),
        ("mdns", "no"),
        ("html", "off"),
        ("ssh-upgrade", "no"),
        ("rfb-upgrade", "0"),
        // Where there is one, it is not Xpra's to start.
        ("pulseaudio", "no"),
        ("webcam", "no"),
        ("printing", "no"),
        ("file-transfer", "no"),
        ("open-files", "no"),
        ("open-url", "no"),
        ("forward-xdg-open", "no"),
        ("system-tray", "no"),
        ("dbus-launch", ""),
        ("dbus-control", "no"),
        ("dbus-proxy", "no"),
        ("start-new-commands", "no"),
        ("start-via-proxy", "no"),
        ("systemd-run", "no"),
        ("fake-xinerama", "no"),
        ("global-menus", "no"),
        ("input-method", "none"),
        ("mmap", "no"),
        ("video", "no"),
        ("video-encoders", "none"),
        ("csc-modules", "none"),
        ("encodings", ENCODINGS),
        ("splash", "no"),
        // It would start one more Python program, to learn what the guest's display can do.
        ("opengl", "noprobe"),
        ("resize-display", "yes"),
    ] {
        list.add(Need::May, name, value)?;
    }
    let clipboard = if args.clipboard == Clipboard::None { "no" } else { "yes" };
    let notifications = if args.notifications { "yes" } else { "no" };
    // The bus that notifications come by is there already.
    for (name, value) in [("clipboard", clipboard), ("notifications", notifications), ("dbus", notifications)]
    {
        list.add(Need::May, name, value)?;
    }
    list.add_sound(args)?;
    for name in ["sound-source", "audio-source"] {
        if args.sound {
            list.add(Need::May, name, "pulse")?;
        }
    }
    Ok(list.arguments)
}

/// Pixels as they are, and one lossless compression: decoders of pictures are what a hostile server would attack.
const ENCODINGS: &str = "rgb";

/// The arguments of the client on the host.
pub fn client(known: &Known, args: &GuiArgs, look: &Look, socket: &Path) -> anyhow::Result<Vec<String>> {
    let Some(path) = socket.to_str().filter(|path| !path.contains([':', '@', '?', '#', '&', '\n'])) else {
        bail!(
            "Xpra can't be told to use {}: the path has a character that means something to it",
            socket.display()
        );
    };
    let mut list = List { known, arguments: vec!["attach".into(), format!("socket://{path}")] };
    let (clipboard, direction) = match args.clipboard {
        Clipboard::None => ("no", None),
        Clipboard::ToHost => ("yes", Some("to-client")),
        Clipboard::ToGuest => ("yes", Some("to-server")),
        Clipboard::Both => ("yes", Some("both")),
    };
    for (name, value) in [
        ("mmap", "no"),
        ("clipboard", clipboard),
        ("file-transfer", "no"),
        ("open-files", "no"),
        ("open-url", "no"),
        ("notifications", if args.notifications { "yes" } else { "no" }),
        ("start-new-commands", "no"),
        ("remote-logging", "no"),
        ("encodings", ENCODINGS),
        ("title", &look.title("@title@")),
        ("border", &format!("{},{BORDER_WIDTH}", look.colour)),
    ] {
        list.add(Need::Must, name, value)?;
    }
    if let Some(direction) = direction {
        list.add(Need::Must, "clipboard-direction", direction)?;
    }
    for (name, value) in [
        // These two, and those of sound, are in the help of a version that was built with them.
        ("webcam", "no"),
        ("printing", "no"),
        ("opengl", "no"),
        ("tray", "no"),
        ("system-tray", "no"),
        ("bell", "no"),
        ("xsettings", "no"),
        ("global-menus", "no"),
        ("modal-windows", "no"),
        ("challenge-handlers", "none"),
        ("video", "no"),
        ("video-decoders", "none"),
        ("csc-modules", "none"),
        ("dbus-proxy", "no"),
        ("mdns", "no"),
        ("splash", "no"),
        ("reconnect", "no"),
        ("headerbar", "no"),
        ("sharing", "no"),
        ("ssh-upgrade", "no"),
        // Ways to the client itself, which later versions open for others on this machine.
        ("shell", "no"),
        ("control", "no"),
        ("daemon", "no"),
    ] {
        list.add(Need::May, name, value)?;
    }
    list.add_sound(args)?;
    for name in ["sound-source", "audio-source"] {
        if args.microphone {
            list.add(Need::May, name, "pulse")?;
        }
    }
    Ok(list.arguments)
}

/// In pixels.
const BORDER_WIDTH: u32 = 4;

struct List<'a> {
    known: &'a Known,
    arguments: Vec<String>,
}

impl List<'_> {
    fn add(&mut self, need: Need, name: &str, value: &str) -> anyhow::Result<()> {
        if self.known.has(name) {
            self.arguments.push(format!("--{name}={value}"));
        } else if need == Need::Must {
            bail!("this version of Xpra has no option --{name}, which nofear can't do without");
        }
        Ok(())
    }

    /// What is not asked for is `disabled`, which the other side can't undo as it can `off`.
    fn add_sound(&mut self, args: &GuiArgs) -> anyhow::Result<()> {
        let any = args.sound || args.microphone;
        // An old version has no switch for all of it; of a new one it must be on.
        self.add(Need::May, "audio", if any { "yes" } else { "no" })?;
        for (name, is_wanted) in [("speaker", args.sound), ("microphone", args.microphone)] {
            if is_wanted {
                self.add(Need::Must, name, "on")?;
                self.add(Need::May, &format!("{name}-codec"), CODEC)?;
            } else {
                self.add(Need::May, name, "disabled")?;
            }
        }
        Ok(())
    }
}

/// Samples as they are: there is nothing to decode.
const CODEC: &str = "wav";
