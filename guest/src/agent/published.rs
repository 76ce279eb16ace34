//! Published ports: the host's connections become ones to a program here. The host alone opens them.
//!
//! They end at an address of the guest's own interface, so a program that listens on the loopback address alone is
//! not published, and none takes them for connections of the guest's own.

mod datagrams;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use agent_proto::{MAX_PUBLISHED, Published};
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::{Agent, Watched};
use crate::relay::{Purpose, Relay};
pub(super) use datagrams::Flow;
use datagrams::Stream;

/// The most connections of the host's to published ports at once.
const MAX_CLIENTS: usize = 320;

/// How many connections are taken before anything else gets its turn.
const TURN: usize = 16;

/// A published port.
pub(super) struct Port {
    listener: OwnedFd,
    to: SocketAddr,
    udp: bool,
    /// Of a UDP port: the host's connection, while there is one.
    stream: Option<Stream>,
}

impl Agent<'_> {
    /// Listens for the host's connections.
    pub(super) fn publish(&mut self, all: &[Published]) {
        for &Published { port, to, udp } in all.iter().take(MAX_PUBLISHED) {
            let number = self.ports.len() as u32;
            let listening = (self.ways.listen)(port).and_then(|listener| {
                epoll::add(&self.epoll, &listener, Watched::PortListener(number).token(), EventFlags::IN)?;
                Ok(listener)
            });
            match listening {
                Ok(listener) => self.ports.push(Port { listener, to, udp, stream: None }),
                Err(e) => self.warn(&format!("publish port {}: {e}", to.port())),
            }
        }
    }

    /// Takes connections of the host's. One that nobody here takes is closed.
    pub(super) fn accept_for_port(&mut self, number: u32) {
        for _ in 0..TURN {
            let Some(port) = self.ports.get(number as usize) else { return };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(host) = rustix::net::accept_with(&port.listener, flags) else { return };
            let (to, udp) = (port.to, port.udp);
            if udp {
                self.open_stream(number, host);
            } else if self.clients() < MAX_CLIENTS
                && let Ok(local) = connect(to)
                && let Err(e) = self.add_relay(Relay::new(Purpose::Published, host, local))
            {
                self.warn(&format!("watch a connection to port {}: {e}", to.port()));
            }
        }
    }

    fn clients(&self) -> usize {
        self.relays.values().filter(|relay| relay.purpose == Purpose::Published).count()
    }
}

/// Begins a TCP connection; whether it comes about its events tell.
fn connect(to: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = socket(to, SocketType::STREAM)?;
    // What comes in pieces goes in pieces.
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(e) => Err(e),
    }
}

fn socket(to: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}
