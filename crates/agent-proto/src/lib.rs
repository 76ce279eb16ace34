//! Messages between the host command and the guest agent.
//!
//! The agent opens one *control* connection to [`HOST_PORT`] when it starts, and sends [`Hello::Control`].
//! Both sides then exchange frames: a little-endian `u32` length, then a postcard-encoded message
//! ([`ToAgent`] one way, [`FromAgent`] the other). For each byte stream of a command the agent opens one
//! more connection to the same port, which starts with one [`Hello::Stream`] frame and carries raw bytes
//! from there on; the end of a stream is the half-close of its connection. Flow control is the socket's.
//!
//! The guest is hostile: the host reads frames of at most [`MAX_FROM_AGENT`] bytes, and every identifier
//! in them is checked against what the host itself asked for.
#![forbid(unsafe_code)]

mod datagrams;

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};

pub use datagrams::{DATAGRAM_HEADER, Datagrams, MAX_DATAGRAM, datagram_header};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The vsock port of the host that the agent connects to.
pub const HOST_PORT: u32 = 1024;

/// The vsock port of the guest that leads to its display server, while one runs.
pub const DISPLAY_PORT: u32 = 1025;

/// The vsock port of the guest that leads to the first of its ports that are published; the next ones follow.
pub const PUBLISHED_PORT: u32 = 1026;

/// The most ports of a guest that are published.
pub const MAX_PUBLISHED: usize = 64;

/// The longest frame the host accepts from the agent, in bytes.
pub const MAX_FROM_AGENT: usize = 64 << 10;

/// The longest frame the agent accepts from the host, in bytes: room for the longest argument vector and
/// environment that Linux passes to a program.
pub const MAX_TO_AGENT: usize = 16 << 20;

/// The guest's folder by which its programs ask for addresses to be opened on the host: it has [`OPENER_PROGRAM`], and
/// an entry of it in `applications` and `mimeapps.list`.
pub const OPENER: &str = "/run/nofear-open-url";

/// The name of the program in [`OPENER`] that is given an address.
pub const OPENER_PROGRAM: &str = "open-url";

/// The longest address, in bytes.
pub const MAX_URL: usize = 2048;

/// The tag of the 9P device that holds the host's software, the lower layer of the guest's root.
pub const ROOT_TAG: &str = "nofear-root";

/// The tag of the 9P device that holds the shares, numbered folders or files `0`, `1`, ...
pub const SHARES_TAG: &str = "nofear-shares";

/// Names one command of a VM's life; chosen by the host, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CommandId(pub u32);

/// The first frame of every connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hello {
    /// This connection carries [`ToAgent`] and [`FromAgent`] frames.
    Control {
        /// [`VERSION`] of the agent.
        version: u32,
    },
    /// This connection carries the bytes of one stream.
    Stream {
        /// Whose stream.
        command: CommandId,
        /// Which of its streams.
        stream: Stream,
    },
}

/// The protocol's version; host and agent are built together and must agree.
pub const VERSION: u32 = 6;

/// A byte stream of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// Host to command, without a terminal.
    Stdin,
    /// Command to host, without a terminal.
    Stdout,
    /// Command to host, without a terminal.
    Stderr,
    /// Both ways: the master side of the command's terminal.
    Terminal,
}

/// From the host to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// Sent once, before anything else: what the guest is to look like.
    Configure(Configure),
    /// Start a display server, at most once. [`FromAgent::Display`] tells what becomes of it.
    Display(Display),
    /// Start a command.
    Run(Run),
    /// Send a signal to a command's process group.
    Signal {
        /// Which command.
        command: CommandId,
        /// The signal's number on x86-64 Linux.
        signal: u8,
    },
    /// The host's terminal has a new size.
    Resize {
        /// Which command.
        command: CommandId,
        /// The new size.
        size: TerminalSize,
    },
    /// Whether the agent is there: answered with [`FromAgent::Pong`].
    Ping,
    /// End all processes, write everything back, leave the profile's file system clean, power off. The answer
    /// is the end of the VM.
    Shutdown,
}

