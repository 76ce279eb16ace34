//! Sound: the sound server of this machine, which the client plays on, and the one in the guest, which programs
//! play on.
//!
//! The guest's is PulseAudio or PipeWire, as this machine has them; Xpra records what it plays. The client gets raw
//! samples, so that nothing of the guest's is decoded, and reaches this machine's server through a
//! [filter](super::pulse).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::options::GuiArgs;
use super::xpra;

/// How programs of the guest are told which sink and which source are theirs, and Xpra which to record and to fill.
const SPEAKER: &str = "Xpra-Speaker";
const MICROPHONE: &str = "Xpra-Microphone";

/// What to install where this machine has no sound server for the guest.
const ADVICE: &str = "install one (Debian, Ubuntu: apt install pulseaudio pulseaudio-utils; Fedora, Arch, openSUSE: \
    pulseaudio, or pipewire-pulseaudio or pipewire-pulse with wireplumber; Gentoo: media-sound/pulseaudio-daemon)";

/// What sound comes through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sound {
    /// The socket of this machine's sound server.
    pub server: PathBuf,
    /// The socket that the client reaches it by.
    pub socket: PathBuf,
    /// Whether the client may record.
    pub microphone: bool,
}

impl Sound {
    /// What the user has asked for; `socket` is where the client is to reach it.
    ///
    /// # Errors
    ///
    /// When this machine has no sound server.
    pub fn of(args: &GuiArgs, socket: PathBuf) -> anyhow::Result<Option<Self>> {
        if !(args.sound || args.microphone) {
            return Ok(None);
        }
        let server = server(|name| std::env::var_os(name), Path::exists)?;
        Ok(Some(Self { server, socket, microphone: args.microphone }))
    }

    /// What the client is told by.
    pub fn variables(&self) -> [(OsString, OsString); 5] {
        let mut server = OsString::from("unix:");
        server.push(&self.socket);
        [
            ("PULSE_SERVER".into(), server),
            // It looks for nothing else, and starts none.
            ("PULSE_CLIENTCONFIG".into(), "/dev/null".into()),
            // Nothing is kept, but two programs of one client need not look twice for what GStreamer can do.
            ("GST_REGISTRY".into(), "/tmp/gstreamer-registry".into()),
            ("XPRA_SOUND_START_TIMEOUT".into(), START_TIMEOUT.into()),
            ("XPRA_AUDIO_START_TIMEOUT".into(), START_TIMEOUT.into()),
        ]
    }
}

/// Milliseconds that a program of Xpra's that plays or records may take to start, however slow this machine is.
const START_TIMEOUT: &str = "120000";

/// The socket of this machine's sound server. `get` gives variables, `exists` says whether a file is there.
pub fn server(
    get: impl Fn(&str) -> Option<OsString>,
    exists: impl Fn(&Path) -> bool,
) -> anyhow::Result<PathBuf> {
    let set = |name: &str| get(name).filter(|value| !value.is_empty());
    let path = match set("PULSE_SERVER") {
        Some(value) => {
            let text = value.to_string_lossy();
            // {MACHINE}unix:/path
            let text = text.rsplit_once('}').map_or(&*text, |(_, rest)| rest);
            let path = text.strip_prefix("unix:").unwrap_or(text);
            if !path.starts_with('/') {
                bail!("sound: PULSE_SERVER is {}, and only a server of this machine can be used", text);
            }
            PathBuf::from(path)
        }
        None => {
            let folder =
                set("XDG_RUNTIME_DIR").context("sound: XDG_RUNTIME_DIR does not say where it is played")?;
            PathBuf::from(folder).join("pulse/native")
        }
    };
    if !exists(&path) {
        bail!("sound: no sound server runs here: there is no {}", path.display());
    }
    Ok(path)
}

/// A sound server for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By this program.
    PulseAudio(PathBuf),
    /// By these.
    PipeWire {
        /// Runs one that needs a session bus with a bus of its own: managers of sessions do.
        bus: PathBuf,
        /// The server, which starts the others when it is ready.
        server: PathBuf,
        /// Connects programs with sinks.
        manager: PathBuf,
        /// Speaks PulseAudio's protocol.
        pulse: PathBuf,
    },
}

impl Kind {
    /// The one that this machine's software has.
    pub fn find() -> anyhow::Result<Self> {
        Self::of(xpra::program)
    }

