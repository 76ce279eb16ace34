//! Published UDP ports: one stream of the host's carries the datagrams of all clients of a port, and each client has a
//! socket here, so that a program tells them apart by their ports.

use std::os::fd::OwnedFd;

use agent_proto::{DATAGRAM_HEADER, Datagrams, MAX_DATAGRAM, datagram_header};
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType};

use super::socket;
use crate::agent::{Agent, BOTH_WAYS, Watched};

/// The most clients of all ports at once; the one that has been silent for longest makes room.
const MAX_FLOWS: usize = 256;

/// How many reads of a descriptor there are before anything else gets its turn.
const TURN: usize = 16;

/// No datagram is added for the host while so many bytes wait: it is lost, as datagrams may be.
const MOST_WAITING: usize = 4 * MAX_DATAGRAM;

/// The host's connection for a port.
pub(in crate::agent) struct Stream {
    socket: OwnedFd,
    incoming: Datagrams,
    /// `outgoing[sent..]` is still to go.
    outgoing: Vec<u8>,
    sent: usize,
}

/// A client.
pub(in crate::agent) struct Flow {
    port: u32,
    /// The host's number of it.
    client: u32,
    socket: OwnedFd,
    /// When it was last heard: the more, the later.
    used: u64,
}

impl Stream {
    /// Sends what waits. False: the host has gone.
    fn flush(&mut self) -> bool {
        while self.sent < self.outgoing.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.socket, &self.outgoing[self.sent..], flags) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        true
    }
}

impl Agent<'_> {
    /// The host has connected for a UDP port. It does so once.
    pub(super) fn open_stream(&mut self, number: u32, socket: OwnedFd) {
        if let Err(e) = epoll::add(&self.epoll, &socket, Watched::PortStream(number).token(), BOTH_WAYS) {
            return self.warn(&format!("watch a published port: {e}"));
        }
        if let Some(port) = self.ports.get_mut(number as usize) {
            let stream = Stream { socket, incoming: Datagrams::default(), outgoing: Vec::new(), sent: 0 };
            port.stream = Some(stream);
        }
    }

    /// The host's connection for a UDP port has news.
    pub(in crate::agent) fn hear_stream(&mut self, number: u32) {
        let mut bytes = vec![0; MAX_DATAGRAM];
        for turn in 0..=TURN {
            let Some(stream) = self.ports.get_mut(number as usize).and_then(|port| port.stream.as_mut())
            else {
                return;
            };
            let count = match rustix::net::recv(&stream.socket, &mut bytes[..], RecvFlags::DONTWAIT) {
                Ok((_, count)) => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(_) => 0,
            };
            if turn == TURN {
                // Edge-triggered: what is still there is told of anew.
                let token = Watched::PortStream(number).token();
                let _ = epoll::modify(&self.epoll, &stream.socket, token, BOTH_WAYS);
            }
            if count == 0 || !stream.flush() {
                return self.close_stream(number);
            }
            stream.incoming.add(&bytes[..count]);
            let mut incoming = std::mem::take(&mut stream.incoming);
            while let Some((client, datagram)) = incoming.take() {
                self.deliver(number, client, datagram);
            }
            if let Some(stream) = self.ports.get_mut(number as usize).and_then(|port| port.stream.as_mut()) {
                stream.incoming = incoming;
            }
        }
        let stream = self.ports.get_mut(number as usize).and_then(|port| port.stream.as_mut());
        if stream.is_some_and(|stream| !stream.flush()) {
            self.close_stream(number);
        }
    }

    fn close_stream(&mut self, number: u32) {
        if let Some(port) = self.ports.get_mut(number as usize) {
            port.stream = None;
        }
        self.flows.retain(|_, flow| flow.port != number);
    }

    /// Gives the program a client's datagram, from a socket that is the client's alone.
    fn deliver(&mut self, port: u32, client: u32, datagram: &[u8]) {
        let used = self.flows.values().map(|flow| flow.used).max().unwrap_or(0) + 1;
        let known = self.flows.values_mut().find(|flow| flow.port == port && flow.client == client);
        let flow = match known {
            Some(flow) => flow,
            None => match self.add_flow(port, client) {
                Ok(flow) => flow,
                Err(e) => return self.warn(&format!("publish a port: {e}")),
            },
        };
        flow.used = used;
        // Nobody listens there (yet), or the program's queue is full.
        let _ = rustix::net::send(&flow.socket, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    fn add_flow(&mut self, port: u32, client: u32) -> Result<&mut Flow, Errno> {
        if self.flows.len() >= MAX_FLOWS
            && let Some(oldest) = self.flows.iter().min_by_key(|(_, flow)| flow.used).map(|(&id, _)| id)
        {
            self.flows.remove(&oldest);
        }
        let to = self.ports.get(port as usize).ok_or(Errno::NOENT)?.to;
        let socket = socket(to, SocketType::DGRAM)?;
        rustix::net::connect(&socket, &to)?;
        let id = self.fresh_number();
        epoll::add(&self.epoll, &socket, Watched::Flow(id).token(), EventFlags::IN)?;
        Ok(self.flows.entry(id).or_insert(Flow { port, client, socket, used: 0 }))
    }

    /// The program has answered a client.
    pub(in crate::agent) fn hear_flow(&mut self, id: u32) {
        let mut datagram = vec![0; MAX_DATAGRAM];
        for _ in 0..TURN {
            let Some(flow) = self.flows.get(&id) else { return };
            let length = match rustix::net::recv(&flow.socket, &mut datagram[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => return,
                // An earlier datagram met nobody: that is said once, and forgotten.
                Err(_) => continue,
            };
            let (port, client) = (flow.port, flow.client);
            let Some(stream) = self.ports.get_mut(port as usize).and_then(|port| port.stream.as_mut()) else {
                return;
            };
            let waiting = stream.outgoing.len() - stream.sent;
            if waiting + DATAGRAM_HEADER + length <= MOST_WAITING {
                stream.outgoing.extend(datagram_header(client, length as u16));
                stream.outgoing.extend(&datagram[..length]);
            }
            if !stream.flush() {
                return self.close_stream(port);
            }
        }
    }
}
