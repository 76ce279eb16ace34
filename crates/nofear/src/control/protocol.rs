//! What is said on a VM's control socket: JSON, an object a line, both ways.
//!
//! A connection is for one [`Request`]. The VM answers with one or more [`Event`]s, and after [`Ask::Exec`] it takes
//! [`ToCommand`]s. A member that one side does not know is ignored.

use agent_proto::{CommandId, End, Run, Stdio, Step, Stream, TerminalSize};
use serde::{Deserialize, Serialize};

/// The protocol's version.
pub const VERSION: u32 = 1;

/// The longest line, in bytes: room for the longest arguments and environment that Linux passes to a program.
pub const MAX_LINE: usize = 16 << 20;

/// The first line of a connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// What is asked for.
    #[serde(flatten)]
    pub ask: Ask,
}

impl From<Ask> for Request {
    fn from(ask: Ask) -> Self {
        Self { version: VERSION, ask }
    }
}

/// What can be asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Ask {
    /// What the VM is: answered with [`Event::Status`].
    Status,
    /// End the VM: answered with [`Event::Stopping`], and by the end of the connection when it is about to end.
    Stop {
        /// Ask nobody in the guest. What was not written to the profile is lost.
        #[serde(default)]
        force: bool,
    },
    /// Start one more command.
    Exec(Exec),
    /// What the network has refused: answered with [`Event::NetLog`].
    NetLog {
        /// Only lines with a higher number.
        #[serde(default)]
        after: u64,
    },
    /// Stop the guest's CPUs until [`Ask::Resume`]: answered with [`Event::Done`].
    Pause,
    /// Let them go on.
    Resume,
    /// The guest is to keep so much of its memory, and the host gets the rest: answered with [`Event::Done`], though
    /// the guest takes its time.
    Balloon {
        /// Bytes.
        memory: u64,
    },
    /// What was counted: answered with [`Event::Statistics`].
    Statistics,
    /// Where the guest's CPUs are: answered with [`Event::Registers`].
    Registers,
    /// The last messages of the guest's kernel: answered with [`Event::Log`].
    Log,
    /// As [`Ask::Registers`], and one CPU is interrupted by an NMI: Linux says where it was, and panics.
    Nmi {
        /// Its number, from 0.
        cpu: u8,
    },
    /// The guest's serial port: answered with [`Event::Console`], behind which the connection carries its bytes.
    Console,
    /// Windows of the VM are shown on a display, by whoever asks, for as long as the connection lasts: answered with
    /// [`Event::Done`].
    Show {
        /// Its name.
        display: String,
    },
    /// How the VM's first command ends, and so the VM: answered with [`Event::Ended`] when it has.
    Wait,
}

/// A command to start in the VM. Its answers are a [`Event::Stream`] for each stream, [`Event::Started`] and then
/// [`Event::Ended`], or [`Event::NotStarted`]. The end of the connection hangs the command up (SIGHUP).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Exec {
    /// The arguments; none: a login shell.
    pub argv: Vec<Bytes>,
    /// The whole environment, each `NAME=value`.
    #[serde(default)]
    pub env: Vec<Bytes>,
    /// The working directory; none: the home.
    #[serde(default)]
    pub cwd: Option<Bytes>,
    /// As guest root.
    #[serde(default)]
    pub root: bool,
    /// The size of the terminal that the command is to have; none: three pipes.
    #[serde(default)]
    pub terminal: Option<Size>,
}

impl Exec {
    /// As the guest's agent takes it.
    pub fn into_run(self, command: CommandId) -> Run {
        let bytes = |list: Vec<Bytes>| list.into_iter().map(Into::into).collect();
        Run {
            command,
            argv: bytes(self.argv),
            env: bytes(self.env),
            cwd: self.cwd.map(Into::into),
            root: self.root,
            stdio: self.terminal.map_or(Stdio::Pipes, |size| Stdio::Terminal(size.into())),
        }
    }
}

/// Bytes that Linux puts no encoding on: text if they are UTF-8, and else an array of numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bytes {
    /// UTF-8.
    Text(String),
    /// Anything.
    Raw(Vec<u8>),
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|e| Self::Raw(e.into_bytes()), Self::Text)
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        match bytes {
            Bytes::Text(text) => text.into_bytes(),
            Bytes::Raw(bytes) => bytes,
        }
    }
}

