//! Addresses that programs in the VM would like this machine's browser to open: `--open-url ask`.
//!
//! The VM's own process can start no program once it is confined, and must not: so another one, started before, is
//! told of each address, asks the user, and opens it. What the guest says becomes an argument of a program here, so
//! it is made of the characters that an address has by RFC 3986 and begins with http(s) and a host; what is shown is
//! what would be opened. The default is no, one question is asked at a time, and who was refused three times is not
//! heard again.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use agent_proto::MAX_URL;
use anyhow::{Context, bail, ensure};
use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};

use crate::text::printable;

#[cfg(test)]
mod tests;

/// The verb of this process, which is in no help.
pub const VERB: &str = "ask-to-open-urls";

/// The most addresses of a guest's that are looked at.
const MAX_URLS: u32 = 1000;

/// After so many that are none, a guest's are not looked at any more.
const MAX_BAD: u32 = 32;

/// After so many refusals in a row, nothing is asked any more.
const MAX_REFUSALS: u32 = 3;

/// Options of [`VERB`].
#[derive(Args, Clone, Copy, Debug)]
pub struct OpenerArgs {
    /// Ask on the terminal, if there is no other way: the command in the VM does not have it
    #[arg(long)]
    terminal: bool,
}

/// The other process, as nofear sees it.
#[derive(Debug)]
pub struct Opener {
    socket: Option<UnixStream>,
    heard: u32,
    bad: u32,
}

impl Opener {
    /// Starts it. To be called before this process blocks signals. `terminal`: the command has this process's.
    pub fn start(terminal: bool) -> anyhow::Result<Self> {
        let (socket, theirs) = UnixStream::pair().context("make a socket for opening addresses")?;
        let this = std::env::current_exe().context("find this program")?;
        let mut command = Command::new(this);
        command.arg(VERB).stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        match terminal {
            // Keys of the terminal are the command's.
            true => command.process_group(0),
            false => command.arg("--terminal"),
        };
        command.spawn().context("start a process for opening addresses")?;
        socket.set_nonblocking(true).context("set a new socket up")?;
        Ok(Self { socket: Some(socket), heard: 0, bad: 0 })
    }

    /// A program of the guest's would like this to be opened.
    pub fn ask(&mut self, url: &str) {
        let Some(socket) = self.socket.as_mut().filter(|_| self.heard < MAX_URLS && self.bad < MAX_BAD)
        else {
            return;
        };
        self.heard += 1;
        match checked(url) {
            Err(e) => {
                self.bad += 1;
                log::warn!("the VM asked for an address to be opened, which is refused: {e:#}");
            }
            Ok(url) => {
                // A whole line fits, or the questions before it are waited for: then this one is not asked.
                match socket.write(format!("{url}\n").as_bytes()) {
                    Ok(count) if count == url.len() + 1 => {}
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    Ok(_) | Err(_) => {
                        self.socket = None;
                        log::warn!("addresses of the VM's are not opened any more");
                    }
                }
            }
        }
    }
}

/// An address as it is shown and opened: http or https, a host without a user's name before it, and no characters
/// but those of RFC 3986. Control characters are left out, others that are none of these are written as `%NN`.
pub fn checked(url: &str) -> anyhow::Result<String> {
    ensure!(url.len() <= MAX_URL, "it has more than {MAX_URL} bytes");
    let mut clean = String::with_capacity(url.len());
    for c in url.chars().filter(|c| !c.is_control()) {
        if c.is_ascii_alphanumeric() || "-._~:/?#[]@!$&'()*+,;=%".contains(c) {
            clean.push(c);
        } else {
            clean.extend(c.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("%{byte:02X}")));
        }
    }
    ensure!(clean.len() <= MAX_URL, "it has more than {MAX_URL} bytes");
    let shown = || printable(&clean, 80);
    let lower = clean.to_ascii_lowercase();
    let Some(rest) = ["https://", "http://"].iter().find_map(|scheme| lower.strip_prefix(scheme)) else {
        bail!("'{}' is not of http or https", shown());
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // What stands before an @ looks like a host to people.
    let is_host = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    ensure!(
        !host.is_empty() && host.chars().all(is_host),
        "'{}' names no host that is shown as it is",
        shown()
    );
    Ok(clean)
}

