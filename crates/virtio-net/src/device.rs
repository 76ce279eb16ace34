//! The device: its configuration, and what wakes it.

mod config;
mod frames;

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd},
    time::Instant,
};

use virtio::{
    Activation, Chain, ConfigSpace, Device, DeviceKind, EventFd, EventOps, EventSet, Events, Queue,
    QueueError,
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK};

use crate::{
    Backend, HEADER, Offloads,
    filter::{self, Filter, HEAD, Refusal, Verdict},
    receive::{Delivery, Receiver},
    resolver::{Channel, Message},
};
pub use config::{Config, ConfigError, MAX_MTU, MAX_PAIRS, MIN_MTU};
use frames::{ask, forward, take_in};

/// Entries of each queue: a segment of 64 KiB in pages takes 17 of them.
const QUEUE_SIZE: u16 = 256;

// Data of events.
const AGAIN: u32 = 0;
const RESOLVER: u32 = 1;
/// And those after it: one for each pair's back end.
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
const F_CTRL_VQ: u64 = 1 << 17;
const F_MQ: u64 = 1 << 22;

/// A back end has frames.
const FRAMES: EventSet = EventSet::IN.union(EventSet::EDGE_TRIGGERED);

/// The link's state, and where the configuration says it (virtio 1.2, 5.1.4).
const STATUS_AT: usize = 6;
const STATUS_LINK_UP: u16 = 1;
const STATUS_LINK_DOWN: u16 = 0;

/// Entries of the control queue.
const CONTROL_SIZE: u16 = 16;

/// Class and command of the one that we know (virtio 1.2, 5.1.6.5.5).
const MQ_PAIRS_SET: [u8; 2] = [4, 0];
const ACK_OK: u8 = 0;
const ACK_ERROR: u8 = 1;

/// Frames of our own that wait for the guest. A guest that asks and does not take the answers gets no more.
const MAX_ANSWERS: usize = 64;

/// Frames from outside, or messages of the resolver, before anything else gets its turn.
const TURN: usize = 256;

const UDP_HEADER: usize = 8;

/// A network device; see the [crate's documentation](crate).
#[derive(Debug)]
pub struct Net<B> {
    filter: Filter,
    mtu: u16,
    resolver: Option<Channel>,
    /// One for each pair of queues.
    backends: Vec<B>,
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
    /// All that the driver has set up.
    pairs: Vec<Pair>,
    /// How many of them it uses.
    active: usize,
    /// Where it says so, with the queue's index.
    control: Option<(usize, Queue)>,
    /// What the driver may ask of the back end.
    agreed: Offloads,
    mergeable: bool,
    /// For each back end: there may be frames from outside, and no event says so again.
    readable: Vec<bool>,
    /// Where the driver learns that the link is down.
    config: ConfigSpace,
}

/// A queue each way.
#[derive(Debug)]
struct Pair {
    receive: Queue,
    /// Buffers that are out of the queue, for a frame that takes more than these, or for the next one.
    hand: Vec<Chain>,
    /// The last frame for the guest was a long one.
    long: bool,
    transmit: Queue,
    /// Frames wait for room at the back end.
    blocked: bool,
    /// The event loop tells of room. Only then: each frame that went would be told of, too.
    told_of_room: bool,
}

impl<B: Backend> Net<B> {
    /// A device that is ready to be connected.
    ///
    /// # Errors
    ///
    /// What [`ConfigError`] lists.
    pub fn new(backend: B, config: Config) -> Result<Self, ConfigError> {
        Self::with_queues(vec![backend], config)
    }

    /// A device with a pair of queues for each of these back ends, at most [`MAX_PAIRS`]: one tap's queues. What
    /// comes by any of them goes to a queue that the driver uses.
    ///
    /// # Errors
    ///
    /// What [`ConfigError`] lists.
    pub fn with_queues(backends: Vec<B>, config: Config) -> Result<Self, ConfigError> {
        if !(1..=MAX_PAIRS).contains(&backends.len()) {
            return Err(ConfigError::Pairs(backends.len()));
        }
        let Config { policy, mtu, resolver, journal } = config;
        if !(MIN_MTU..=MAX_MTU).contains(&mtu) {
            return Err(ConfigError::Mtu(mtu));
        }
        let again = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(ConfigError::Event)?;
        Ok(Self {
            filter: Filter::with_journal(policy, journal),
            mtu,
            resolver,
            backends,
            ended: false,
            again,
            answers: VecDeque::with_capacity(MAX_ANSWERS),
            session: None,
        })
    }

    /// Takes frames of the guest from one pair's queue, and has the event loop tell of room when there was none.
    fn transmit(&mut self, index: usize, events: &EventOps) -> Result<(), QueueError> {
        self.send(index)?;
        let Self { session: Some(session), backends, .. } = self else { return Ok(()) };
        let (Some(pair), Some(backend)) = (session.pairs.get_mut(index), backends.get(index)) else {
            return Ok(());
        };
        if pair.blocked != pair.told_of_room {
            let set = if pair.blocked { FRAMES | EventSet::OUT } else { FRAMES };
            let data = BACKEND + index as u32;
            // Told anew of what is so already: none of it is missed.
            let changed = events.modify(Events::with_data_raw(backend.descriptor().as_raw_fd(), data, set));
            pair.told_of_room = pair.blocked && changed.is_ok();
        }
        Ok(())
    }

