//! The display server: its process, its output, and the way of the host's clients to its socket.
//!
//! It is ready when its socket answers, which nothing announces: between the making of the socket and the
//! moment when it answers there is no event of the file system. So it is tried whenever the server says
//! something, and servers say that they are ready.

use std::os::fd::{AsFd, OwnedFd};

use agent_proto::{
    CommandId, DISPLAY_PORT, Display as Wanted, DisplayNews, End, FromAgent, Run, Stdio, Step, User,
};
use rustix::event::epoll::{self, EventFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Signal;

use super::{Agent, Listen, Watched, command, reap};
use crate::relay::{Purpose, Relay};
use crate::spawn::{self, NotStarted, Process};

/// The most characters of a line that are passed on.
const MAX_LINE: usize = 300;

/// The most lines that are passed on.
const MAX_LINES: u32 = 1000;

/// The most connections of the host's at once.
const MAX_CLIENTS: usize = 64;

/// A display server.
pub(super) struct Display {
    pub(super) process: Process,
    listener: OwnedFd,
    socket: SocketAddrUnix,
    /// Its standard output and error; none: it has closed both.
    words: Option<OwnedFd>,
    line: Vec<u8>,
    lines: u32,
    ready: bool,
}

impl Agent<'_> {
    /// Starts the display server that the host asks for.
    pub(super) fn start_display(&mut self, wanted: &Wanted) {
        if self.display.is_some() {
            return self.warn("a display server runs already");
        }
        if wanted.opener {
            self.start_opener();
        }
        let started = start(wanted, self.user, self.ways.listen).and_then(|display| {
            match self.watch_display(&display) {
                Ok(()) => Ok(display),
                Err(e) => {
                    display.kill();
                    Err(NotStarted::at(Step::SetUp)(e))
                }
            }
        });
        match started {
            Ok(display) => self.display = Some(display),
            Err(NotStarted { step, errno }) => self
                .control
                .send(&FromAgent::Display(DisplayNews::NotStarted { step, errno: errno.raw_os_error() })),
        }
    }

    fn watch_display(&self, display: &Display) -> Result<(), Errno> {
        let watch =
            |descriptor, what: Watched| epoll::add(&self.epoll, descriptor, what.token(), EventFlags::IN);
        watch(display.process.pidfd.as_fd(), Watched::DisplayProcess)?;
        watch(display.listener.as_fd(), Watched::DisplayListener)?;
        display.words.iter().try_for_each(|words| watch(words.as_fd(), Watched::DisplayWords))
    }

    /// The display server has said something.
    pub(super) fn hear_display(&mut self) {
        if let Some(display) = &mut self.display {
            display.listen(|news| self.control.send(&FromAgent::Display(news)));
        }
    }

    /// The display server may have ended.
    pub(super) fn reap_display(&mut self) {
        let ended = self.display.as_ref().map(|display| reap(display.process.pid));
        let end = match ended {
            Some(Ok(Some(end))) => end,
            Some(Err(_)) => End::Exited(u8::MAX),
            Some(Ok(None)) | None => return,
        };
        if let Some(display) = self.display.take() {
            display.end(end, |news| self.control.send(&FromAgent::Display(news)));
        }
    }

    /// Makes a connection of the host's one to the display server.
    pub(super) fn accept_client(&mut self) {
        let Some(relay) = self.display.as_ref().and_then(Display::accept) else { return };
        if self.relays.values().filter(|relay| relay.purpose == Purpose::Display).count() >= MAX_CLIENTS {
            return;
        }
        if let Err(e) = self.add_relay(relay) {
            self.warn(&format!("watch a connection to the display server: {e}"));
        }
    }
}

fn start(wanted: &Wanted, user: &User, listen: &Listen<'_>) -> Result<Display, NotStarted> {
    let set_up = NotStarted::at(Step::SetUp);
    let errno = |e: std::io::Error| set_up(Errno::from_io_error(&e).unwrap_or(Errno::IO));
    let program = |argv: &[Vec<u8>]| {
        let run = Run {
            command: CommandId(0),
            argv: argv.to_vec(),
            env: wanted.env.clone(),
            cwd: None,
            root: false,
            stdio: Stdio::Pipes,
        };
        command::program(&run, user)
    };
    let server = program(&wanted.argv)?;
    let socket = SocketAddrUnix::new(wanted.socket.as_str()).map_err(&set_up)?;
    let listener = listen(DISPLAY_PORT).map_err(errno)?;
    let flags = rustix::pipe::PipeFlags::CLOEXEC;
    let (words, output) = rustix::pipe::pipe_with(flags).map_err(&set_up)?;
    rustix::io::ioctl_fionbio(&words, true).map_err(&set_up)?;
    let nothing = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let nothing = nothing.map_err(&set_up)?;
    let streams = [nothing.as_fd(), output.as_fd(), output.as_fd()];
    for argv in &wanted.beside {
        // Reaped as an orphan is; what it says is heard with the server's words.
        spawn::spawn(&program(argv)?, streams, false)?;
    }
    let process = spawn::spawn(&server, streams, false)?;
    Ok(Display { process, listener, socket, words: Some(words), line: Vec::new(), lines: 0, ready: false })
}

impl Display {
    /// Reads what it has said, and says what that means.
    fn listen(&mut self, mut tell: impl FnMut(DisplayNews)) {
        let mut bytes = [0_u8; 4096];
        let count = match self.words.as_ref().map(|words| rustix::io::read(words, &mut bytes)) {
            Some(Ok(count)) => count,
            Some(Err(Errno::AGAIN | Errno::INTR)) | None => return,
            Some(Err(_)) => 0,
        };
        if count == 0 {
            self.words = None;
        }
        for &byte in &bytes[..count] {
            if byte == b'\n' {
                self.tell_line(&mut tell);
            } else if self.line.len() < MAX_LINE {
                self.line.push(byte);
            }
        }
        if !self.ready && self.connect().is_ok() {
            self.ready = true;
            tell(DisplayNews::Ready);
        }
    }

    fn tell_line(&mut self, tell: &mut impl FnMut(DisplayNews)) {
        let line = std::mem::take(&mut self.line);
        self.lines += 1;
        if !line.is_empty() && self.lines <= MAX_LINES {
            tell(DisplayNews::Said(String::from_utf8_lossy(&line).into_owned()));
        }
    }

    fn connect(&self) -> Result<OwnedFd, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &self.socket)?;
        Ok(socket)
    }

    /// Takes a connection of the host's. One that the server does not take is closed.
    fn accept(&self) -> Option<Relay> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let host = rustix::net::accept_with(&self.listener, flags).ok()?;
        self.connect().ok().map(|local| Relay::new(Purpose::Display, host, local))
    }

    /// Its end, and the rest of its words.
    fn end(mut self, end: End, mut tell: impl FnMut(DisplayNews)) {
        while self.words.is_some() && has_bytes(self.words.as_ref()) {
            self.listen(&mut tell);
        }
        self.tell_line(&mut tell);
        tell(DisplayNews::Ended(end));
    }

    /// Ends one that can't be served.
    fn kill(self) {
        let _ = rustix::process::kill_process_group(self.process.pid, Signal::KILL);
    }
}

fn has_bytes(words: Option<&OwnedFd>) -> bool {
    words.is_some_and(|words| rustix::io::ioctl_fionread(words).is_ok_and(|count| count > 0))
}