    /// PulseAudio, if it is there, since it is one program. `program` says where one is.
    fn of(program: impl Fn(&str) -> Option<PathBuf>) -> anyhow::Result<Self> {
        if let Some(program) = program("pulseaudio") {
            return Ok(Self::PulseAudio(program));
        }
        let manager = program("wireplumber").or_else(|| program("pipewire-media-session"));
        let (Some(server), Some(manager), Some(pulse)) =
            (program("pipewire"), manager, program("pipewire-pulse"))
        else {
            bail!("sound: there is no sound server for the VM: {ADVICE}");
        };
        let bus = program("dbus-run-session").context(
            "sound: PipeWire in a VM needs dbus-run-session: install it (Debian, Ubuntu: apt install dbus-daemon; \
             Fedora: dbus-daemon; Arch: dbus; openSUSE: dbus-1-daemon; Gentoo: sys-apps/dbus)",
        )?;
        Ok(Self::PipeWire { bus, server, manager, pulse })
    }

    /// What to start in the guest: a program and its arguments.
    pub fn program(&self, microphone: bool) -> Vec<String> {
        let sinks = [SPEAKER, MICROPHONE].into_iter().take(1 + usize::from(microphone));
        match self {
            Self::PulseAudio(program) => {
                let mut argv = vec![program.display().to_string()];
                argv.extend(PULSEAUDIO.map(Into::into));
                argv.extend(sinks.map(|sink| format!("--load=module-null-sink sink_name={sink}")));
                argv
            }
            Self::PipeWire { bus, server, manager, pulse } => {
                let sinks: String = sinks.map(pipewire_sink).collect();
                let settings = format!(
                    "context.objects = [ {sinks} ]\n\
                     context.exec = [ {{ path = \"{}\" args = \"\" }} {{ path = \"{}\" args = \"\" }} ]\n",
                    manager.display(),
                    pulse.display()
                );
                let [bus, server] = [bus, server].map(|one| one.display().to_string());
                ["sh".into(), "-c".into(), PIPEWIRE.into(), settings, bus, "--".into(), server].into()
            }
        }
    }
}

/// A sink that plays nowhere, in PipeWire's settings.
fn pipewire_sink(name: &str) -> String {
    format!(
        "{{ factory = adapter args = {{ factory.name = support.null-audio-sink node.name = {name} \
         media.class = Audio/Sink object.linger = true audio.position = [ FL FR ] }} }} "
    )
}

/// Starts PipeWire with settings beside those of the shared software, and none of a user's.
const PIPEWIRE: &str = "folder=$XDG_RUNTIME_DIR/sound/pipewire/pipewire.conf.d && mkdir -p \"$folder\" && \
    printf %s \"$0\" >\"$folder/nofear.conf\" && XDG_CONFIG_HOME=$XDG_RUNTIME_DIR/sound exec \"$@\"";

/// No settings but these, no user's key, and it stays.
const PULSEAUDIO: [&str; 8] = [
    "-n",
    "--daemonize=no",
    "--use-pid-file=no",
    "--exit-idle-time=-1",
    "--realtime=no",
    "--high-priority=no",
    "--log-level=warn",
    "--load=module-native-protocol-unix auth-cookie-enabled=0",
];

/// What plays, records and carries raw samples. GStreamer loads all plugins that it finds, to learn what they can do:
/// hundreds of files that a guest would read from here, and decoders that a client is better off without.
const PLUGINS: [&str; 9] = [
    "coreelements",
    "app",
    "wavparse",
    "wavenc",
    "audioconvert",
    "audioresample",
    "volume",
    "pulseaudio",
    "autodetect",
];

/// Where distributions have GStreamer's plugins.
const PLUGIN_FOLDERS: [&str; 3] =
    ["/usr/lib/x86_64-linux-gnu/gstreamer-1.0", "/usr/lib64/gstreamer-1.0", "/usr/lib/gstreamer-1.0"];

/// The variable that says where GStreamer looks for plugins.
pub const PLUGIN_PATH: &str = "GST_PLUGIN_SYSTEM_PATH_1_0";

/// The files of the plugins that sound needs; none, if they are not where they usually are.
pub fn plugins() -> Vec<PathBuf> {
    let file = |folder: &Path, name: &str| folder.join(format!("libgst{name}.so"));
    let mut folders = PLUGIN_FOLDERS.iter().map(Path::new);
    let Some(folder) = folders.find(|folder| file(folder, "pulseaudio").exists()) else { return Vec::new() };
    PLUGINS.iter().map(|name| file(folder, name)).filter(|file| file.exists()).collect()
}

