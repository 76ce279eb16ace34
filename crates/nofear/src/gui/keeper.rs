//! The process that keeps the windows' client: it starts it, tells of it, and ends it when nofear has gone.
//!
//! The VM's own process can start no program once it is confined, and must not: so this one, a second nofear, is
//! started before. Its standard input is a socket whose other end nofear holds. It tells the client's words and end
//! there, in lines of JSON. A byte that comes from there asks whether a window is shown; any other, and its end, ask for
//! the client's end.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, kill_process_group, pidfd_open, setrlimit, setsid,
};
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};

use super::{pulse, sandbox, shown};
use crate::json;

/// The verb of this process, which is in no help.
pub const VERB: &str = "keep-window-client";

/// How long the client may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most memory of the client's own, in bytes: many times of what it needs, and less than what would hurt.
const MOST_MEMORY: u64 = 3 << 30;

/// The most bytes of one line that are passed on.
const MAX_LINE: usize = 300;

/// The most lines that are passed on: what the client says may be what its server says.
const MAX_LINES: u32 = 1000;

/// Options of [`VERB`].
#[derive(Args, Debug)]
pub struct KeeperArgs {
    /// Confine the client by Landlock
    #[arg(long)]
    landlock: bool,

    /// What it may read and execute
    #[arg(long, requires = "landlock")]
    readable: Vec<PathBuf>,

    /// The port that it may connect to
    #[arg(long, requires = "landlock")]
    tcp_port: Option<u16>,

    /// Let the client to a sound server: where it connects to
    #[arg(long, requires = "sound_server")]
    sound_socket: Option<PathBuf>,

    /// And where the sound server is
    #[arg(long, requires = "sound_socket")]
    sound_server: Option<PathBuf>,

    /// Let it record, too
    #[arg(long, requires = "sound_server")]
    microphone: bool,

    /// How the titles of its windows begin
    #[arg(long, default_value_t)]
    titles: String,

    /// The client and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

/// What is told of the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum News {
    /// A line of its output.
    Said(String),
    /// Whether a window of its is shown, which was asked for.
    Shown(bool),
    /// It could not be started.
    Failed(String),
    /// It ended by itself.
    Exited(i32),
    /// A signal ended it.
    Signaled(i32),
}

/// Asks whether a window is shown.
pub const LOOK: u8 = b'?';

/// Keeps a client until it has ended. The exit status is nobody's concern.
pub fn run(args: KeeperArgs) -> u8 {
    let Ok(socket) = rustix::io::dup(rustix::stdio::stdin()).map(UnixStream::from) else { return 1 };
    // Without the terminal, a client that a guest has taken over can't type into it.
    let alone = setsid().map(drop).context("leave the terminal");
    let started = alone.and_then(|()| serve_sound(&args)).and_then(|()| confine(&args));
    if let Err(e) = started.and_then(|()| keep(args, &socket)) {
        let _ = tell(&socket, &News::Failed(format!("{e:#}")));
    }
    0
}

/// Opens the client's way to the sound server. Its thread was started before the process was confined, and is not:
/// Landlock holds those who enter it, and what they start.
fn serve_sound(args: &KeeperArgs) -> anyhow::Result<()> {
    let (Some(socket), Some(server)) = (&args.sound_socket, &args.sound_server) else { return Ok(()) };
    pulse::serve(socket, server.clone(), args.microphone)
        .with_context(|| format!("make {}", socket.display()))
}

/// Confines this process, and so the client.
fn confine(args: &KeeperArgs) -> anyhow::Result<()> {
    let limit = |resource, most| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    limit(Resource::Data, MOST_MEMORY).context("limit the memory of the windows' client")?;
    limit(Resource::Core, 0).context("limit core dumps")?;
    if args.landlock {
        sandbox::enter(&args.readable, args.tcp_port).context("confine the windows' client")?;
    }
    Ok(())
}

fn keep(args: KeeperArgs, socket: &UnixStream) -> anyhow::Result<()> {
    let mut arguments = args.command.into_iter();
    let titles = args.titles;
    let program = arguments.next().context("no client is named")?;
    let (words, output) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("make a pipe")?;
    let again = output.try_clone().context("duplicate a pipe")?;
    let mut command = Command::new(&program);
    // A group of its own: keys of the terminal are the command's, and what the client starts ends with it.
    command.args(arguments).process_group(0).stdin(Stdio::null()).stdout(output).stderr(again);
    let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
    // With copies of the pipe's end here, the end of its output would never be seen.
    drop(command);
    let pid = Pid::from_child(&child);
    let ended = pidfd_open(pid, PidfdFlags::empty()).context("watch the client")?;
    Keeper { child, ended, words: Some(words), line: Vec::new(), lines: 0, socket, titles, look: None }
        .keep(pid)
        .context("keep the client")
}

