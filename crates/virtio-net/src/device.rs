//! The device: its configuration, and what wakes it.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd},
    time::Instant,
};

use virtio::{Activation, Chain, Device, DeviceKind, EventFd, EventOps, EventSet, Events, Queue, QueueError};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK};

use crate::{
    Backend, HEADER, Offloads, Outgoing,
    filter::{self, Filter, HEAD, Packet, Policy, Query, Refusal, Verdict},
    header::checked,
    receive::{Delivery, deliver},
    resolver::{Channel, MAX_PAYLOAD, Message},
};

/// The least MTU: IPv6's (RFC 8200, 5).
pub const MIN_MTU: u16 = 1280;

/// The most: IPv4's longest packet, rounded down as passt does.
pub const MAX_MTU: u16 = 65_520;

/// Entries of each queue: a segment of 64 KiB in pages takes 17 of them.
const QUEUE_SIZE: u16 = 256;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

// Data of events.
const AGAIN: u32 = 0;
const RESOLVER: u32 = 1;
const BACKEND: u32 = 2;

// Feature bits (virtio 1.2, 5.1.3).
const F_CSUM: u64 = 1 << 0;
const F_GUEST_CSUM: u64 = 1 << 1;
const F_MTU: u64 = 1 << 3;
const F_MAC: u64 = 1 << 5;
const F_GUEST_TSO4: u64 = 1 << 7;
const F_GUEST_TSO6: u64 = 1 << 8;
const F_HOST_TSO4: u64 = 1 << 11;
const F_HOST_TSO6: u64 = 1 << 12;
const F_MRG_RXBUF: u64 = 1 << 15;
const F_STATUS: u64 = 1 << 16;

const STATUS_LINK_UP: u16 = 1;

/// Frames of our own that wait for the guest. A guest that asks and does not take the answers gets no more.
const MAX_ANSWERS: usize = 64;

/// Frames from outside, or messages of the resolver, before anything else gets its turn.
const TURN: usize = 256;

const UDP_HEADER: usize = 8;

/// A network device to be.
#[derive(Debug)]
pub struct Config {
    /// What the guest may reach, and its addresses.
    pub policy: Policy,
    /// The longest IP packet on the link, from [`MIN_MTU`] to [`MAX_MTU`] bytes.
    pub mtu: u16,
    /// Where questions for names go; none: they get no answer.
    pub resolver: Option<Channel>,
}

/// Why a [`Config`] is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An MTU out of its range.
    #[error("MTU {0}: {MIN_MTU} to {MAX_MTU} are possible")]
    Mtu(u16),
    /// No more descriptors.
    #[error("create an event descriptor for a network device")]
    Event(#[source] io::Error),
}

/// A network device; see the [crate's documentation](crate).
#[derive(Debug)]
pub struct Net<B> {
    filter: Filter,
    mtu: u16,
    resolver: Option<Channel>,
    backend: B,
    /// The back end has ended; nothing goes or comes any more.
    ended: bool,
    /// Wakes the device itself, when it stopped in the middle of much work.
    again: EventFd,
    answers: VecDeque<Vec<u8>>,
    session: Option<Session>,
}

/// What belongs to a driver.
#[derive(Debug)]
struct Session {
    receive: Queue,
    transmit: Queue,
    /// What the driver may ask of the back end.
    agreed: Offloads,
    mergeable: bool,
    /// There may be frames from outside: no event says so again.
    readable: bool,
    /// Frames wait for room at the back end.
    blocked: bool,
    /// Chains of the frame in hand; kept for their storage.
    hand: Vec<(Chain, u32)>,
}

impl<B: Backend> Net<B> {
    /// A device that is ready to be connected.
    ///
    /// # Errors
    ///
    /// What [`ConfigError`] lists.
    pub fn new(backend: B, config: Config) -> Result<Self, ConfigError> {
        let Config { policy, mtu, resolver } = config;
        if !(MIN_MTU..=MAX_MTU).contains(&mtu) {
            return Err(ConfigError::Mtu(mtu));
        }
        let again = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(ConfigError::Event)?;
        Ok(Self {
            filter: Filter::new(policy),
            mtu,
            resolver,
            backend,
            ended: false,
            again,
            answers: VecDeque::with_capacity(MAX_ANSWERS),
            session: None,
        })
    }