/// What the guest is to look like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configure {
    /// The guest's host name.
    pub hostname: String,
    /// The ordinary user of the guest.
    pub user: User,
    /// Shares to mount from [`SHARES_TAG`], at most [`MAX_SHARES`].
    pub shares: Vec<Share>,
    /// Seconds and nanoseconds since 1970 on the host.
    pub time: (u64, u32),
    /// What `/etc/machine-id` holds.
    pub machine_id: [u8; 16],
    /// The profile on the first block device; none: what the guest writes stays in its memory, and a block
    /// device is left alone.
    pub profile: Option<ProfileDisk>,
    /// The addresses of the network interface; none: there is no such interface.
    pub network: Option<Network>,
    /// Ports that are published, at most [`MAX_PUBLISHED`]. The agent listens for them before it starts a command.
    pub published: Vec<Published>,
}

/// A port of the guest's that clients on the host's side reach: the agent connects each connection of the host's to
/// it. The host opens them; the guest can't.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The vsock port that the host connects to: [`PUBLISHED_PORT`] or one after it.
    pub port: u32,
    /// An address of the guest's own, and the port.
    pub to: SocketAddr,
    /// The port is a UDP port, and the host's one connection carries [`Datagrams`] both ways.
    pub udp: bool,
}

/// The addresses of the guest's network interface, `eth0`. Its MTU is the device's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// One for each version of IP that there is.
    pub ends: Vec<Ends>,
    /// Who answers for names.
    pub nameservers: Vec<IpAddr>,
}

/// The guest's address and the one that everything goes through, both of one version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// The guest's address.
    pub guest: IpAddr,
    /// The gateway's, on the same link.
    pub gateway: IpAddr,
    /// How many bits the addresses on the link share.
    pub prefix: u8,
}

/// The profile on the first block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileDisk {
    /// No command has ever run on it: the agent makes a file system if it finds no complete one. Otherwise it
    /// never does, whatever it finds.
    pub fresh: bool,
}

/// The most shares a VM has.
pub const MAX_SHARES: usize = 64;

/// The ordinary user of the guest: the host's user by name and numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The login name.
    pub name: String,
    /// The user's number.
    pub uid: u32,
    /// The primary group's number.
    pub gid: u32,
    /// The home directory, absolute.
    pub home: String,
    /// The login shell, absolute, used when no command is given.
    pub shell: String,
}

/// One share of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The name in the root of [`SHARES_TAG`].
    pub name: String,
    /// Where the guest shows it, absolute; raw bytes.
    pub at: Vec<u8>,
    /// Whether it is a directory, or a single file.
    pub directory: bool,
    /// Whether the host lets it be changed.
    pub writable: bool,
}

/// A display server to start: a program that shows windows to whoever connects to a socket of its own.
///
/// It runs as the user, in the user's home. Connections to the guest's [`DISPLAY_PORT`] become ones to its socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Display {
    /// Programs that are started before it, each with its arguments, in the same environment: what its own commands
    /// play sound on. Their end is nobody's.
    pub beside: Vec<Vec<Vec<u8>>>,
    /// Whether programs may ask for addresses to be opened, by [`OPENER`]: see [`FromAgent::OpenUrl`].
    pub opener: bool,
    /// The program and its arguments, as of [`Run`]; not empty.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment, as of [`Run`].
    pub env: Vec<Vec<u8>>,
    /// The Unix socket that the program makes, absolute.
    pub socket: String,
}

/// What becomes of the display server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DisplayNews {
    /// A line of its output, of at most a few hundred bytes.
    Said(String),
    /// It answers.
    Ready,
    /// It could not be started.
    NotStarted {
        /// What failed.
        step: Step,
        /// The guest's error number.
        errno: i32,
    },
    /// It ended.
    Ended(End),
}

