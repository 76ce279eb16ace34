//! Published UDP ports: a thread between their sockets and a stream to the guest for each.
//!
//! The guest answers by a client's number, which is good for as long as the client is not silent for three minutes:
//! it can send to nobody who has not sent first.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use agent_proto::{DATAGRAM_HEADER, Datagrams, MAX_DATAGRAM, datagram_header};
use anyhow::Context;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use vmm::ThreadKind;

/// The most clients of a port; the one that has been silent for longest makes room.
const MAX_CLIENTS: usize = 256;

/// How long a client's number is good after its last datagram.
const LIFE: Duration = Duration::from_secs(180);

/// How many datagrams or reads there are of a descriptor before anything else gets its turn.
const TURN: usize = 32;

/// No datagram is added for the guest while so many bytes wait: it is lost, as datagrams may be.
const MOST_WAITING: usize = 4 * MAX_DATAGRAM;

/// The ports that a thread carries datagrams for.
#[derive(Default)]
pub struct Relay(Vec<Port>);

impl Relay {
    pub(super) fn add(&mut self, port: Port) {
        self.0.push(port);
    }

    /// Starts the thread if there is anything to carry. It ends with the VM's vsock device.
    pub fn start(self) -> anyhow::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let body = move || {
            if let Err(e) = vmm::confine_thread(ThreadKind::Control) {
                log::error!("the thread of published UDP ports can't be confined, so it does not start: {e}");
                return;
            }
            if let Err(e) = self.carry() {
                log::warn!("published UDP ports lead nowhere any more: {e}");
            }
        };
        thread::Builder::new().name("publish".into()).spawn(body).context("start a thread")?;
        Ok(())
    }

    fn carry(mut self) -> io::Result<()> {
        let mut buffer = vec![0; MAX_DATAGRAM];
        while !self.0.is_empty() {
            let ready = self.wait()?;
            let mut ready = ready.iter().copied();
            self.0.retain_mut(|port| {
                for at in 0..port.sockets.len() {
                    if ready.next() == Some(true) {
                        port.hear_clients(at, &mut buffer);
                    }
                }
                ready.next() != Some(true) || port.hear_guest(&mut buffer)
            });
        }
        Ok(())
    }

    /// Which descriptors have something: each port's sockets, then its stream.
    fn wait(&self) -> io::Result<Vec<bool>> {
        let mut fds = Vec::new();
        for port in &self.0 {
            fds.extend(port.sockets.iter().map(|one| PollFd::from_borrowed_fd(one.as_fd(), PollFlags::IN)));
            let room = if port.waiting() > 0 { PollFlags::OUT } else { PollFlags::empty() };
            fds.push(PollFd::from_borrowed_fd(port.stream.as_fd(), PollFlags::IN | room));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
    }
}

/// A published UDP port.
pub struct Port {
    /// One for each address of this machine.
    sockets: Vec<UdpSocket>,
    /// To the guest.
    stream: UnixStream,
    incoming: Datagrams,
    /// `outgoing[sent..]` is still to go.
    outgoing: Vec<u8>,
    sent: usize,
    numbers: BTreeMap<(usize, SocketAddr), u32>,
    clients: BTreeMap<u32, Client>,
    next: u32,
}

struct Client {
    socket: usize,
    address: SocketAddr,
    heard: Instant,
}

impl Port {
    pub(super) fn new(sockets: Vec<UdpSocket>, stream: UnixStream) -> Self {
        Self {
            sockets,
            stream,
            incoming: Datagrams::default(),
            outgoing: Vec::new(),
            sent: 0,
            numbers: BTreeMap::new(),
            clients: BTreeMap::new(),
            next: 0,
        }
    }

    fn waiting(&self) -> usize {
        self.outgoing.len() - self.sent
    }

    /// Takes clients' datagrams for the guest.
    fn hear_clients(&mut self, at: usize, buffer: &mut [u8]) {
        for _ in 0..TURN {
            let (length, sender) = match self.sockets[at].recv_from(buffer) {
                Ok(received) => received,
                // An answer that met nobody is told here, too.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(_) => break,
            };
            let number = self.number(at, sender, Instant::now());
            if self.waiting() + DATAGRAM_HEADER + length <= MOST_WAITING {
                self.outgoing.extend(datagram_header(number, length as u16));
                self.outgoing.extend(&buffer[..length]);
            }
        }
        // Its end shows when it is read.
        let _ = self.flush();
    }

    fn number(&mut self, socket: usize, address: SocketAddr, now: Instant) -> u32 {
        if let Some(number) = self.numbers.get(&(socket, address))
            && let Some(client) = self.clients.get_mut(number)
            && now.duration_since(client.heard) < LIFE
        {
            client.heard = now;
            return *number;
        }
        if self.clients.len() >= MAX_CLIENTS
            && let Some(oldest) =
                self.clients.iter().min_by_key(|(_, client)| client.heard).map(|(&number, _)| number)
        {
            self.forget(oldest);
        }
        if let Some(&old) = self.numbers.get(&(socket, address)) {
            self.forget(old);
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.numbers.insert((socket, address), number);
        self.clients.insert(number, Client { socket, address, heard: now });
        number
    }

    fn forget(&mut self, number: u32) {
        if let Some(Client { socket, address, .. }) = self.clients.remove(&number) {
            self.numbers.remove(&(socket, address));
        }
    }

    /// Takes the guest's answers. False: there will be none any more.
    fn hear_guest(&mut self, buffer: &mut [u8]) -> bool {
        for _ in 0..TURN {
            let count = match recv(&self.stream, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return false,
                Ok((_, count)) => count,
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => return false,
            };
            self.incoming.add(&buffer[..count]);
            let now = Instant::now();
            while let Some((number, datagram)) = self.incoming.take() {
                let Some(client) = self.clients.get(&number) else { continue };
                if now.duration_since(client.heard) < LIFE {
                    // Lost, as datagrams may be.
                    let _ = self.sockets[client.socket].send_to(datagram, client.address);
                }
            }
        }
        self.flush().is_ok()
    }

    fn flush(&mut self) -> Result<(), rustix::io::Errno> {
        while self.waiting() > 0 {
            match send(&self.stream, &self.outgoing[self.sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