    /// Takes frames of the guest.
    fn transmit(&mut self) -> Result<(), QueueError> {
        let Self { session: Some(session), filter, backend, resolver, answers, .. } = self else {
            return Ok(());
        };
        let now = Instant::now();
        let mut left = QUEUE_SIZE;
        let mut lost = None;
        session.blocked = false;
        while let Some(chain) = session.transmit.pop()? {
            if chain.writable() > 0 {
                return Err(QueueError::Request("a buffer to send is writable"));
            }
            let mut head = [0; HEADER + HEAD];
            let length = chain.readable().saturating_sub(HEADER);
            let head = &mut head[..HEADER + length.min(HEAD)];
            if !chain.read_at(0, head) {
                return Err(QueueError::Request("a buffer to send is shorter than its header"));
            }
            match filter.judge(&head[HEADER..], length, now) {
                Verdict::Forward(packet) => match forward(backend, head, &chain, &packet, session.agreed) {
                    Ok(true) => {}
                    Ok(false) => filter.note(Refusal::Offload, now),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        session.transmit.undo_pop(chain);
                        session.blocked = true;
                        break;
                    }
                    Err(e) => lost = Some(e),
                },
                Verdict::Answer(frame) if answers.len() < MAX_ANSWERS => answers.push_back(frame),
                Verdict::Resolve(packet, query) => ask(resolver.as_ref(), &chain, &packet, query),
                Verdict::Answer(_) | Verdict::Drop => {}
            }
            session.transmit.push(chain, 0)?;
            left -= 1;
            if left == 0 {
                // Fails only when the counter is full, and then it wakes us anyway.
                let _ = self.again.write(1);
                break;
            }
        }
        match backend.flush() {
            Ok(all) => session.blocked |= !all,
            Err(e) => lost = Some(e),
        }
        session.transmit.announce()?;
        if let Some(e) = lost {
            // A full queue of the host's, most likely, or the end, which `receive` sees.
            log::debug!("network: a frame could not be sent: {e}");
        }
        Ok(())
    }

    /// Gives the guest what is there for it: answers of our own, then frames from outside.
    fn receive(&mut self) -> Result<(), QueueError> {
        let Self { session: Some(session), filter, backend, answers, .. } = self else { return Ok(()) };
        let Session { receive, hand, mergeable, readable, .. } = session;
        let mut put =
            |header, frame: &[u8]| deliver(receive, hand, header, frame, *mergeable, QUEUE_SIZE.into());
        let now = Instant::now();
        let mut room = true;
        while let Some(frame) = answers.front() {
            if put([0; HEADER], frame)? == Delivery::NoRoom {
                room = false;
                break;
            }
            answers.pop_front();
        }
        let mut left = TURN;
        while room && *readable && !self.ended {
            match backend.peek() {
                Ok(incoming) => {
                    let (head, length) = (incoming.frame, incoming.frame.len());
                    if filter.admit(&head[..length.min(HEAD)], length, now)
                        && put(incoming.header, incoming.frame)? == Delivery::NoRoom
                    {
                        room = false;
                        continue;
                    }
                    backend.consume();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => *readable = false,
                Err(e) if ends(&e) => {
                    self.ended = true;
                    log::warn!("network: the connection to the outside has ended: {e}");
                }
                Err(e) => log::debug!("network: a frame could not be received: {e}"),
            }
            left -= 1;
            if left == 0 {
                let _ = self.again.write(1);
                break;
            }
        }
        receive.announce()
    }

    /// Takes what the resolver says.
    fn listen(&mut self) {
        let Some(resolver) = &self.resolver else { return };
        let now = Instant::now();
        for _ in 0..TURN {
            match resolver.receive() {
                Ok(Message::Datagram { query, payload }) => {
                    let frame =
                        filter::datagram(self.filter.policy(), query, &payload, usize::from(self.mtu));
                    if let Some(frame) = frame
                        && self.answers.len() < MAX_ANSWERS
                    {
                        self.answers.push_back(frame);
                    }
                }
                Ok(Message::Open { address, port, time }) => self.filter.open(address, port, now, time),
                Ok(Message::Host { addresses, on_link }) => self.filter.set_host(addresses, on_link),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {}
                Err(e) => {
                    log::debug!("network: the resolver has ended: {e}");
                    self.resolver = None;
                    return;
                }
            }
        }
        let _ = self.again.write(1);
    }
}

