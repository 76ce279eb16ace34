//! `--publish`: ports of this machine that lead to ports of the guest's.
//!
//! Not a packet comes in for it, whatever carries the guest's network: a client's connection to a socket of this
//! process becomes a vsock connection, which the guest's agent leads to the program. So nothing of this machine's
//! routes, rules and sysctls changes; who may bind which port is this machine's kernel's to say; and what is published
//! goes with this process, however it ends. `docs/network.md` says what else was considered.

mod datagrams;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;

use agent_proto::{Ends, MAX_PUBLISHED, PUBLISHED_PORT, Published};
use anyhow::{Context, ensure};
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use vmm::VsockListener;

use super::options::Publish;
use crate::runtime_dir::RuntimeDir;
use datagrams::{Port, Relay};

/// How many clients wait for the guest.
const BACKLOG: i32 = 128;

/// Ports of this machine that are taken, and lead nowhere yet.
pub struct Bound(Vec<(Publish, Sockets)>);

enum Sockets {
    Tcp(Vec<OwnedFd>),
    Udp(Vec<UdpSocket>),
}

/// Ports that are published when the guest is there.
pub struct Open {
    /// For the VM's vsock device.
    pub listeners: Vec<VsockListener>,
    /// For the guest's agent.
    pub guest: Vec<Published>,
    /// Clients wait until this is readable: the agent listens only later.
    pub hold: OwnedFd,
    /// Carries datagrams.
    pub relay: Relay,
}

/// Takes the ports, as the user that this is, or says in one line why it can't.
pub fn take(all: &[Publish]) -> anyhow::Result<Bound> {
    all.iter().map(|one| Ok((*one, Sockets::take(one)?))).collect::<anyhow::Result<_>>().map(Bound)
}

impl Sockets {
    fn take(publish: &Publish) -> anyhow::Result<Self> {
        if publish.udp {
            let sockets = on_each_address(publish, SocketType::DGRAM)?;
            return Ok(Self::Udp(sockets.into_iter().map(UdpSocket::from).collect()));
        }
        Ok(Self::Tcp(on_each_address(publish, SocketType::STREAM)?))
    }
}

/// A socket on the address that was given, or on this machine's loopback address of each version of IP that it has.
fn on_each_address(publish: &Publish, kind: SocketType) -> anyhow::Result<Vec<OwnedFd>> {
    let Publish { address, port, udp, .. } = *publish;
    let failed = |address: IpAddr, e: io::Error| {
        let protocol = if udp { "UDP" } else { "TCP" };
        let why = match e.kind() {
            io::ErrorKind::AddrInUse => "another program has it".into(),
            io::ErrorKind::PermissionDenied => "this machine keeps it for root".into(),
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address".into(),
            _ => e.to_string(),
        };
        anyhow::anyhow!("--publish: {protocol} port {port} of {address}: {why}")
    };
    if let Some(address) = address {
        return Ok(vec![socket(address, port, kind).map_err(|e| failed(address, e))?]);
    }
    let v4 = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let mut sockets = vec![socket(v4, port, kind).map_err(|e| failed(v4, e))?];
    match socket(v6, port, kind) {
        Ok(socket) => sockets.push(socket),
        // IPv6 is switched off, or is not there at all.
        Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => {}
        Err(e) if e.kind() == io::ErrorKind::Unsupported || e.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
        Err(e) => return Err(failed(v6, e)),
    }
    Ok(sockets)
}

/// Ready for clients. Not by the standard library: there `[::]` is IPv4 too, or not, as a sysctl says.
fn socket(address: IpAddr, port: u16, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if kind == SocketType::STREAM {
        // A port whose last client has just gone can be had again; one that somebody listens on can't.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        // Clients' sockets get it from here: what comes in pieces goes in pieces.
        sockopt::set_tcp_nodelay(&socket, true)?;
    }
    bind(&socket, &SocketAddr::new(address, port))?;
    if kind == SocketType::STREAM {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

impl Bound {
    /// Leads them to a guest with these addresses; to its loopback address if it has none.
    pub fn lead_to(self, ends: &[Ends], runtime_dir: &RuntimeDir) -> anyhow::Result<Open> {
        let hold =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("make an event descriptor")?;
        let mut open = Open { listeners: Vec::new(), guest: Vec::new(), hold, relay: Relay::default() };
        for (port, (publish, sockets)) in (PUBLISHED_PORT..).zip(self.0) {
            let v6 = publish.address.is_some_and(|address| address.is_ipv6());
            let to = SocketAddr::new(guest_address(ends, v6), publish.guest_port);
            open.guest.push(Published { port, to, udp: publish.udp });
            match sockets {
                Sockets::Tcp(sockets) => {
                    sockets.into_iter().try_for_each(|socket| open.listen(port, socket))?;
                }
                Sockets::Udp(sockets) => {
                    let (stream, theirs) = runtime_dir.connection()?;
                    open.listen(port, theirs.into())?;
                    open.relay.add(Port::new(sockets, stream));
                }
            }
        }
        ensure!(open.guest.len() <= MAX_PUBLISHED, "--publish: at most {MAX_PUBLISHED} are possible");
        Ok(open)
    }
}

impl Open {
    fn listen(&mut self, port: u32, socket: OwnedFd) -> anyhow::Result<()> {
        let hold = self.hold.try_clone().context("duplicate an event descriptor")?;
        self.listeners.push(VsockListener { port, socket, hold: Some(hold) });
        Ok(())
    }
}

/// The guest's address of the client's version of IP, or of the other.
fn guest_address(ends: &[Ends], v6: bool) -> IpAddr {
    let guest = |end: &Ends| end.guest;
    ends.iter()
        .map(guest)
        .find(|address| address.is_ipv6() == v6)
        .or_else(|| ends.first().map(guest))
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

#[cfg(test)]
mod tests;