/// A terminal's size, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

impl From<Size> for TerminalSize {
    fn from(Size { rows, columns }: Size) -> Self {
        Self { rows, columns }
    }
}

impl From<TerminalSize> for Size {
    fn from(TerminalSize { rows, columns }: TerminalSize) -> Self {
        Self { rows, columns }
    }
}

/// For a command that was asked for on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToCommand {
    /// A signal, by its number, for the command's process group.
    Signal(u8),
    /// The terminal has a new size.
    Resize(Size),
}

/// What the VM answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The request was refused; why, for people.
    Error {
        /// In one line.
        text: String,
    },
    /// See [`Ask::Status`].
    Status(Status),
    /// See [`Ask::Stop`].
    Stopping,
    /// It was done, or is being done.
    Done,
    /// See [`Ask::Statistics`].
    Statistics(Statistics),
    /// See [`Ask::Registers`].
    Registers {
        /// Of each CPU; null: it did not come out of the guest.
        cpus: Vec<Option<Registers>>,
    },
    /// See [`Ask::Log`].
    Log {
        /// As the guest's kernel wrote it.
        text: Bytes,
    },
    /// A stream of the command. Its socket comes with this line, as SCM_RIGHTS.
    Stream {
        /// Which.
        stream: StreamName,
    },
    /// See [`Ask::Console`]. Behind this line there are no lines, but what the guest says, first the last 64 KiB of it;
    /// and what comes goes to the guest.
    Console,
    /// The command runs.
    Started,
    /// It could not be started.
    NotStarted {
        /// What failed.
        step: StepName,
        /// The guest's error number.
        errno: i32,
    },
    /// See [`Ask::NetLog`].
    NetLog {
        /// The last of what was said, the oldest first; at most 256.
        lines: Vec<NetLine>,
        /// How many frames were refused in all, by reason.
        counts: Vec<NetCount>,
    },
    /// It ended. Its streams may still carry bytes.
    Ended {
        /// Its exit status, if it ended by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<u8>,
        /// The signal that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<u8>,
    },
}

impl From<End> for Event {
    fn from(end: End) -> Self {
        match end {
            End::Exited(status) => Self::Ended { status: Some(status), signal: None },
            End::Signaled(signal) => Self::Ended { status: None, signal: Some(signal) },
        }
    }
}

/// What was refused, as it was said; at most one line in two seconds after the first few.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetLine {
    /// Counts up, from 1.
    pub number: u64,
    /// In milliseconds since 1970.
    pub time: u64,
    /// For people.
    pub text: String,
}

/// How much was refused for a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetCount {
    /// For people.
    pub reason: String,
    /// Frames.
    pub frames: u64,
}

/// What a VM is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Its name: what its user called it, or eight hexadecimal digits.
    pub vm: String,
    /// Its profile; none: it is temporary.
    pub profile: Option<String>,
    /// The command that it was started for; empty: a login shell.
    pub command: Vec<Bytes>,
    /// Where it is in its life.
    pub state: LifeState,
    /// When it was started, in seconds since 1970.
    pub started: u64,
    /// The guest's memory in bytes.
    pub memory: u64,
    /// The guest's CPUs.
    pub cpus: u8,
    /// Whether its programs can have windows.
    #[serde(default)]
    pub windows: bool,
    /// The display that they are shown on; none: on none.
    #[serde(default)]
    pub display: Option<String>,
}

/// What was counted of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Statistics {
    /// How often each CPU came out of the guest to the VM's process.
    pub cpus: Vec<Exits>,
    /// The guest's memory, all of it, in bytes.
    pub memory: u64,
    /// What of it the guest is to do without.
    pub balloon_asked: u64,
    /// What of it the guest does without.
    pub balloon_held: u64,
    /// What the guest has reported as free, each time counted.
    pub reported_free: u64,
    /// What each device has done.
    #[serde(default)]
    pub devices: Vec<DeviceCounts>,
}

/// What a device has done since the VM's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceCounts {
    /// `9p-` and a share's tag, `disk`, `vsock`, `net`, `entropy`, `balloon`.
    pub name: String,
    /// Requests, or packets each way.
    pub requests: u64,
    /// Bytes that the guest has put into them.
    pub from_guest: u64,
    /// Bytes that the guest got by them.
    pub to_guest: u64,
    /// Requests that failed, or were refused.
    pub errors: u64,
}

