//! The device: its configuration, and what wakes it.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::{
    io::{Errno, ioctl_fionbio},
    net::{SocketFlags, accept_with},
};
use virtio::{Activation, Device, DeviceKind, EventFd, EventOps, EventSet, Events, QueueError};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK};

use crate::{door::Door, session::Session, table::Place};

/// Entries of each queue.
const QUEUE_SIZE: u16 = 256;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// Data of events: a connection's place, or from here a listener's number, or our own wake-up.
const FIRST_LISTENER: u32 = 1 << 12;
const MAX_LISTENERS: usize = 1 << 12;
/// And from here what a listener waits for.
const FIRST_HOLD: u32 = 1 << 13;
const AGAIN: u32 = (1 << 16) - 1;

/// How many connections are accepted before the event loop gets its turn.
const ACCEPTED_AT_ONCE: usize = 64;

/// What a vsock device connects.
#[derive(Debug)]
pub struct Config {
    /// The guest's context ID: from 3 to `u32::MAX - 1` (virtio 1.2, 5.10.4).
    pub cid: u32,
    /// Ports of the guest, each with a socket of the host whose clients it gets; at most 4,096.
    pub listen: Vec<Listen>,
    /// Ports of CID 2 that programs of the guest may connect to, and what is behind each; all others are refused.
    pub connect: HashMap<u32, Door>,
}

/// A port of the guest, and the socket of the host whose clients it gets.
///
/// Clients wait in the backlog until the guest's driver is ready, and are closed when the guest refuses them. They also
/// wait while there are so many connections that no more than a quarter of all places is left: whoever can connect
/// here must not keep the guest's own connections out.
#[derive(Debug)]
pub struct Listen {
    /// The guest's port.
    pub port: u32,
    /// Who connects here talks to it: a stream socket that listens, of Unix or TCP.
    pub socket: OwnedFd,
    /// Until this is readable, clients wait in the backlog in any case: for a program of the guest's that is known
    /// to listen only later.
    pub hold: Option<EventFd>,
}

impl Listen {
    /// Clients go to the guest as soon as its driver is ready.
    pub fn new(port: u32, socket: impl Into<OwnedFd>) -> Self {
        Self { port, socket: socket.into(), hold: None }
    }
}

/// Why a [`Config`] is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A context ID that no guest can have.
    #[error("vsock context ID {0} is reserved: use 3 to 4294967294")]
    Cid(u32),
    /// More listeners than the device serves.
    #[error("{0} vsock listeners: at most 4096 are served")]
    Listeners(usize),
    /// A listener can't be used without waiting.
    #[error("set up the listener for vsock port {port}")]
    Listener {
        /// The guest's port.
        port: u32,
        /// What the system said.
        source: io::Error,
    },
    /// No more descriptors.
    #[error("create an event descriptor for a vsock device")]
    Event(#[source] io::Error),
}

/// A virtio socket device; see the [crate's documentation](crate).
#[derive(Debug)]
pub struct Vsock {
    cid: u32,
    listeners: Vec<Listener>,
    doors: HashMap<u32, Door>,
    /// Wakes the device itself, when it stopped in the middle of much work.
    again: EventFd,
    session: Option<Session>,
}

#[derive(Debug)]
struct Listener {
    port: u32,
    socket: OwnedFd,
    /// While there is one, nobody is accepted.
    hold: Option<EventFd>,
    /// Someone may wait in the backlog: no event says so again.
    ready: bool,
    /// Someone does, until a connection ends.
    waits_for_place: bool,
}

impl Vsock {
    /// A device that is ready to be connected.
    ///
    /// # Errors
    ///
    /// What [`ConfigError`] lists.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        if !(3..u32::MAX).contains(&config.cid) {
            return Err(ConfigError::Cid(config.cid));
        }
        if config.listen.len() > MAX_LISTENERS {
            return Err(ConfigError::Listeners(config.listen.len()));
        }
        let mut listeners = Vec::with_capacity(config.listen.len());
        for Listen { port, socket, hold } in config.listen {
            ioctl_fionbio(&socket, true).map_err(|e| ConfigError::Listener { port, source: e.into() })?;
            listeners.push(Listener { port, socket, hold, ready: false, waits_for_place: false });
        }
        let again = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(ConfigError::Event)?;
        Ok(Self { cid: config.cid, listeners, doors: config.connect, again, session: None })
    }

    /// Does what there is to do, and tells the driver once.
    fn work(&mut self, transmit: bool, events: &mut EventOps) -> Result<(), QueueError> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let mut more = transmit && session.take_packets(&self.doors, events)?;
        for listener in self.listeners.iter_mut().filter(|listener| listener.ready && listener.hold.is_none())
        {
            more |= listener.accept(session, events);
        }
        more |= session.give_packets(events)?;
        more |= session.takes_clients() && self.listeners.iter().any(|listener| listener.waits_for_place);
        session.announce()?;
        if more {
            // Fails only when the counter is full, and then it wakes us anyway.
            let _ = self.again.write(1);
        }
        Ok(())
    }
}

