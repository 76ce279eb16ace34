//! One connection: a guest's port, a host's Unix socket, and the state between them.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{SendFlags, Shutdown, send, shutdown},
};
use virtio::Chain;

use crate::{
    flow::{Receive, Send},
    packet::{HEADER_SIZE, HOST_CID, Header, MAX_PAYLOAD, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, STREAM},
};

/// A connection's name: its two ports. The two CIDs are always the guest's and the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ports {
    pub guest: u32,
    pub host: u32,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The host's program connected; the guest is to be asked.
    Asking,
    /// The guest was asked and has not answered.
    Asked,
    /// The guest asked; it is to be told yes.
    Answering,
    Live,
    /// It failed: a reset is to go to the guest, and that is all.
    Broken,
    /// The guest knows it no more, but bytes of its are still to reach the host's program.
    Orphan,
}

/// The direction from the host's program to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ToGuest {
    Open,
    /// The program has ended its side; the guest is to be told.
    Ended,
    /// The guest knows, or wanted no more.
    Closed,
}

/// The direction from the guest to the host's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ToHost {
    Open,
    /// The guest has ended its side; the program learns so after the bytes that wait.
    Ended,
    /// The program takes no more; the guest is to be told.
    Refused,
    /// The program knows, or the guest does. What still comes is dropped.
    Closed,
}

/// What became of a connection by a packet of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Goes,
    /// The packet broke the rules: reset it.
    Breaks,
    /// The guest has forgotten it: it has no name any more, though bytes may still wait.
    Forgotten,
}

/// What a connection put into a buffer of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    Nothing,
    /// So many bytes.
    Packet(u32),
    /// So many bytes, the last: the connection is over.
    Last(u32),
    /// The buffer has no room for the least packet.
    Unfit,
}

/// A connection between a guest's port and a host's Unix socket.
#[derive(Debug)]
pub(crate) struct Connection {
    pub ports: Ports,
    guest_cid: u64,
    socket: OwnedFd,
    phase: Phase,
    to_guest: ToGuest,
    to_host: ToHost,
    from_guest: Receive,
    for_guest: Send,
    /// Bytes of the guest's that the socket would not take. Bounded by the credit that was given.
    waiting: VecDeque<u8>,
    /// The socket may have bytes, or an end, to read: no event says so again.
    readable: bool,
    /// The guest asked for the state of its credit.
    credit_asked: bool,
}

impl Connection {
    /// A host's program connected; the guest gets `room` bytes of credit.
    pub(crate) fn from_host(ports: Ports, guest_cid: u64, socket: OwnedFd, room: u32) -> Self {
        Self {
            ports,
            guest_cid,
            socket,
            phase: Phase::Asking,
            to_guest: ToGuest::Open,
            to_host: ToHost::Open,
            from_guest: Receive::new(room),
            for_guest: Send::default(),
            waiting: VecDeque::new(),
            readable: false,
            credit_asked: false,
        }
    }

