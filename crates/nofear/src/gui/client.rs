//! The windows' client, as nofear sees it: through its [keeper].

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use super::keeper::{self, News};
use crate::text::printable;

/// The longest line of the keeper's; it is this program's, but what it passes on is not.
const MAX_LINE: usize = 64 << 10;

/// How long the keeper may take to end the client.
const PATIENCE: Duration = Duration::from_secs(4);

/// What to start, and with which environment alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
}

/// A client that runs, or did.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    input: Vec<u8>,
    last_words: String,
    shown: Option<bool>,
    ended: bool,
}

/// How a client ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEnd {
    /// As it does when its user closes it, or its server has gone.
    InOrder,
    /// In any other way, for people.
    Broken(String),
}

impl Client {
    /// Starts it, and what keeps it. To be called before this process blocks signals, or the client would inherit
    /// that.
    pub fn start(program: &Program, keeper_options: &[OsString]) -> anyhow::Result<Self> {
        let (socket, theirs) = UnixStream::pair().context("make a socket for the windows' client")?;
        let this = std::env::current_exe().context("find this program")?;
        let mut keeper = Command::new(this);
        keeper.arg(keeper::VERB).args(keeper_options).arg("--").args(&program.command);
        keeper.env_clear().envs(program.env.iter().map(|(name, value)| (name, value)));
        keeper.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        keeper.spawn().context("start a process for the windows' client")?;
        socket.set_nonblocking(true).context("set a new socket up")?;
        Ok(Self { socket, input: Vec::new(), last_words: String::new(), shown: None, ended: false })
    }

    /// Asks whether it shows a window; [`Self::shown`] has the answer, once it is there.
    pub fn look(&mut self) {
        // A keeper that has gone is noticed anyway.
        let _ = self.socket.write(&[keeper::LOOK]);
    }

    /// The answer, once.
    pub fn shown(&mut self) -> Option<bool> {
        self.shown.take()
    }

    /// What it says last is the reason, if there is one.
    fn broken(&self, how: &str) -> ClientEnd {
        let words = if self.last_words.is_empty() { String::new() } else { format!(": {}", self.last_words) };
        ClientEnd::Broken(format!("the client that shows the windows {how}{words}"))
    }

    /// Takes what has come; something, if it has ended.
    pub fn hear(&mut self) -> Option<ClientEnd> {
        let open = self.fill();
        while let Some(line) = self.line() {
            let end = match serde_json::from_slice(&line) {
                Ok(News::Said(line)) => {
                    self.last_words = printable(line.trim(), 300);
                    log::debug!("the windows' client: {}", self.last_words);
                    continue;
                }
                Ok(News::Shown(shown)) => {
                    self.shown = Some(shown);
                    continue;
                }
                Ok(News::Exited(0)) => ClientEnd::InOrder,
                Ok(News::Exited(status)) => self.broken(&format!("ended with status {status}")),
                Ok(News::Signaled(signal)) => self.broken(&format!("was ended by signal {signal}")),
                Ok(News::Failed(text)) => {
                    ClientEnd::Broken(format!("the client for windows: {}", printable(&text, 300)))
                }
                Err(e) => ClientEnd::Broken(format!("the keeper of the client for windows says: {e}")),
            };
            self.ended = true;
            return Some(end);
        }
        if !open && !self.ended {
            self.ended = true;
            return Some(self.broken("has gone"));
        }
        None
    }

    /// Takes what has come. False: no more will.
    fn fill(&mut self) -> bool {
        let mut bytes = [0_u8; 4096];
        while self.input.len() < MAX_LINE {
            match self.socket.read(&mut bytes) {
                Ok(0) => return false,
                Ok(count) => self.input.extend_from_slice(&bytes[..count]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        // Lines are short: there is a whole one.
        self.input.contains(&b'\n')
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.input.iter().position(|&byte| byte == b'\n')?;
        let rest = self.input.split_off(end + 1);
        Some(std::mem::replace(&mut self.input, rest))
    }

    /// Ends it, and waits until it has, for a few seconds.
    pub fn end(self) {
        let asked = self.socket.shutdown(std::net::Shutdown::Write);
        let deadline = std::time::Instant::now() + PATIENCE;
        let mut bytes = [0_u8; 4096];
        while asked.is_ok() {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let timeout = rustix::time::Timespec::try_from(left).ok();
            let mut polled = [rustix::event::PollFd::new(&self.socket, rustix::event::PollFlags::IN)];
            match rustix::event::poll(&mut polled, timeout.as_ref()) {
                Ok(0) => return log::warn!("the client for windows did not end"),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            match (&self.socket).read(&mut bytes) {
                Ok(0) => return,
                Err(e) if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    return;
                }
                _ => {}
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
impl Client {
    /// One whose keeper a test plays.
    pub fn kept_by_test(socket: UnixStream) -> Self {
        socket.set_nonblocking(true).unwrap();
        Self { socket, input: Vec::new(), last_words: String::new(), shown: None, ended: false }
    }
}
