//! A tap beside a VM, made by a helper that may: this process only gets its descriptor.
//!
//! The helper is a copy of this very program with CAP_NET_ADMIN on its file, made by `nofear setup`; see
//! [`crate::helper`] for its side. It lives as long as this process holds the other end of its socket, and takes
//! everything back then.

pub mod protocol;

use std::io::{self, BufRead, BufReader, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::{helper, json};
use protocol::{MAX_LINE, Ready, Reply, Request};

/// How long the helper may take: it runs nft a few times, and may wait for others that do.
const PATIENCE: Duration = Duration::from_secs(30);

/// A tap that is there, and the helper that takes it away.
pub struct Tap {
    /// The tap, one descriptor for each queue.
    pub queues: Vec<OwnedFd>,
    /// What was made.
    pub ready: Ready,
    /// Beside the VM.
    pub helper: Helper,
}

/// A helper that runs.
pub struct Helper {
    child: Child,
    socket: UnixStream,
}

/// Whether `nofear setup` was done.
pub fn is_set_up() -> bool {
    Path::new(helper::PROGRAM).is_file()
}

/// Asks for a tap.
///
/// # Errors
///
/// The helper can't be started or refuses; the text says why.
pub fn open(request: &Request) -> anyhow::Result<Tap> {
    let (socket, theirs) = UnixStream::pair().context("make a socket for the network's helper")?;
    let mut command = Command::new(helper::PROGRAM);
    command.arg(helper::VERB).stdin(Stdio::from(OwnedFd::from(theirs)));
    // Its own group: Ctrl-C at the terminal is for the command, and the helper has to take the tap back after it.
    command.stdout(Stdio::null()).stderr(Stdio::null()).env_clear().current_dir("/").process_group(0);
    let child = command.spawn().with_context(|| format!("start {}", helper::PROGRAM))?;
    drop(command);
    let helper = Helper { child, socket };
    let (reply, queues) = ask(&helper.socket, request).context("talk to the network's helper")?;
    match reply {
        Reply::Ready(ready) if !queues.is_empty() => Ok(Tap { queues, ready, helper }),
        Reply::Ready(_) => bail!("the network's helper sent no tap"),
        Reply::Refused { text } => bail!("{text}"),
    }
}

fn ask(mut socket: &UnixStream, request: &Request) -> anyhow::Result<(Reply, Vec<OwnedFd>)> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(&json::line(request)?)?;
    let (mut bytes, mut queues) = (Vec::new(), Vec::new());
    while !bytes.ends_with(b"\n") {
        let mut chunk = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(protocol::MAX_QUEUES))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let length = match recvmsg(socket, &mut [IoSliceMut::new(&mut chunk)], &mut control, flags) {
            Ok(received) => received.bytes,
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::AGAIN) => bail!("it does not answer"),
            Err(e) => return Err(io::Error::from(e).into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                queues.extend(descriptors);
            }
        }
        if length == 0 || bytes.len() > MAX_LINE {
            bail!("it ended without an answer; is it of another version? 'sudo nofear setup' renews it");
        }
        bytes.extend(&chunk[..length]);
    }
    let reply =
        serde_json::from_slice(&bytes).context("it is of another version; 'sudo nofear setup' renews it")?;
    Ok((reply, queues))
}

impl Helper {
    /// Tells, from a thread of its own, when it ends before the VM: the tap goes on, and what it leaves behind is
    /// taken back by the next one.
    pub fn watch(self) -> anyhow::Result<()> {
        let Self { mut child, socket } = self;
        socket.set_read_timeout(None).context("wait for the network's helper")?;
        let body = move || {
            // It says nothing more; this is the end of it.
            let _ = BufReader::new(socket.take(1)).fill_buf();
            if let Ok(status) = child.wait() {
                log::warn!("the network's helper has ended with {status}; the network goes on");
            }
        };
        thread::Builder::new().name("tap".into()).spawn(body).context("start a thread")?;
        Ok(())
    }
}