/// A command to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its name in later messages.
    pub command: CommandId,
    /// The arguments, raw bytes without NUL. `argv[0]` is looked up in the `PATH` of `env` when it holds
    /// no slash. Empty: the user's login shell.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment, each `NAME=value`, raw bytes without NUL.
    pub env: Vec<Vec<u8>>,
    /// The working directory; none: the user's home.
    pub cwd: Option<Vec<u8>>,
    /// Run as guest root instead of the ordinary user.
    pub root: bool,
    /// What its standard streams are.
    pub stdio: Stdio,
}

/// What a command's standard streams are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// A new terminal, the command's controlling one.
    Terminal(TerminalSize),
    /// Three pipes.
    Pipes,
}

/// A terminal's size, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// From the agent to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromAgent {
    /// A command runs. Its streams' connections were opened before this was sent.
    Started {
        /// Which command.
        command: CommandId,
    },
    /// A command could not be started.
    NotStarted {
        /// Which command.
        command: CommandId,
        /// What failed.
        step: Step,
        /// The guest's error number.
        errno: i32,
    },
    /// A command ended. Its output streams may still carry bytes.
    Ended {
        /// Which command.
        command: CommandId,
        /// How.
        end: End,
    },
    /// About the display server that was asked for.
    Display(DisplayNews),
    /// The answer to [`ToAgent::Ping`].
    Pong,
    /// A program asks the host to open this address, of at most [`MAX_URL`] bytes.
    OpenUrl(String),
    /// Something in the guest failed that a person should know of, at most a few hundred bytes.
    Warning(String),
}

/// What failed when a command could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Finding or executing the program.
    Execute,
    /// Entering the working directory.
    WorkingDirectory,
    /// Making its streams, user or process.
    SetUp,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// By itself, with this status (0-255).
    Exited(u8),
    /// By this signal.
    Signaled(u8),
}

/// The guest's one program, for guest root: started by this name it does what its first argument says.
pub const TOOL: &str = "/proc/1/exe";

/// The first argument of [`TOOL`] for: write to standard output what the profile on the first block device,
/// which nothing else may use, changed against the host's software, as [`Change`] frames.
pub const TOOL_DIFF: &str = "diff";

/// The longest [`Change`] frame, in bytes.
pub const MAX_CHANGE: usize = 8 << 10;

/// A difference between a profile and the host's software.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happened to the file.
    pub kind: ChangeKind,
    /// What it is; of a deleted one, what it was.
    pub file: FileKind,
    /// Its size in bytes, for regular files.
    pub size: u64,
    /// Where it is in the guest, absolute; raw bytes, at most 4,096.
    pub path: Vec<u8>,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// The host has no such file.
    Added,
    /// The host has another one, or one with another owner or other permissions.
    Changed,
    /// The host has it, and the profile hides it.
    Deleted,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, a pipe or a socket.
    Special,
}

/// Writes one frame.
pub fn write_frame<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    let mut frame = vec![0; 4];
    frame = postcard::to_extend(message, frame).map_err(io::Error::other)?;
    let length = u32::try_from(frame.len() - 4).map_err(|_| io::Error::other("frame over 4 GiB"))?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    to.write_all(&frame)
}

/// Reads one frame of at most `limit` bytes; `None` when the stream ended before its first byte.
///
/// # Errors
///
/// `InvalidData` for a frame over `limit` or one that does not decode to exactly a `T`, `UnexpectedEof`
/// for a stream that ends inside a frame, and what `from` returns.
pub fn read_frame<T: DeserializeOwned>(from: &mut impl Read, limit: usize) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    let mut have = 0;
    while have < length.len() {
        match from.read(&mut length[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("frame of {length} bytes, over the limit of {limit}"),
        ));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    match postcard::take_from_bytes(&body) {
        Ok((message, [])) => Ok(Some(message)),
        Ok((_, rest)) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} stray bytes at the end of a frame", rest.len()),
        )),
        Err(e) => Err(io::Error::new(io::ErrorKind::InvalidData, e)),
    }
}

#[cfg(test)]
mod tests;
