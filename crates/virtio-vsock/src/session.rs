//! What lives from the driver's start to its reset: the two packet queues, and the connections on them.

use std::{
    collections::{HashMap, VecDeque},
    os::fd::OwnedFd,
};

use virtio::{Activation, Chain, EventOps, Queue, QueueError};

use crate::{
    connection::{Connection, Filled, Ports, Verdict},
    door::Door,
    packet::{HEADER_SIZE, HOST_CID, Header, MAX_PAYLOAD, Op, STREAM},
    table::{MAX_CONNECTIONS, Place, Table},
};

/// How many packets are taken from a queue, or put into one, before the event loop gets its turn: a guest
/// that never pauses must not keep the device from a reset.
const BATCH: usize = 256;

/// How many resets wait for the guest's buffers that belong to no connection. A guest that wants more
/// without giving buffers doesn't get them.
const MAX_RESETS: usize = 256;

/// Places that clients of listeners leave free.
const RESERVED: usize = MAX_CONNECTIONS / 4;

/// Ports of the host's side of connections from the host: fresh for each, over and over.
const FIRST_PORT: u32 = 1 << 30;
const LAST_PORT: u32 = u32::MAX - 1;

/// A driver's session.
#[derive(Debug)]
pub(crate) struct Session {
    cid: u64,
    receive: Queue,
    transmit: Queue,
    /// Never used: no event concerns a device that does not migrate.
    _event: Queue,
    /// The receive queue has no buffer; the driver will notify of the next.
    starved: bool,
    table: Table,
    resets: VecDeque<Header>,
    next_port: u32,
}

impl Session {
    /// Nothing without three queues.
    pub(crate) fn new(cid: u32, live: Activation) -> Option<Self> {
        let [receive, transmit, event] = <[Queue; 3]>::try_from(live.queues).ok()?;
        Some(Self {
            cid: u64::from(cid),
            receive,
            transmit,
            _event: event,
            starved: false,
            table: Table::default(),
            resets: VecDeque::new(),
            next_port: FIRST_PORT,
        })
    }

    /// The driver gave buffers to the receive queue.
    pub(crate) fn fed(&mut self) {
        self.starved = false;
    }

    /// A connection's socket has news.
    pub(crate) fn wake(
        &mut self,
        place: Place,
        readable: bool,
        writable: bool,
        hung_up: bool,
        events: &mut EventOps,
    ) {
        if let Some(connection) = self.table.get_mut(place) {
            connection.wake(readable, writable, hung_up);
            self.table.settle(place, events);
        }
    }

    /// Whether a program of the host that connects may have a place.
    pub(crate) fn takes_clients(&self) -> bool {
        self.table.count() < MAX_CONNECTIONS - RESERVED
    }

    /// A program of the host connected to what stands for the guest's `port`. With no place left it is
    /// turned away.
    pub(crate) fn accepted(&mut self, port: u32, socket: OwnedFd, events: &mut EventOps) {
        let Some(vacancy) = self.table.vacancy() else {
            log::debug!("vsock: no place for one more connection to guest port {port}");
            return;
        };
        let ports = self.fresh_ports(port);
        let connection = Connection::from_host(ports, self.cid, socket, vacancy.room);
        if let Err(e) = self.table.insert(vacancy, connection, events) {
            log::debug!("vsock: can't watch a connection to guest port {port}: {e}");
        }
    }

    fn fresh_ports(&mut self, guest: u32) -> Ports {
        // Ends at once: there are more ports than connections.
        loop {
            let ports = Ports { guest, host: self.next_port };
            self.next_port = if self.next_port < LAST_PORT { self.next_port + 1 } else { FIRST_PORT };
            if self.table.find(ports).is_none() {
                return ports;
            }
        }
    }

    /// Takes the guest's packets; true when there may be more.
    pub(crate) fn take_packets(
        &mut self,
        doors: &HashMap<u32, Door>,
        events: &mut EventOps,
    ) -> Result<bool, QueueError> {
        for _ in 0..BATCH {
            let Some(chain) = self.transmit.pop()? else { return Ok(false) };
            self.take_packet(&chain, doors, events);
            self.transmit.push(chain, 0)?;
        }
        Ok(true)
    }

