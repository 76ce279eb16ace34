//! Connections to and from the host.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::kernel::last_errno;

/// How often, and how far apart, a connection is tried while the kernel has no vsock device.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(10);

/// How many connections of the host's wait until they are taken.
const BACKLOG: i32 = 16;

/// Listens on a port for connections of the host's. It does not block.
pub fn listen(port: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)?;
    let address = address(libc::VMADDR_CID_ANY, port);
    let size = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: bind() reads an address of the size that it is told.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) } != 0 {
        return Err(last_errno().into());
    }
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Opens `count` connections to a port of the host, at the same time. They do not block.
///
/// Waits up to two seconds for the vsock device: a stock kernel's module may bind its device after
/// the call that loaded it (ENODEV until then). The host listens before the guest starts, so every other
/// error is final.
pub fn dial(port: u32, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        sockets.push(start(port)?);
    }
    for socket in &sockets {
        let mut wanted = [PollFd::new(socket, PollFlags::OUT)];
        while rustix::event::poll(&mut wanted, None) == Err(Errno::INTR) {}
        rustix::net::sockopt::socket_error(socket)??;
    }
    Ok(sockets)
}

fn start(port: u32) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let mut tries = 0;
    loop {
        let socket = rustix::net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)?;
        match connect(&socket, port) {
            Ok(()) | Err(Errno::INPROGRESS) => return Ok(socket),
            Err(Errno::NODEV) if tries < TRIES => std::thread::sleep(PAUSE),
            Err(e) => return Err(e),
        }
        tries += 1;
    }
}

fn connect(socket: &OwnedFd, port: u32) -> Result<(), Errno> {
    let address = address(libc::VMADDR_CID_HOST, port);
    let size = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: connect() reads an address of the size that it is told.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: all zeros is a valid `sockaddr_vm`.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = port;
    address
}