impl Listener {
    /// Takes who waits; true when there may be more.
    fn accept(&mut self, session: &mut Session, events: &mut EventOps) -> bool {
        for _ in 0..ACCEPTED_AT_ONCE {
            self.waits_for_place = !session.takes_clients();
            if self.waits_for_place {
                return false;
            }
            match accept_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => session.accepted(self.port, socket, events),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => {
                    self.ready = false;
                    return false;
                }
                // No descriptor left, most likely: they wait until something else happens here, such as
                // the end of a connection.
                Err(e) => {
                    log::debug!("vsock: can't accept for guest port {}: {e}", self.port);
                    return false;
                }
            }
        }
        true
    }
}

impl Device for Vsock {
    fn kind(&self) -> DeviceKind {
        DeviceKind(19)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 3]
    }

    /// The guest's context ID (virtio 1.2, 5.10.4).
    fn config(&self) -> Vec<u8> {
        u64::from(self.cid).to_le_bytes().to_vec()
    }

    fn activate(&mut self, live: Activation, events: &mut EventOps) -> io::Result<()> {
        let session = Session::new(self.cid, live);
        self.session = Some(session.ok_or(io::ErrorKind::InvalidInput)?);
        events.add(Events::with_data(&self.again, AGAIN, EventSet::IN)).map_err(io::Error::other)?;
        let set = EventSet::IN | EventSet::EDGE_TRIGGERED;
        for (listener, data) in self.listeners.iter_mut().zip(FIRST_LISTENER..) {
            (listener.ready, listener.waits_for_place) = (false, false);
            events.add(Events::with_data(&listener.socket, data, set)).map_err(io::Error::other)?;
            if let Some(hold) = &listener.hold {
                let data = data - FIRST_LISTENER + FIRST_HOLD;
                events.add(Events::with_data(hold, data, EventSet::IN)).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    fn queue_ready(&mut self, queue: usize, events: &mut EventOps) -> Result<(), QueueError> {
        match (queue, &mut self.session) {
            (RECEIVE, Some(session)) => {
                session.fed();
                self.work(false, events)
            }
            (TRANSMIT, Some(_)) => self.work(true, events),
            _ => Ok(()),
        }
    }

    fn event(&mut self, event: Events, events: &mut EventOps) -> Result<(), QueueError> {
        let Some(session) = &mut self.session else { return Ok(()) };
        match event.data() {
            AGAIN => {
                let _ = self.again.read();
                self.work(true, events)
            }
            data if data >= FIRST_HOLD => {
                let listener = self.listeners.get_mut((data - FIRST_HOLD) as usize);
                if let Some(hold) = listener.and_then(|listener| listener.hold.take())
                    && let Err(e) = events.remove(Events::empty(&hold))
                {
                    log::debug!("vsock: can't stop watching a hold: {e}");
                }
                self.work(false, events)
            }
            data if data >= FIRST_LISTENER => {
                if let Some(listener) = self.listeners.get_mut((data - FIRST_LISTENER) as usize) {
                    listener.ready = true;
                }
                self.work(false, events)
            }
            data => {
                let set = event.event_set();
                session.wake(
                    Place(data as u16),
                    set.intersects(EventSet::IN | EventSet::READ_HANG_UP),
                    set.contains(EventSet::OUT),
                    set.intersects(EventSet::HANG_UP | EventSet::ERROR),
                    events,
                );
                self.work(false, events)
            }
        }
    }

    /// Closes every connection. The listeners stay, and serve the next session.
    fn reset(&mut self, events: &mut EventOps) {
        let Some(session) = self.session.take() else { return };
        session.close(events);
        // Removing what was not added, when activation failed half-way, fails and does no harm.
        for listener in &self.listeners {
            let _ = events.remove(Events::empty_raw(listener.socket.as_raw_fd()));
            if let Some(hold) = &listener.hold {
                let _ = events.remove(Events::empty(hold));
            }
        }
        let _ = events.remove(Events::empty(&self.again));
    }
}

#[cfg(test)]
mod tests;