    /// The guest asked with `request`, and `socket` is connected to where it may go.
    pub(crate) fn from_guest(request: &Header, ports: Ports, socket: OwnedFd, room: u32) -> Self {
        let mut new = Self::from_host(ports, request.source_cid, socket, room);
        new.phase = Phase::Answering;
        new.for_guest.update(request.buffer, request.forwarded);
        new
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// A packet of the guest's for this connection; its length was checked against the chain.
    pub(crate) fn receive(&mut self, header: &Header, chain: &Chain) -> Verdict {
        if self.phase == Phase::Broken {
            return Verdict::Goes;
        }
        self.for_guest.update(header.buffer, header.forwarded);
        match (Op::from_number(header.op), self.phase) {
            (Some(Op::Reset), _) => {
                // Linux resets eight seconds after a close, whatever waits. What it sent before that
                // close is the program's.
                self.phase = Phase::Orphan;
                self.to_guest = ToGuest::Closed;
                if self.to_host != ToHost::Ended {
                    self.to_host = ToHost::Closed;
                }
                Verdict::Forgotten
            }
            (Some(Op::Response), Phase::Asked) => {
                self.phase = Phase::Live;
                Verdict::Goes
            }
            (Some(Op::Data), Phase::Live) => self.receive_data(header.length, chain),
            (Some(Op::CreditUpdate), Phase::Live) => Verdict::Goes,
            (Some(Op::CreditRequest), Phase::Live) => {
                self.credit_asked = true;
                Verdict::Goes
            }
            (Some(Op::Shutdown), Phase::Live) => {
                self.receive_shutdown(header.flags);
                Verdict::Goes
            }
            _ => Verdict::Breaks,
        }
    }

    fn receive_data(&mut self, length: u32, chain: &Chain) -> Verdict {
        if self.to_host == ToHost::Ended || self.from_guest.accept(length).is_err() {
            return Verdict::Breaks;
        }
        let length = length as usize;
        let mut done = 0;
        // Straight from the guest's pages, unless older bytes must go first.
        while self.to_host == ToHost::Open && self.waiting.is_empty() && done < length {
            match chain.write_to_socket(HEADER_SIZE + done, length - done, self.socket.as_fd()) {
                Ok(sent) => done += sent,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.refuse(),
            }
        }
        if self.to_host != ToHost::Open {
            self.from_guest.forward_all();
            return Verdict::Goes;
        }
        self.from_guest.forward(done);
        if self.keep(chain, HEADER_SIZE + done, length - done) { Verdict::Goes } else { Verdict::Breaks }
    }

    /// Copies bytes from the guest to the end of those that wait.
    fn keep(&mut self, chain: &Chain, offset: usize, length: usize) -> bool {
        let before = self.waiting.len();
        if before + length > self.waiting.capacity() {
            // Twice as much, or a guest's small packets would each copy all that waits; but never more
            // than was promised.
            let ample = (2 * self.waiting.capacity()).min(self.from_guest.capacity() as usize);
            self.waiting.reserve_exact(ample.max(before + length) - before);
        }
        self.waiting.resize(before + length, 0);
        let (front, back) = self.waiting.as_mut_slices();
        let first = before.min(front.len());
        let (in_front, in_back) = (&mut front[first..], &mut back[before - first..]);
        chain.read_at(offset, in_front) && chain.read_at(offset + in_front.len(), in_back)
    }

    fn receive_shutdown(&mut self, flags: u32) {
        if flags & SHUTDOWN_RECEIVE != 0 && self.to_guest != ToGuest::Closed {
            self.to_guest = ToGuest::Closed;
            // The program's next write fails, as it does when a local reader goes. It can't fail here in
            // a way that matters: a socket that is not connected any more says so by an event.
            let _ = shutdown(&self.socket, Shutdown::Read);
        }
        if flags & SHUTDOWN_SEND != 0 {
            match self.to_host {
                ToHost::Open => self.to_host = ToHost::Ended,
                ToHost::Refused => self.to_host = ToHost::Closed,
                ToHost::Ended | ToHost::Closed => {}
            }
            self.end_if_flushed();
        }
    }

    /// The socket's events: whether it may be read, may take bytes, or has lost its peer.
    pub(crate) fn wake(&mut self, readable: bool, writable: bool, hung_up: bool) {
        self.readable |= readable || hung_up;
        if hung_up {
            // Nothing can be sent any more. What the program sent before can still be read.
            self.refuse();
        } else if writable {
            self.flush();
        }
    }

    /// Sends the bytes that wait, as far as the socket takes them.
    fn flush(&mut self) {
        while !self.waiting.is_empty() {
            let (front, _) = self.waiting.as_slices();
            match send(&self.socket, front, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    self.waiting.drain(..sent);
                    self.from_guest.forward(sent);
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => self.refuse(),
            }
        }
        // The room is for all connections; an idle one holds none.
        self.waiting = VecDeque::new();
        self.end_if_flushed();
    }

    fn end_if_flushed(&mut self) {
        if self.to_host == ToHost::Ended && self.waiting.is_empty() {
            self.to_host = ToHost::Closed;
            let _ = shutdown(&self.socket, Shutdown::Write);
        }
    }

    /// The program takes no more bytes.
    fn refuse(&mut self) {
        self.waiting = VecDeque::new();
        self.from_guest.forward_all();
        match self.to_host {
            ToHost::Open => self.to_host = ToHost::Refused,
            // The guest will send no more in any case.
            ToHost::Ended => self.to_host = ToHost::Closed,
            ToHost::Refused | ToHost::Closed => {}
        }
    }

    /// It failed: what waits is dropped, and a reset is all that the guest gets.
    pub(crate) fn reset(&mut self) {
        self.phase = Phase::Broken;
        self.waiting = VecDeque::new();
        let _ = shutdown(&self.socket, Shutdown::Both);
    }

    /// Whether the guest has forgotten it and no byte of the guest's waits.
    pub(crate) fn is_gone(&self) -> bool {
        self.phase == Phase::Orphan && self.to_host == ToHost::Closed
    }

    /// Whether bytes wait for the socket to take them.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the guest should get a packet, as soon as it gives a buffer.
    pub(crate) fn has_packet(&self) -> bool {
        match self.phase {
            Phase::Asking | Phase::Answering | Phase::Broken => true,
            Phase::Asked | Phase::Orphan => false,
            Phase::Live => {
                self.may_read()
                    || self.shutdown_due() != 0
                    || self.is_over()
                    || self.credit_asked
                    || self.from_guest.update_due()
            }
        }
    }

    fn may_read(&self) -> bool {
        self.readable && self.to_guest == ToGuest::Open && self.for_guest.credit() > 0
    }

    fn is_over(&self) -> bool {
        self.to_guest == ToGuest::Closed && self.to_host == ToHost::Closed
    }

    fn shutdown_due(&self) -> u32 {
        let send = if self.to_guest == ToGuest::Ended { SHUTDOWN_SEND } else { 0 };
        let receive = if self.to_host == ToHost::Refused { SHUTDOWN_RECEIVE } else { 0 };
        send | receive
    }

    /// Writes the next packet for the guest into its buffer.
    pub(crate) fn fill(&mut self, chain: &Chain) -> Filled {
        if chain.writable() < HEADER_SIZE {
            return Filled::Unfit;
        }
        match self.phase {
            Phase::Asking => {
                self.phase = Phase::Asked;
                return self.write(chain, Op::Request, 0, 0);
            }
            Phase::Answering => {
                self.phase = Phase::Live;
                return self.write(chain, Op::Response, 0, 0);
            }
            Phase::Broken => return self.write_last(chain),
            Phase::Asked | Phase::Orphan => return Filled::Nothing,
            Phase::Live => {}
        }
        if self.may_read() {
            if chain.writable() == HEADER_SIZE {
                return Filled::Unfit;
            }
            if let Some(length) = self.read(chain) {
                return self.write(chain, Op::Data, length, 0);
            }
        }
        let flags = self.shutdown_due();
        if flags != 0 {
            if flags & SHUTDOWN_SEND != 0 {
                self.to_guest = ToGuest::Closed;
            }
            if flags & SHUTDOWN_RECEIVE != 0 {
                self.to_host = ToHost::Closed;
            }
            return self.write(chain, Op::Shutdown, 0, flags);
        }
        if self.is_over() {
            return self.write_last(chain);
        }
        if self.credit_asked || self.from_guest.update_due() {
            return self.write(chain, Op::CreditUpdate, 0, 0);
        }
        Filled::Nothing
    }

    /// Reads from the socket into the guest's buffer, after the header's place; nothing when there is
    /// nothing, or no more ever.
    fn read(&mut self, chain: &Chain) -> Option<usize> {
        let most = (self.for_guest.credit() as usize).min(MAX_PAYLOAD).min(chain.writable() - HEADER_SIZE);
        loop {
            match chain.read_from_socket(HEADER_SIZE, most, self.socket.as_fd()) {
                Ok(0) => self.to_guest = ToGuest::Ended,
                Ok(length) => {
                    self.for_guest.sent(length);
                    return Some(length);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => self.fail(&e),
            }
            self.readable = false;
            return None;
        }
    }

    /// The socket is broken both ways; all that it had was read.
    fn fail(&mut self, why: &io::Error) {
        log::debug!("vsock: guest port {}: {why}", self.ports.guest);
        self.to_guest = ToGuest::Ended;
        self.refuse();
    }

    fn write(&mut self, chain: &Chain, op: Op, length: usize, flags: u32) -> Filled {
        let (buffer, forwarded) = self.from_guest.tell();
        self.credit_asked = false;
        let header = Header {
            source_cid: HOST_CID,
            destination_cid: self.guest_cid,
            source_port: self.ports.host,
            destination_port: self.ports.guest,
            length: length as u32,
            kind: STREAM,
            op: op as u16,
            flags,
            buffer,
            forwarded,
        };
        if chain.write_at(0, &header.to_bytes()) {
            Filled::Packet((HEADER_SIZE + length) as u32)
        } else {
            Filled::Unfit
        }
    }

    fn write_last(&mut self, chain: &Chain) -> Filled {
        match self.write(chain, Op::Reset, 0, 0) {
            Filled::Packet(length) => Filled::Last(length),
            other => other,
        }
    }
}