/// What makes a folder of those alone in the guest, and the variable that leads Xpra's server there.
pub fn plugins_in_guest(runtime_folder: &str) -> Option<(Vec<String>, String)> {
    let plugins = plugins();
    let folder = format!("{runtime_folder}/gstreamer");
    let script = ["sh", "-c", "mkdir -p \"$0\" && ln -s \"$@\" \"$0\"", &folder].map(String::from);
    let files = plugins.iter().map(|file| file.display().to_string());
    let variable = format!("{PLUGIN_PATH}={folder}");
    (!plugins.is_empty()).then(|| (script.into_iter().chain(files).collect(), variable))
}

/// What programs of the guest, and Xpra's server, are told by, as `NAME=value`.
pub fn guest_variables(args: &GuiArgs) -> Vec<String> {
    if !(args.sound || args.microphone) {
        return Vec::new();
    }
    let mut variables = vec![
        format!("XPRA_PULSE_SOURCE_DEVICE_NAME={SPEAKER}"),
        format!("XPRA_SOUND_START_TIMEOUT={START_TIMEOUT}"),
        format!("XPRA_AUDIO_START_TIMEOUT={START_TIMEOUT}"),
    ];
    if args.microphone {
        variables.push(format!("XPRA_PULSE_SINK_DEVICE_NAME={MICROPHONE}"));
        variables.push(format!("PULSE_SINK={SPEAKER}"));
        variables.push(format!("PULSE_SOURCE={MICROPHONE}.monitor"));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_server_is_where_it_says() {
        let of = |pulse: Option<&str>, runtime: Option<&str>| {
            let get = |name: &str| match name {
                "PULSE_SERVER" => pulse.map(Into::into),
                _ => runtime.map(Into::into),
            };
            server(get, |path| path.starts_with("/run")).map_err(|e| e.to_string())
        };
        assert_eq!(of(None, Some("/run/user/7")).unwrap(), Path::new("/run/user/7/pulse/native"));
        assert_eq!(of(Some("unix:/run/p"), None).unwrap(), Path::new("/run/p"));
        assert_eq!(of(Some("{abc}unix:/run/p"), None).unwrap(), Path::new("/run/p"));
        assert!(of(Some("tcp:host:1"), None).unwrap_err().contains("tcp:host:1"));
        assert!(of(None, Some("/none")).unwrap_err().contains("/none/pulse/native"));
        assert!(of(None, None).is_err());
    }

    #[test]
    fn the_guest_has_the_sound_server_that_the_software_has() {
        let of = |programs: &[&str]| {
            Kind::of(|name| programs.contains(&name).then(|| Path::new("/usr/bin").join(name)))
        };
        let pipewire = ["pipewire", "wireplumber", "pipewire-pulse", "dbus-run-session"];
        assert_eq!(of(&["pulseaudio"]).unwrap(), Kind::PulseAudio("/usr/bin/pulseaudio".into()));
        assert!(matches!(of(&[&pipewire[..], &["pulseaudio"]].concat()).unwrap(), Kind::PulseAudio(_)));
        assert!(matches!(of(&pipewire).unwrap(), Kind::PipeWire { .. }));
        let old = ["pipewire", "pipewire-media-session", "pipewire-pulse", "dbus-run-session"];
        let Kind::PipeWire { manager, .. } = of(&old).unwrap() else { panic!("not PipeWire") };
        assert_eq!(manager, Path::new("/usr/bin/pipewire-media-session"));
        for missing in 0..pipewire.len() {
            let rest: Vec<&str> = pipewire.iter().copied().filter(|one| *one != pipewire[missing]).collect();
            let error = of(&rest).unwrap_err().to_string();
            assert!(error.starts_with("sound: ") && error.contains("apt install"), "{error}");
        }
        assert!(of(&[]).is_err());
    }

    #[test]
    fn a_guest_has_a_microphone_only_if_it_was_asked_for() {
        let pipewire = Kind::PipeWire {
            bus: "/usr/bin/dbus-run-session".into(),
            server: "/p".into(),
            manager: "/w".into(),
            pulse: "/u".into(),
        };
        for kind in [Kind::PulseAudio("/usr/bin/pulseaudio".into()), pipewire] {
            let has = |microphone, name: &str| {
                kind.program(microphone).iter().any(|argument| argument.contains(name))
            };
            assert!(has(true, MICROPHONE) && !has(false, MICROPHONE), "{kind:?}");
            assert!(has(true, SPEAKER) && has(false, SPEAKER), "{kind:?}");
        }
        assert!(guest_variables(&GuiArgs::default()).is_empty());
        let args = GuiArgs { sound: true, ..GuiArgs::default() };
        assert!(!guest_variables(&args).iter().any(|one| one.contains(MICROPHONE)));
    }
}