    fn send(&mut self, pair: usize) -> Result<(), QueueError> {
        let Self { session: Some(session), filter, backends, resolver, answers, .. } = self else {
            return Ok(());
        };
        let agreed = session.agreed;
        let (Some(pair), Some(backend)) = (session.pairs.get_mut(pair), backends.get_mut(pair)) else {
            return Ok(());
        };
        let now = Instant::now();
        let mut left = QUEUE_SIZE;
        let mut lost = None;
        let refused_before = filter.refusals().total();
        pair.blocked = false;
        while let Some(chain) = pair.transmit.pop()? {
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
                Verdict::Forward(packet) => match forward(backend, head, &chain, &packet, agreed) {
                    Ok(true) => {}
                    Ok(false) => filter.note(Refusal::Offload, now),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        pair.transmit.undo_pop(chain);
                        pair.blocked = true;
                        break;
                    }
                    Err(e) => lost = Some(e),
                },
                Verdict::Answer(frame) if answers.len() < MAX_ANSWERS => answers.push_back(frame),
                Verdict::Resolve(packet, query) => ask(resolver.as_ref(), &chain, &packet, query),
                Verdict::Answer(_) | Verdict::Drop => {}
            }
            pair.transmit.push(chain, 0)?;
            left -= 1;
            if left == 0 {
                // Fails only when the counter is full, and then it wakes us anyway.
                let _ = self.again.write(1);
                break;
            }
        }
        match backend.flush() {
            Ok(all) => pair.blocked |= !all,
            Err(e) => lost = Some(e),
        }
        let refused = filter.refusals().total() - refused_before;
        pair.transmit.count_errors(refused + u64::from(lost.is_some()));
        pair.transmit.announce()?;
        if let Some(e) = lost {
            // A full queue of the host's, most likely, or the end, which `receive` sees.
            log::debug!("network: a frame could not be sent: {e}");
        }
        Ok(())
    }

    /// Gives the guest what is there for it: answers of our own, then frames from outside.
    fn receive(&mut self) -> Result<(), QueueError> {
        let Self { session: Some(session), filter, backends, answers, ended, again, .. } = self else {
            return Ok(());
        };
        let Session { pairs, active, mergeable, readable, config, .. } = session;
        let had_ended = *ended;
        if let Some(Pair { receive, hand, long, .. }) = pairs.first_mut().filter(|_| !answers.is_empty()) {
            while let Some(frame) = answers.front() {
                let mut receiver = Receiver {
                    queue: &mut *receive,
                    hand: &mut *hand,
                    long: &mut *long,
                    mergeable: *mergeable,
                    most: QUEUE_SIZE.into(),
                };
                if receiver.deliver([0; HEADER], frame)? == Delivery::NoRoom {
                    break;
                }
                answers.pop_front();
            }
            receive.announce()?;
        }
        for (index, (backend, readable)) in backends.iter_mut().zip(readable).enumerate() {
            let Some(Pair { receive, hand, long, .. }) = pairs.get_mut(index % *active) else { break };
            if !*readable {
                continue;
            }
            let most = QUEUE_SIZE.into();
            let receiver = Receiver { queue: &mut *receive, hand, long, mergeable: *mergeable, most };
            if take_in(backend, filter, readable, ended, receiver)? {
                // Fails only when the counter is full, and then it wakes us anyway.
                let _ = again.write(1);
            }
            receive.announce()?;
        }
        if *ended && !had_ended {
            config.set(STATUS_AT, &STATUS_LINK_DOWN.to_le_bytes());
        }
        Ok(())
    }

    /// Does what the driver says by its control queue: how many pairs it uses (virtio 1.2, 5.1.6.5.5), and nothing
    /// else.
    fn control(&mut self) -> Result<(), QueueError> {
        let Some(Session { control: Some((_, queue)), active, pairs, .. }) = &mut self.session else {
            return Ok(());
        };
        let most = pairs.len();
        queue.drain(|chain| {
            let mut command = [0; 4];
            let known = chain.read_at(0, &mut command) && command[..2] == MQ_PAIRS_SET;
            let wanted = usize::from(u16::from_le_bytes([command[2], command[3]]));
            let fine = known && (1..=most).contains(&wanted);
            if fine {
                *active = wanted;
            }
            u32::from(chain.write_at(0, &[if fine { ACK_OK } else { ACK_ERROR }]))
        })
    }

    /// Takes what the resolver says.
    fn listen(&mut self) {
        let Some(resolver) = &mut self.resolver else { return };
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
                Ok(Message::Refused { text }) => self.filter.refusals().say(|| text, now),
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

impl<B: Backend> Device for Net<B> {
    fn kind(&self) -> DeviceKind {
        DeviceKind(1)
    }

    fn features(&self) -> u64 {
        let all = self.backends.first().map_or(Offloads::NONE, Backend::offloads);
        let Offloads { checksum, tso4, tso6 } = all;
        let mut features = F_MTU | F_MAC | F_MRG_RXBUF | F_STATUS;
        features |= if self.backends.len() > 1 { F_CTRL_VQ | F_MQ } else { 0 };
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
        match self.backends.len() {
            1 => vec![QUEUE_SIZE; 2],
            pairs => [vec![QUEUE_SIZE; 2 * pairs], vec![CONTROL_SIZE]].concat(),
        }
    }

    fn needed_queues(&self) -> usize {
        2
    }

    /// MAC, status, pairs of queues, MTU (virtio 1.2, 5.1.4).
    fn config(&self) -> Vec<u8> {
        let mut config = self.filter.policy().mac.0.to_vec();
        for field in [STATUS_LINK_UP, self.backends.len() as u16, self.mtu] {
            config.extend(field.to_le_bytes());
        }
        config
    }

    fn activate(&mut self, live: Activation, events: &mut EventOps) -> io::Result<()> {
        let has = |bit: u64| live.features & bit != 0;
        // Behind all pairs, or behind the one (virtio 1.2, 5.1.2).
        let most = if has(F_MQ) && has(F_CTRL_VQ) { self.backends.len() } else { 1 };
        let mut queues = live.queues.into_iter();
        let mut pairs = Vec::with_capacity(most);
        while pairs.len() < most
            && let (Some(receive), Some(transmit)) = (queues.next(), queues.next())
        {
            let hand = Vec::with_capacity(32);
            pairs.push(Pair { receive, hand, long: false, transmit, blocked: false, told_of_room: false });
        }
        if pairs.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let control = queues.next().filter(|_| has(F_CTRL_VQ)).map(|queue| (2 * most, queue));
        let agreed = Offloads { checksum: has(F_CSUM), tso4: has(F_HOST_TSO4), tso6: has(F_HOST_TSO6) };
        let guest =
            Offloads { checksum: has(F_GUEST_CSUM), tso4: has(F_GUEST_TSO4), tso6: has(F_GUEST_TSO6) };
        self.backends.iter_mut().try_for_each(|backend| backend.start(guest))?;
        self.session = Some(Session {
            pairs,
            active: 1,
            control,
            agreed,
            mergeable: has(F_MRG_RXBUF),
            readable: vec![true; self.backends.len()],
            config: live.config,
        });
        let mut watch =
            |fd: i32, data, set| events.add(Events::with_data_raw(fd, data, set)).map_err(io::Error::other);
        watch(self.again.as_raw_fd(), AGAIN, EventSet::IN)?;
        if let Some(resolver) = &self.resolver {
            watch(resolver.as_fd().as_raw_fd(), RESOLVER, EventSet::IN | EventSet::EDGE_TRIGGERED)?;
        }
        let descriptors = self.backends.iter().map(|backend| backend.descriptor().as_raw_fd());
        descriptors.zip(BACKEND..).try_for_each(|(fd, data)| watch(fd, data, FRAMES))
    }

    fn queue_ready(&mut self, queue: usize, events: &mut EventOps) -> Result<(), QueueError> {
        let control = self.session.as_ref().and_then(|session| session.control.as_ref());
        if control.is_some_and(|(index, _)| *index == queue) {
            return self.control();
        }
        if queue.is_multiple_of(2) {
            return self.receive();
        }
        self.transmit(queue / 2, events)?;
        // What the guest asked the gateway is answered at once.
        if self.answers.is_empty() { Ok(()) } else { self.receive() }
    }

    fn event(&mut self, event: Events, events: &mut EventOps) -> Result<(), QueueError> {
        let set = event.event_set();
        match event.data() {
            RESOLVER => self.listen(),
            AGAIN => {
                let _ = self.again.read();
                self.listen();
                (0..self.backends.len()).try_for_each(|pair| self.transmit(pair, events))?;
            }
            data => {
                let Some(session) = &mut self.session else { return Ok(()) };
                let index = data.saturating_sub(BACKEND) as usize;
                if let Some(readable) = session.readable.get_mut(index) {
                    *readable |= set.intersects(EventSet::IN | EventSet::HANG_UP | EventSet::ERROR);
                }
                let blocked = session.pairs.get(index).is_some_and(|pair| pair.blocked);
                if set.contains(EventSet::OUT) && blocked {
                    self.transmit(index, events)?;
                }
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
        let backends = self.backends.iter().map(|backend| backend.descriptor().as_raw_fd());
        for fd in fds.into_iter().flatten().chain(backends) {
            let _ = events.remove(Events::empty_raw(fd));
        }
    }
}

impl<B> Drop for Net<B> {
    fn drop(&mut self) {
        let refusals = self.filter.refusals();
        if refusals.total() > 0 {
            log::info!("network: {refusals}");
        }
    }
}

#[cfg(test)]
mod tests;
