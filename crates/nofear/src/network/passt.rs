//! passt beside a VM: a process without rights that turns the guest's frames into sockets of this machine.
//!
//! It is started with one end of a socket pair. It confines itself (namespaces, seccomp), ends when the other end
//! is closed, however this process ends, and is killed with it.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::Context;

use super::addresses::{Addresses, PREFIX_V4};
use crate::{sys, text};

#[cfg(test)]
mod tests;

/// What to do where there is no passt.
pub const ADVICE: &str = "install passt (Debian, Ubuntu: apt install passt; Fedora: dnf install passt)";

/// The program.
const PROGRAM: &str = "passt";

/// What is shown of a line of its words, in characters.
const MAX_LINE: usize = 400;

/// What is read of its words.
const MAX_WORDS: u64 = 64 << 10;

/// A passt that runs.
pub struct Passt {
    child: Child,
    stream: UnixStream,
}

/// Where passt is.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    folders
        .chain(["/usr/bin".into(), "/usr/sbin".into()])
        .map(|folder| folder.join(PROGRAM))
        .find(|file| file.is_file())
}

impl Passt {
    /// Starts it. It is ready when it is: frames wait in the socket.
    pub fn start(program: &Path, addresses: &Addresses, mtu: u16) -> anyhow::Result<Self> {
        let (stream, theirs) = UnixStream::pair().context("make a socket for passt")?;
        let mut command = Command::new(program);
        command.args(arguments(addresses, mtu));
        command.arg("--fd").arg(theirs.as_raw_fd().to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).env_clear();
        rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).context("pass a socket to passt")?;
        sys::dies_with_this_thread(&mut command);
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        Ok(Self { child, stream })
    }

    /// The guest's end.
    pub fn stream(&self) -> anyhow::Result<UnixStream> {
        self.stream.try_clone().context("duplicate the socket to passt")
    }

    /// Tells, from a thread of its own, why it ended if it does so before the VM.
    pub fn watch(self) -> anyhow::Result<()> {
        let Self { mut child, stream } = self;
        drop(stream);
        let body = move || {
            let mut last = String::new();
            if let Some(words) = child.stderr.take() {
                for line in BufReader::new(words.take(MAX_WORDS)).split(b'\n').map_while(Result::ok) {
                    last = text::printable(&String::from_utf8_lossy(&line), MAX_LINE);
                    log::debug!("passt: {last}");
                }
            }
            let Ok(status) = child.wait() else { return };
            if !status.success() {
                log::warn!("the virtual machine has lost its network: passt ended with {status}: {last}");
            }
        };
        thread::Builder::new().name("passt".into()).spawn(body).context("start a thread")?;
        Ok(())
    }
}

/// All but the descriptor. What passt would find out of this machine is given, or switched off: the guest's
/// addresses are its own, it needs no DHCP, and the gateway's address is no other name of this machine.
fn arguments(addresses: &Addresses, mtu: u16) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["--foreground", "--quiet", "--no-map-gw", "--no-dhcp", "--no-dhcpv6", "--no-ndp", "--no-ra"]
            .map(Into::into)
            .into();
    let mut option = |name: &str, value: String| arguments.extend([name.into(), value]);
    option("--mtu", mtu.to_string());
    option("--mac-addr", addresses.gateway_mac.to_string());
    option("--dns", "none".into());
    option("--search", "none".into());
    if let Some(v4) = &addresses.v4 {
        option("--address", v4.guest.to_string());
        option("--netmask", PREFIX_V4.to_string());
        option("--gateway", v4.gateway.to_string());
    }
    if let Some(v6) = &addresses.v6 {
        option("--address", v6.guest.to_string());
        option("--gateway", v6.gateway.to_string());
    }
    // What is published does not come in by passt (see `super::publish`).
    option("--tcp-ports", "none".into());
    option("--udp-ports", "none".into());
    match (&addresses.v4, &addresses.v6) {
        (Some(_), None) => arguments.push("--ipv4-only".into()),
        (None, Some(_)) => arguments.push("--ipv6-only".into()),
        _ => {}
    }
    arguments
}
