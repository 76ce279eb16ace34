//! A guest's kernel for tests: packets on a test driver's queues, and stream sockets with credit.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use virtio::testing::{Buffer, Driver};

use crate::{Config, Vsock, packet::*};

pub const CID: u64 = 3;

/// The room that each socket of this guest promises.
pub const ROOM: u32 = 64 << 10;

pub struct Guest {
    pub driver: Driver,
    pub inbox: VecDeque<(Header, Vec<u8>)>,
    /// Bytes of a receive buffer.
    buffer: u32,
    in_flight: usize,
}

/// A stream socket of the guest's.
#[derive(Debug)]
pub struct Socket {
    pub guest: u32,
    pub host: u32,
    pub sent: u32,
    pub taken: u32,
    /// What the host said that it will do no more.
    pub ended: u32,
    credit_base: (u32, u32),
}

/// Tries until it works, for at most ten seconds.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_micros(100));
    }
}

impl Guest {
    pub fn start(config: Config) -> Self {
        Self::with_buffers(config, 64, 4096)
    }

    /// With so many receive buffers of so many bytes.
    pub fn with_buffers(config: Config, count: usize, buffer: u32) -> Self {
        let driver = Driver::start(Vsock::new(config).unwrap());
        let mut guest = Self { driver, inbox: VecDeque::new(), buffer, in_flight: 0 };
        guest.feed(count);
        guest
    }

    pub fn reset(&mut self, count: usize) {
        self.driver.initialise(&[256; 3]);
        (self.in_flight, self.inbox) = (0, VecDeque::new());
        self.feed(count);
    }

    pub fn feed(&mut self, count: usize) {
        for _ in 0..count {
            self.driver.add(0, &[Buffer::Writable(self.buffer)]);
        }
    }

    /// Takes what the device handed back, and gives as many receive buffers anew.
    pub fn pump(&mut self) {
        while self.driver.used(1).is_some() {
            self.in_flight -= 1;
        }
        while let Some(used) = self.driver.used(0) {
            self.feed(1);
            let Some(raw) = used.written.first_chunk() else { continue };
            let header = Header::from_bytes(raw);
            if used.length == 0 {
                continue;
            }
            assert_eq!(used.length, HEADER_SIZE as u32 + header.length);
            assert_eq!(header.destination_cid, CID);
            self.inbox.push_back((header, used.written[HEADER_SIZE..used.length as usize].to_vec()));
        }
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, parts: &[&[u8]]) {
        eventually("room in the transmit queue", || {
            self.pump();
            (self.in_flight < 32).then_some(())
        });
        let parts: Vec<_> = parts.iter().map(|part| Buffer::Readable(part)).collect();
        self.driver.add(1, &parts);
        self.in_flight += 1;
    }

    pub fn send(&mut self, header: Header, payload: &[u8]) {
        self.send_raw(&[&header.to_bytes(), payload]);
    }

    /// The next packet for a guest's port; packets of other ports stay.
    pub fn try_packet(&mut self, port: u32) -> Option<(Header, Vec<u8>)> {
        self.pump();
        let at = self.inbox.iter().position(|(header, _)| header.destination_port == port)?;
        self.inbox.remove(at)
    }

    pub fn packet(&mut self, port: u32) -> (Header, Vec<u8>) {
        eventually("a packet for the guest", || self.try_packet(port))
    }

    #[track_caller]
    pub fn expect(&mut self, port: u32, op: Op) -> Header {
        let (header, _) = self.packet(port);
        assert_eq!(Op::from_number(header.op), Some(op), "{header:?}");
        header
    }

    /// Nothing more comes: the device has answered all before the answer to one more question.
    pub fn is_quiet(&mut self) -> bool {
        let question = Header { op: Op::Data as u16, ..header(u32::MAX, u32::MAX) };
        self.send(question, b"");
        self.expect(u32::MAX, Op::Reset);
        self.inbox.is_empty()
    }

    /// Connects from `guest` to `host`'s port.
    pub fn connect(&mut self, guest: u32, host: u32) -> Socket {
        self.send(Header { op: Op::Request as u16, ..header(guest, host) }, b"");
        let answer = self.expect(guest, Op::Response);
        Socket::new(guest, &answer)
    }

    /// Takes a connection of the host's to `guest`.
    pub fn accept(&mut self, guest: u32) -> Socket {
        let request = self.expect(guest, Op::Request);
        assert_eq!((request.source_cid, request.kind), (HOST_CID, STREAM));
        let socket = Socket::new(guest, &request);
        self.send(socket.header(Op::Response), b"");
        socket
    }

    /// Receives data until `wanted` bytes came, or the host sends no more; answers with credit as Linux does.
    pub fn receive(&mut self, socket: &mut Socket, wanted: usize) -> Vec<u8> {
        let mut all = Vec::new();
        let mut told = socket.taken;
        while all.len() < wanted {
            let (header, payload) = self.packet(socket.guest);
            socket.note(&header);
            match Op::from_number(header.op) {
                Some(Op::Data) => {
                    socket.taken = socket.taken.wrapping_add(payload.len() as u32);
                    all.extend(payload);
                    assert!(socket.taken.wrapping_sub(told) <= ROOM, "beyond the guest's credit");
                    if socket.taken.wrapping_sub(told) > ROOM / 2 {
                        told = socket.taken;
                        self.send(socket.header(Op::CreditUpdate), b"");
                    }
                }
                Some(Op::CreditUpdate) => {}
                Some(Op::Shutdown) => {
                    socket.ended |= header.flags;
                    if header.flags & SHUTDOWN_SEND != 0 {
                        break;
                    }
                }
                _ => {
                    self.inbox.push_front((header, payload));
                    break;
                }
            }
        }
        self.send(socket.header(Op::CreditUpdate), b"");
        all
    }

    /// Sends bytes as credit comes.
    pub fn transmit(&mut self, socket: &mut Socket, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let length = bytes.len().min(MAX_PAYLOAD).min(socket.credit() as usize);
            if length == 0 {
                let update = self.expect(socket.guest, Op::CreditUpdate);
                socket.note(&update);
                continue;
            }
            let (now, later) = bytes.split_at(length);
            self.send(Header { length: length as u32, ..socket.header(Op::Data) }, now);
            socket.sent = socket.sent.wrapping_add(length as u32);
            bytes = later;
        }
    }

    pub fn shut(&mut self, socket: &Socket, flags: u32) {
        self.send(Header { flags, ..socket.header(Op::Shutdown) }, b"");
    }
}

/// A packet of this guest's, without an operation.
pub fn header(guest: u32, host: u32) -> Header {
    Header {
        source_cid: CID,
        destination_cid: HOST_CID,
        source_port: guest,
        destination_port: host,
        kind: STREAM,
        buffer: ROOM,
        ..Header::default()
    }
}

impl Socket {
    fn new(guest: u32, answer: &Header) -> Self {
        let credit_base = (answer.buffer, answer.forwarded);
        Self { guest, host: answer.source_port, sent: 0, taken: 0, ended: 0, credit_base }
    }

    pub fn note(&mut self, header: &Header) {
        self.credit_base = (header.buffer, header.forwarded);
    }

    pub fn credit(&self) -> u32 {
        let (buffer, forwarded) = self.credit_base;
        buffer - self.sent.wrapping_sub(forwarded)
    }

    pub fn header(&self, op: Op) -> Header {
        Header { op: op as u16, forwarded: self.taken, ..header(self.guest, self.host) }
    }
}
