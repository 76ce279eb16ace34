//! Finds running VMs, and talks to one.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt::socket_peercred};
use serde::Serialize;

use super::protocol::{Ask, Event, MAX_LINE, Request, Status};
use crate::json;
use crate::runtime_dir::{self, CONTROL_SOCKET, SOUND_SOCKET, WINDOWS_SOCKET};

/// How long a VM may take to answer. Its session waits for nothing, so it answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// A VM that runs.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Its name.
    pub id: String,
    socket: PathBuf,
}

impl Vm {
    /// All of the user's.
    pub fn all() -> anyhow::Result<Vec<Self>> {
        let vms = runtime_dir::living()?.into_iter();
        Ok(vms.map(|(id, folder)| Self { id, socket: folder.join(CONTROL_SOCKET) }).collect())
    }

    /// The one with this name or profile, if it runs.
    pub fn find(name: &str) -> anyhow::Result<Option<Self>> {
        let all = Self::all()?;
        if let Some(vm) = all.iter().find(|vm| vm.id == name) {
            return Ok(Some(vm.clone()));
        }
        let has_profile =
            |vm: &Self| vm.status().is_ok_and(|(status, _)| status.profile.as_deref() == Some(name));
        Ok(all.into_iter().find(has_profile))
    }

    /// The one with this name or profile, or what to do.
    pub fn open(name: &str) -> anyhow::Result<Self> {
        let found = Self::find(name)?;
        found.with_context(|| {
            format!("no VM runs that is {name}, or has a profile {name}; 'nofear ps' shows those there are")
        })
    }

    /// Where its windows are to be had, if it has any.
    pub fn windows_socket(&self) -> PathBuf {
        self.socket.with_file_name(WINDOWS_SOCKET)
    }

    /// Where a client for its windows reaches the sound server.
    pub fn sound_socket(&self) -> PathBuf {
        self.socket.with_file_name(SOUND_SOCKET)
    }

    /// Whether it still is there.
    pub fn lives(&self) -> anyhow::Result<bool> {
        Ok(runtime_dir::living()?.iter().any(|(id, _)| *id == self.id))
    }

    /// What it is, and the number of its process.
    pub fn status(&self) -> anyhow::Result<(Status, u32)> {
        let mut channel = self.ask(Ask::Status)?;
        match channel.next()? {
            Some(Event::Status(status)) => Ok((status, channel.pid()?)),
            Some(Event::Error { text }) => bail!("the VM {} refused: {text}", self.id),
            other => bail!("the VM {} answered {other:?}", self.id),
        }
    }

    /// Opens a connection for a request.
    pub fn ask(&self, ask: Ask) -> anyhow::Result<Channel> {
        let socket = UnixStream::connect(&self.socket);
        let socket = socket.with_context(|| format!("reach the VM {}", self.id))?;
        socket.set_read_timeout(Some(PATIENCE)).context("set a time limit")?;
        socket.set_write_timeout(Some(PATIENCE)).context("set a time limit")?;
        let mut channel = Channel::new(socket);
        channel.send(&Request::from(ask))?;
        Ok(channel)
    }
}

/// A connection to a VM.
pub struct Channel {
    reader: BufReader<Receiver>,
}

/// A socket, and the descriptors that have come by it.
struct Receiver {
    socket: UnixStream,
    descriptors: VecDeque<OwnedFd>,
}

impl Channel {
    /// A connection that has just been made.
    pub fn new(socket: UnixStream) -> Self {
        Self { reader: BufReader::new(Receiver { socket, descriptors: VecDeque::new() }) }
    }

    /// The number of the VM's process.
    pub fn pid(&self) -> anyhow::Result<u32> {
        let peer = socket_peercred(&self.reader.get_ref().socket).context("learn the VM's process")?;
        Ok(peer.pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// The socket, after which no line is read any more, and what has come of it already.
    pub fn into_socket(self) -> (UnixStream, Vec<u8>) {
        let buffered = self.reader.buffer().to_vec();
        (self.reader.into_inner().socket, buffered)
    }

    /// Waits without a limit from here on.
    pub fn wait_for_ever(&self) -> anyhow::Result<()> {
        self.reader.get_ref().socket.set_read_timeout(None).context("take the time limit away")
    }

    /// Sends a line.
    pub fn send<T: Serialize>(&mut self, message: &T) -> anyhow::Result<()> {
        let line = json::line(message).context("write a request")?;
        ensure!(line.len() <= MAX_LINE, "the arguments and the environment are too long");
        (&self.reader.get_ref().socket).write_all(&line).context("write to the VM")
    }

    /// The next event; `None`: the VM has closed the connection.
    pub fn next(&mut self) -> anyhow::Result<Option<Event>> {
        let mut line = String::new();
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        match self.reader.by_ref().take(limit).read_line(&mut line) {
            Ok(_) if line.ends_with('\n') => {}
            Ok(_) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                bail!("the VM has not answered for {} s", PATIENCE.as_secs())
            }
            Err(e) => return Err(e).context("read from the VM"),
        }
        serde_json::from_str(&line).map(Some).with_context(|| format!("read {}", line.trim_end()))
    }

    /// Whether [`Self::next`] has something that polling would not tell of.
    pub fn has_buffered(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }

    /// The socket that came with an [`Event::Stream`].
    pub fn stream(&mut self) -> anyhow::Result<UnixStream> {
        let descriptor = self.reader.get_mut().descriptors.pop_front();
        descriptor.map(UnixStream::from).context("the VM sent a stream without its socket")
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.get_ref().socket.as_fd()
    }
}

impl Read for Receiver {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let bytes = loop {
            let mut buffers = [IoSliceMut::new(into)];
            match recvmsg(&self.socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                result => break result?.bytes,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        Ok(bytes)
    }
}