/// Asks, and opens, until nofear has gone. The exit status is nobody's concern.
pub fn run(args: OpenerArgs) -> u8 {
    let Ok(stdin) = rustix::io::dup(rustix::stdio::stdin()).map(UnixStream::from) else { return 1 };
    let mut lines = BufReader::new(stdin);
    let mut refusals = 0;
    while let Some(url) = next(&mut lines) {
        match ask(&url, args.terminal) {
            Ok(true) => {
                refusals = 0;
                if let Err(e) = open(&url) {
                    log::warn!("{e:#}");
                }
            }
            Ok(false) => refusals += 1,
            Err(e) => log::warn!("the VM asked for {url} to be opened, which is refused: {e:#}"),
        }
        if refusals == MAX_REFUSALS {
            log::warn!("the VM's addresses are refused from here on");
            return 0;
        }
        if !discard(&mut lines) {
            return 0;
        }
    }
    0
}

/// The next address; none: nofear has gone, or says what it never would. Its process faces the guest, so it is not
/// believed that it has looked.
fn next(lines: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    lines.take(MAX_URL as u64 + 1).read_line(&mut line).ok()?;
    let url = line.strip_suffix('\n')?;
    checked(url).ok().filter(|checked| checked == url)
}

/// Forgets what has come while a question was asked. False: nofear has gone.
fn discard(lines: &mut BufReader<UnixStream>) -> bool {
    loop {
        let buffered = lines.buffer().len();
        lines.consume(buffered);
        let mut polled = [PollFd::from_borrowed_fd(lines.get_ref().as_fd(), PollFlags::IN)];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut polled, Some(&now)) {
            Ok(0) => return true,
            Ok(_) if lines.fill_buf().is_ok_and(|bytes| !bytes.is_empty()) => {}
            _ => return false,
        }
    }
}

/// Programs that ask, the arguments before the text, and the status that is a yes; their default is a no.
const DIALOGS: [(&str, &[&str], i32); 3] = [
    (
        "zenity",
        &["--question", "--no-markup", "--default-cancel", "--width=600", "--title=nofear", "--text"],
        0,
    ),
    ("kdialog", &["--title", "nofear", "--warningcontinuecancel"], 0),
    ("xmessage", &["-center", "-title", "nofear", "-buttons", "No:1,Open:2", "-default", "No"], 2),
];

/// The user's answer.
fn ask(url: &str, terminal: bool) -> anyhow::Result<bool> {
    let text = format!("A program in a virtual machine asks to open this address in your browser:\n\n{url}");
    for (program, arguments, yes) in DIALOGS {
        let mut command = Command::new(program);
        command.args(arguments).arg(&text).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match command.status() {
            Ok(status) => return Ok(status.code() == Some(yes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).context(format!("ask with {program}")),
        }
    }
    ensure!(
        terminal,
        "there is nothing to ask you with: install zenity or kdialog (the terminal is the program's)"
    );
    ask_on_terminal(&text)
}

fn ask_on_terminal(text: &str) -> anyhow::Result<bool> {
    let open = || std::fs::File::options().read(true).write(true).open("/dev/tty");
    let mut terminal = open().context("there is nothing to ask you with: no terminal, zenity or kdialog")?;
    write!(terminal, "nofear: {text}\n\nOpen it? [y/N] ").context("ask on the terminal")?;
    let mut answer = String::new();
    BufReader::new(terminal).read_line(&mut answer).context("hear the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// In the user's browser.
fn open(url: &str) -> anyhow::Result<()> {
    let mut command = Command::new("xdg-open");
    command.arg(url).process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().context("open an address: start xdg-open (of xdg-utils)")?;
    ensure!(status.success(), "xdg-open failed: {status}");
    Ok(())
}