struct Keeper<'a> {
    child: Child,
    ended: OwnedFd,
    words: Option<OwnedFd>,
    line: Vec<u8>,
    lines: u32,
    socket: &'a UnixStream,
    titles: String,
    /// What a look at the display has found comes out here: a byte, or none.
    look: Option<OwnedFd>,
}

impl Keeper<'_> {
    fn keep(mut self, pid: Pid) -> io::Result<()> {
        let mut deadline = None;
        loop {
            let left = deadline.map(|deadline: Instant| deadline.saturating_duration_since(Instant::now()));
            let socket = deadline.is_none().then(|| self.socket.as_fd());
            let [words, look] = [&self.words, &self.look].map(|one| one.as_ref().map(AsFd::as_fd));
            let [has_words, has_ended, is_asked, has_looked] =
                wait([words, Some(self.ended.as_fd()), socket, look], left)?;
            if has_words && !self.hear() {
                self.words = None;
            }
            if has_ended {
                let status = self.child.wait()?;
                // What it has started and left.
                let _ = kill_process_group(pid, Signal::KILL);
                while self.words.is_some()
                    && wait([self.words.as_ref().map(AsFd::as_fd)], Some(Duration::ZERO))?[0]
                    && self.hear()
                {}
                self.end_line();
                let _ = tell(self.socket, &news_of(status));
                return Ok(());
            }
            if has_looked {
                self.has_looked();
            }
            if is_asked && !self.is_to_look() {
                let _ = kill_process_group(pid, Signal::TERM);
                deadline = Some(Instant::now() + PATIENCE);
            } else if left.is_some_and(|left| left.is_zero()) {
                let _ = kill_process_group(pid, Signal::KILL);
            }
        }
    }

    /// Whether it was asked whether a window is shown. Then that is found out beside the client's life: a display that
    /// does not answer must not keep it from ending.
    fn is_to_look(&mut self) -> bool {
        let mut byte = [0];
        if !matches!(rustix::io::read(self.socket, &mut byte), Ok(1) if byte[0] == LOOK) {
            return false;
        }
        let Ok((found, tell)) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) else {
            return true;
        };
        let titles = self.titles.clone();
        let started = std::thread::Builder::new().name("look".into()).spawn(move || {
            if let Ok(is_shown) = shown::any(&titles) {
                let _ = rustix::io::write(&tell, &[is_shown.into()]);
            }
        });
        self.look = started.ok().map(|_| found);
        true
    }

    fn has_looked(&mut self) {
        let mut byte = [0];
        let found = self.look.take().map(|look| rustix::io::read(look, &mut byte));
        // Without an answer, as of a display that is none of X's, there is nothing to tell.
        if found == Some(Ok(1)) {
            let _ = tell(self.socket, &News::Shown(byte[0] != 0));
        }
    }

    /// False: there will be no more.
    fn hear(&mut self) -> bool {
        let Some(words) = &self.words else { return false };
        let mut bytes = [0_u8; 4096];
        let Ok(count) = rustix::io::read(words, &mut bytes) else { return false };
        for &byte in &bytes[..count] {
            if byte == b'\n' {
                self.end_line();
            } else if self.line.len() < MAX_LINE {
                self.line.push(byte);
            }
        }
        count > 0
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.lines = self.lines.saturating_add(1);
        if !line.is_empty() && self.lines <= MAX_LINES {
            // Nobody hears it: then the end of the socket is seen next.
            let _ = tell(self.socket, &News::Said(String::from_utf8_lossy(&line).into_owned()));
        }
    }
}

fn news_of(status: ExitStatus) -> News {
    status.signal().map_or_else(|| News::Exited(status.code().unwrap_or_default()), News::Signaled)
}

fn tell(mut socket: &UnixStream, news: &News) -> io::Result<()> {
    socket.write_all(&json::line(news)?)
}

/// Which of these can be read.
fn wait<const N: usize>(
    descriptors: [Option<BorrowedFd<'_>>; N],
    left: Option<Duration>,
) -> io::Result<[bool; N]> {
    let timeout = left.and_then(|left| Timespec::try_from(left).ok());
    let mut polled: Vec<PollFd<'_>> = descriptors
        .iter()
        .flatten()
        .map(|&descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
        .collect();
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(e.into()),
    }
    let mut results = polled.iter().map(|polled| !polled.revents().is_empty());
    Ok(descriptors.map(|descriptor| descriptor.is_some() && results.next().unwrap_or(false)))
}

#[cfg(test)]
mod tests;