    fn take_packet(&mut self, chain: &Chain, doors: &HashMap<u32, Door>, events: &mut EventOps) {
        let mut raw = [0; HEADER_SIZE];
        // Without a header, or from another than this guest, it has no sender to answer.
        if !chain.read_at(0, &mut raw) {
            return;
        }
        let header = Header::from_bytes(&raw);
        if header.source_cid != self.cid {
            return;
        }
        if header.destination_cid != HOST_CID || header.kind != STREAM {
            self.refuse(&header);
            return;
        }
        let length = header.length as usize;
        let whole = length <= MAX_PAYLOAD && length <= chain.readable() - HEADER_SIZE;
        let ports = Ports { guest: header.source_port, host: header.destination_port };
        match self.table.find(ports) {
            Some(place) => {
                let Some(connection) = self.table.get_mut(place) else { return };
                let verdict = if whole { connection.receive(&header, chain) } else { Verdict::Breaks };
                match verdict {
                    Verdict::Goes => {}
                    Verdict::Breaks => {
                        connection.reset();
                        self.transmit.count_errors(1);
                    }
                    Verdict::Forgotten => self.table.forget(place),
                }
                self.table.settle(place, events);
            }
            None if whole && header.op == Op::Request as u16 => {
                if !self.open(&header, ports, doors, events) {
                    self.refuse(&header);
                }
            }
            None => self.refuse(&header),
        }
    }

    /// Connects the guest to where it may go; false when it may not, or nobody is there.
    fn open(
        &mut self,
        request: &Header,
        ports: Ports,
        doors: &HashMap<u32, Door>,
        events: &mut EventOps,
    ) -> bool {
        let (Some(door), Some(vacancy)) = (doors.get(&ports.host), self.table.vacancy()) else {
            log::debug!("vsock: refused a connection to host port {}", ports.host);
            return false;
        };
        let socket = match door.enter() {
            Ok(socket) => socket.into(),
            Err(e) => {
                log::debug!("vsock: can't hand over a connection to host port {}: {e}", ports.host);
                return false;
            }
        };
        let connection = Connection::from_guest(request, ports, socket, vacancy.room);
        self.table.insert(vacancy, connection, events).is_ok()
    }

    /// Answers a packet of no connection with a reset; but never a reset with one (5.10.6.4.1), or two
    /// sides that forgot would go on for ever.
    fn refuse(&mut self, header: &Header) {
        // What comes late for a connection that has just ended is none.
        if header.op == Op::Request as u16 || header.destination_cid != HOST_CID || header.kind != STREAM {
            self.transmit.count_errors(1);
        }
        let refusal = header.refusal();
        if header.op != Op::Reset as u16 && self.resets.len() < MAX_RESETS && !self.resets.contains(&refusal)
        {
            self.resets.push_back(refusal);
        }
    }

    /// Puts packets into the guest's buffers, one connection after the other; true when there may be more.
    pub(crate) fn give_packets(&mut self, events: &mut EventOps) -> Result<bool, QueueError> {
        for _ in 0..BATCH {
            if self.starved || (self.resets.is_empty() && !self.table.has_packets()) {
                return Ok(false);
            }
            match self.receive.pop()? {
                Some(chain) => self.give_packet(chain, events)?,
                None => self.starved = true,
            }
        }
        Ok(true)
    }

    fn give_packet(&mut self, chain: Chain, events: &mut EventOps) -> Result<(), QueueError> {
        if let Some(reset) = self.resets.front() {
            // A buffer too short for a header goes back with nothing in it, here and below.
            let mut written = 0;
            if chain.write_at(0, &reset.to_bytes()) {
                self.resets.pop_front();
                written = HEADER_SIZE as u32;
            }
            return self.receive.push(chain, written);
        }
        let Some((place, connection)) = self.table.next() else {
            self.receive.undo_pop(chain);
            return Ok(());
        };
        match connection.fill(&chain) {
            Filled::Nothing => self.receive.undo_pop(chain),
            Filled::Unfit => self.receive.push(chain, 0)?,
            Filled::Packet(length) => self.receive.push(chain, length)?,
            Filled::Last(length) => {
                self.receive.push(chain, length)?;
                self.table.remove(place, events);
            }
        }
        self.table.settle(place, events);
        Ok(())
    }

    /// Tells the driver of all that was taken and given.
    pub(crate) fn announce(&mut self) -> Result<(), QueueError> {
        self.transmit.announce()?;
        self.receive.announce()
    }

    /// Closes every connection.
    pub(crate) fn close(mut self, events: &mut EventOps) {
        self.table.clear(events);
    }
}