/// The error says that there will never be a frame again.
fn ends(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// Sends a packet: the part of it that was judged from `head`, the rest from the chain. False, and nothing
/// sent, when its header asks for what can't be.
fn forward(
    backend: &mut impl Backend,
    head: &mut [u8],
    chain: &Chain,
    packet: &Packet,
    agreed: Offloads,
) -> io::Result<bool> {
    let Some((raw, _)) = head.split_first_chunk_mut::<HEADER>() else { return Ok(false) };
    let Some(header) = checked(raw, packet, agreed) else { return Ok(false) };
    *raw = header;
    let judged = head.len().min(HEADER + packet.end);
    let rest = HEADER + packet.end - judged;
    backend.send(Outgoing { head: &head[..judged], chain, offset: judged, rest })?;
    Ok(true)
}

/// Hands a question to the resolver; one that finds no room is asked again by the guest.
fn ask(resolver: Option<&Channel>, chain: &Chain, packet: &Packet, query: Query) {
    let Some(resolver) = resolver else { return };
    let at = packet.offset + UDP_HEADER;
    let length = packet.end.saturating_sub(at);
    if length > MAX_PAYLOAD {
        return;
    }
    let mut payload = vec![0; length];
    if chain.read_at(HEADER + at, &mut payload) {
        let sent = resolver.send(&Message::Datagram { query, payload });
        if let Err(e) = sent {
            log::debug!("network: a question for a name was dropped: {e}");
        }
    }
}

impl<B: Backend> Device for Net<B> {
    fn kind(&self) -> DeviceKind {
        DeviceKind(1)
    }

    fn features(&self) -> u64 {
        let Offloads { checksum, tso4, tso6 } = self.backend.offloads();
        let mut features = F_MTU | F_MAC | F_MRG_RXBUF | F_STATUS;
        for (has, bits) in [
            (checksum, F_CSUM | F_GUEST_CSUM),
            (tso4, F_HOST_TSO4 | F_GUEST_TSO4),
            (tso6, F_HOST_TSO6 | F_GUEST_TSO6),
        ] {
            features |= if has { bits } else { 0 };
        }
        features
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    /// MAC, status, pairs of queues, MTU (virtio 1.2, 5.1.4).
    fn config(&self) -> Vec<u8> {
        let mut config = self.filter.policy().mac.0.to_vec();
        for field in [STATUS_LINK_UP, 1, self.mtu] {
            config.extend(field.to_le_bytes());
        }
        config
    }

    fn activate(&mut self, live: Activation, events: &mut EventOps) -> io::Result<()> {
        let has = |bit: u64| live.features & bit != 0;
        let [receive, transmit] =
            <[Queue; 2]>::try_from(live.queues).map_err(|_| io::ErrorKind::InvalidInput)?;
        let agreed = Offloads { checksum: has(F_CSUM), tso4: has(F_HOST_TSO4), tso6: has(F_HOST_TSO6) };
        self.backend.start(Offloads {
            checksum: has(F_GUEST_CSUM),
            tso4: has(F_GUEST_TSO4),
            tso6: has(F_GUEST_TSO6),
        })?;
        self.session = Some(Session {
            receive,
            transmit,
            agreed,
            mergeable: has(F_MRG_RXBUF),
            readable: true,
            blocked: false,
            hand: Vec::with_capacity(32),
        });
        let mut watch =
            |fd: i32, data, set| events.add(Events::with_data_raw(fd, data, set)).map_err(io::Error::other);
        watch(self.again.as_raw_fd(), AGAIN, EventSet::IN)?;
        if let Some(resolver) = &self.resolver {
            watch(resolver.as_fd().as_raw_fd(), RESOLVER, EventSet::IN | EventSet::EDGE_TRIGGERED)?;
        }
        let set = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        watch(self.backend.descriptor().as_raw_fd(), BACKEND, set)
    }

    fn queue_ready(&mut self, queue: usize, _: &mut EventOps) -> Result<(), QueueError> {
        match queue {
            RECEIVE => self.receive(),
            TRANSMIT => {
                self.transmit()?;
                // What the guest asked the gateway is answered at once.
                if self.answers.is_empty() { Ok(()) } else { self.receive() }
            }
            _ => Ok(()),
        }
    }

    fn event(&mut self, event: Events, _: &mut EventOps) -> Result<(), QueueError> {
        let set = event.event_set();
        match event.data() {
            RESOLVER => self.listen(),
            BACKEND => {
                let Some(session) = &mut self.session else { return Ok(()) };
                session.readable |= set.intersects(EventSet::IN | EventSet::HANG_UP | EventSet::ERROR);
                if set.contains(EventSet::OUT) && session.blocked {
                    self.transmit()?;
                }
            }
            _ => {
                let _ = self.again.read();
                self.listen();
                self.transmit()?;
            }
        }
        self.receive()
    }

    fn reset(&mut self, events: &mut EventOps) {
        self.answers.clear();
        if self.session.take().is_none() {
            return;
        }
        // Removing what was not added, when activation failed half-way, fails and does no harm.
        let fds = [Some(self.again.as_raw_fd()), self.resolver.as_ref().map(|r| r.as_fd().as_raw_fd())];
        for fd in fds.into_iter().flatten().chain([self.backend.descriptor().as_raw_fd()]) {
            let _ = events.remove(Events::empty_raw(fd));
        }
    }
}

impl<B> Drop for Net<B> {
    fn drop(&mut self) {
        if self.filter.refusals().total() > 0 {
            log::info!("network: {}", self.filter.refusals());
        }
    }
}

#[cfg(test)]
mod tests;
