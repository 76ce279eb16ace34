//! Addresses that programs ask the host to open.
//!
//! A folder of the agent's has a program that programs find as the browser for http and https, by its entry and by
//! `$BROWSER`. It sends the address here, a datagram each, and the host asks its user.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use agent_proto::{FromAgent, MAX_URL, OPENER, OPENER_PROGRAM};
use rustix::event::epoll::{self, EventFlags};

use super::{Agent, Watched};

/// The socket's name in the folder.
const SOCKET: &str = "socket";

/// The entry, and that it is the one for addresses of the web.
const ENTRY: &str = "nofear-open-url.desktop";

/// The most addresses that are passed on; the host hears no more.
const MAX_URLS: u32 = 1000;

/// Where addresses come in.
pub(super) struct Opener {
    socket: UnixDatagram,
    heard: u32,
}

impl Agent<'_> {
    /// Makes what programs ask by.
    pub(super) fn start_opener(&mut self) {
        let opener = make(Path::new(OPENER)).and_then(|opener| {
            epoll::add(&self.epoll, &opener.socket, Watched::Opener.token(), EventFlags::IN)?;
            Ok(opener)
        });
        match opener {
            Ok(opener) => self.opener = Some(opener),
            Err(e) => self.warn(&format!("make {OPENER}, by which addresses are opened: {e}")),
        }
    }

    /// Passes on what has come.
    pub(super) fn hear_opener(&mut self) {
        let Some(opener) = &mut self.opener else { return };
        // One more byte tells an address that is too long.
        let mut bytes = [0; MAX_URL + 1];
        let Ok(count) = opener.socket.recv(&mut bytes) else { return };
        opener.heard = opener.heard.saturating_add(1);
        if count <= MAX_URL && opener.heard <= MAX_URLS {
            let url = String::from_utf8_lossy(&bytes[..count]).into_owned();
            self.control.send(&FromAgent::OpenUrl(url));
        }
    }
}

fn make(folder: &Path) -> io::Result<Opener> {
    fs::create_dir(folder)?;
    fs::create_dir(folder.join("applications"))?;
    let program = folder.join(OPENER_PROGRAM);
    // The first process's own file has no name that others reach.
    fs::copy("/proc/self/exe", &program)?;
    let entry = format!(
        "[Desktop Entry]\nType=Application\nName=Browser of the host\nNoDisplay=true\nExec={} %u\n\
         MimeType=x-scheme-handler/http;x-scheme-handler/https;\n",
        program.display()
    );
    fs::write(folder.join("applications").join(ENTRY), entry)?;
    let defaults =
        format!("[Default Applications]\nx-scheme-handler/http={ENTRY}\nx-scheme-handler/https={ENTRY}\n");
    fs::write(folder.join("mimeapps.list"), defaults)?;
    let socket = UnixDatagram::bind(folder.join(SOCKET))?;
    socket.set_nonblocking(true)?;
    // The agent's umask is zero.
    for (path, mode) in [
        (folder, 0o755),
        (&folder.join("applications"), 0o755),
        (&program, 0o755),
        (&folder.join(SOCKET), 0o666),
    ] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(Opener { socket, heard: 0 })
}

/// What the program in the folder does: sends one address.
pub fn send(url: Option<&OsStr>) -> io::Result<()> {
    let url = url.ok_or_else(|| io::Error::other("an address is needed"))?.as_bytes();
    if url.len() > MAX_URL {
        return Err(io::Error::other("the address is too long"));
    }
    let socket = UnixDatagram::unbound()?;
    socket.send_to(url, Path::new(OPENER).join(SOCKET))?;
    Ok(())
}