/// By the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Exits {
    /// Reads of devices' registers.
    pub memory_reads: u64,
    /// Writes to devices' registers.
    pub memory_writes: u64,
    /// Reads of ports.
    pub port_reads: u64,
    /// Writes to ports.
    pub port_writes: u64,
    /// Signals, and the like.
    pub other: u64,
}

/// A CPU's registers, in hexadecimal: JSON's numbers are not exact to 64 bits everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers(pub std::collections::BTreeMap<String, String>);

/// Where a VM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LifeState {
    /// Its guest boots.
    Starting,
    /// Commands can be started in it.
    Running,
    /// Its CPUs are stopped.
    Paused,
    /// Its guest has not answered for a minute.
    Hung,
    /// It has ended: no VM says so, but what is kept of it.
    Ended,
}

/// A [`Stream`], by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamName {
    /// To the command; its half-close is the end of the input.
    Stdin,
    /// From the command.
    Stdout,
    /// From the command.
    Stderr,
    /// Both ways.
    Terminal,
}

impl From<Stream> for StreamName {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Stdin => Self::Stdin,
            Stream::Stdout => Self::Stdout,
            Stream::Stderr => Self::Stderr,
            Stream::Terminal => Self::Terminal,
        }
    }
}

/// A [`Step`], by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepName {
    /// Finding or executing the program.
    Execute,
    /// Entering the working directory.
    WorkingDirectory,
    /// Making its streams, user or process.
    SetUp,
}

impl From<Step> for StepName {
    fn from(step: Step) -> Self {
        match step {
            Step::Execute => Self::Execute,
            Step::WorkingDirectory => Self::WorkingDirectory,
            Step::SetUp => Self::SetUp,
        }
    }
}

impl From<StepName> for Step {
    fn from(step: StepName) -> Self {
        match step {
            StepName::Execute => Self::Execute,
            StepName::WorkingDirectory => Self::WorkingDirectory,
            StepName::SetUp => Self::SetUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_they_are_documented() {
        let line = |request: Ask| serde_json::to_string(&Request::from(request)).unwrap();
        assert_eq!(line(Ask::Status), r#"{"version":1,"request":"status"}"#);
        assert_eq!(line(Ask::NetLog { after: 3 }), r#"{"version":1,"request":"net-log","after":3}"#);
        assert_eq!(line(Ask::Pause), r#"{"version":1,"request":"pause"}"#);
        assert_eq!(line(Ask::Balloon { memory: 4096 }), r#"{"version":1,"request":"balloon","memory":4096}"#);
        assert_eq!(line(Ask::Stop { force: true }), r#"{"version":1,"request":"stop","force":true}"#);
        let request = r#"{"version":1,"request":"exec","argv":["sh",[255]],"terminal":{"rows":24,"columns":80},"new":0}"#;
        let Ask::Exec(exec) = serde_json::from_str::<Request>(request).unwrap().ask else { panic!() };
        let run = exec.into_run(CommandId(7));
        assert_eq!(run.argv, [b"sh".to_vec(), vec![255]]);
        assert_eq!(run.stdio, Stdio::Terminal(TerminalSize { rows: 24, columns: 80 }));
        assert!(!run.root && run.env.is_empty() && run.cwd.is_none());

        let line = |event: Event| serde_json::to_string(&event).unwrap();
        assert_eq!(line(End::Exited(3).into()), r#"{"event":"ended","status":3}"#);
        assert_eq!(line(End::Signaled(9).into()), r#"{"event":"ended","signal":9}"#);
        assert_eq!(
            line(Event::Stream { stream: StreamName::Stdin }),
            r#"{"event":"stream","stream":"stdin"}"#
        );
        assert_eq!(line(Event::Done), r#"{"event":"done"}"#);
        let registers = Registers([("rip".to_string(), "0xff".to_string())].into());
        assert_eq!(
            line(Event::Registers { cpus: vec![Some(registers), None] }),
            r#"{"event":"registers","cpus":[{"rip":"0xff"},null]}"#
        );
        assert_eq!(serde_json::to_string(&ToCommand::Signal(15)).unwrap(), r#"{"signal":15}"#);
        assert_eq!(serde_json::from_str::<Bytes>("[0,255]").unwrap(), Bytes::from(vec![0, 255]));
    }
}
