//! A hostile guest's kernel, a peer, and a resolver on a network device: frames whose fields are mostly right,
//! in any order, with a socket in the place of passt.
//!
//! Found here: a panic or a hang of the device's thread, a frame that leaves the guest in another's name or for
//! a place that is never open, and a frame to the guest that is not what the peer sent.

#![no_main]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::net::UnixStream,
    time::Duration,
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use virtio::testing::{Buffer, Driver};
use virtio_net::{
    Config, HEADER, MAX_FRAME, Net, PasstStream,
    filter::{Cidr, Ends, Journal, Mac, Policy, Query, Rule},
    resolver::{Channel, Message},
};

/// Two pairs of queues, and the control queue.
const SIZES: [u16; 5] = [256, 256, 256, 256, 16];
const CONTROL: usize = 4;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 111, 2, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 111, 2, 1);
const GUEST_6: Ipv6Addr = Ipv6Addr::new(0xfd6e, 0x6f66, 0x6561, 1, 0, 0, 0, 2);
const GATEWAY_6: Ipv6Addr = Ipv6Addr::new(0xfd6e, 0x6f66, 0x6561, 1, 0, 0, 0, 1);

#[derive(Arbitrary, Debug)]
struct Input {
    lan: bool,
    offline: bool,
    /// Everything that can be open is.
    open: bool,
    actions: Vec<Action>,
}

#[derive(Arbitrary, Debug)]
enum Action {
    Send {
        second: bool,
        frame: Frame,
        header: Option<[u8; HEADER]>,
        cut: u8,
    },
    Raw(Vec<u8>),
    /// What the driver says by its control queue.
    Command {
        command: [u8; 2],
        pairs: u16,
        cut: u8,
    },
    Feed {
        second: bool,
        count: u8,
        size: u16,
    },
    Take,
    /// The peer sends a frame, or bytes that are none.
    Come {
        second: bool,
        frame: Frame,
        long: u16,
    },
    Garbage(bool, Vec<u8>),
    Answer {
        v6: bool,
        port: u16,
        length: u16,
    },
    Open {
        address: [u8; 4],
        port: Option<u16>,
        seconds: u16,
    },
    Host {
        address: [u8; 4],
        length: u8,
    },
    Reset,
    BreakRing {
        queue: u8,
        head: u16,
    },
}

#[derive(Arbitrary, Debug)]
struct Frame {
    v6: bool,
    to: To,
    /// Of 6 (TCP), 17 (UDP), ICMP, and any.
    protocol: u8,
    flags: u8,
    port: u16,
    payload: u16,
    /// Single bytes that are not as they should be.
    odd: Option<[(u8, u8); 2]>,
}

#[derive(Arbitrary, Debug)]
enum To {
    Internet,
    Gateway,
    Guest,
    Any([u8; 16]),
}

impl Frame {
    fn bytes(&self, from_guest: bool) -> Vec<u8> {
        let (to_mac, from_mac) = if from_guest { (GATEWAY_MAC, MAC) } else { (MAC, GATEWAY_MAC) };
        let mut frame = [to_mac, from_mac].concat();
        let icmp = if self.v6 { 58 } else { 1 };
        let protocol = match self.protocol % 8 {
            0..3 => 6,
            3..5 => 17,
            5..7 => icmp,
            _ => self.protocol,
        };
        let payload = usize::from(self.payload % 3000);
        let mut body = Vec::new();
        match protocol {
            6 => {
                body.extend([0x9c, 0x40]);
                body.extend(self.port.to_be_bytes());
                body.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, self.flags, 0, 0, 0, 0, 0, 0]);
            }
            17 => {
                body.extend([0x9c, 0x40]);
                body.extend(self.port.to_be_bytes());
                body.extend((8 + payload as u16).to_be_bytes());
                body.extend([0, 0]);
            }
            _ => body.extend([self.flags, 0, 0, 0, 0, 0, 0, 0]),
        }
        body.resize(body.len() + payload, 7);
        if self.v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((body.len() as u16).to_be_bytes());
            frame.extend([protocol, 64]);
            let other = match self.to {
                To::Internet => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5),
                To::Gateway => GATEWAY_6,
                To::Guest => GUEST_6,
                To::Any(bytes) => bytes.into(),
            };
            let ends = if from_guest { [GUEST_6, other] } else { [other, GUEST_6] };
            frame.extend(ends.map(|address| address.octets()).concat());
        } else {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + body.len() as u16).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            let other = match self.to {
                To::Internet => Ipv4Addr::new(203, 0, 113, 5),
                To::Gateway => GATEWAY,
                To::Guest => GUEST,
                To::Any([a, b, c, d, ..]) => Ipv4Addr::new(a, b, c, d),
            };
            let ends = if from_guest { [GUEST, other] } else { [other, GUEST] };
            frame.extend(ends.map(|address| address.octets()).concat());
        }
        frame.extend(body);
        for (at, byte) in self.odd.into_iter().flatten() {
            if let Some(place) = frame.get_mut(usize::from(at)) {
                *place = byte;
            }
        }
        frame
    }
}

struct Session {
    driver: Driver,
    /// One for each pair of queues.
    peers: [Peer; 2],
    resolver: Channel,
    /// How many buffers each receive queue has.
    fed: [usize; 2],
}

struct Peer {
    stream: UnixStream,
    /// Bytes that came and are no whole frame yet.
    rest: Vec<u8>,
    broken: bool,
}

impl Session {
    fn start(input: &Input) -> Self {
        let [(one, first), (other, second)] = [(); 2].map(|()| {
            let (ours, stream) = UnixStream::pair().expect("a socket pair");
            stream.set_nonblocking(true).expect("a socket that does not wait");
            (PasstStream::new(ours), Peer { stream, rest: Vec::new(), broken: false })
        });
        let (channel, resolver) = Channel::pair().expect("a socket pair");
        let everything = ["0.0.0.0/0", "::/0"]
            .map(|text| Rule { range: text.parse::<Cidr>().expect("a range"), port: None });
        let policy = Policy {
            mac: Mac(MAC),
            gateway_mac: Mac(GATEWAY_MAC),
            v4: Some(Ends { guest: GUEST, gateway: GATEWAY }),
            v6: Some(Ends { guest: GUEST_6, gateway: GATEWAY_6 }),
            lan: input.lan,
            offline: input.offline,
            allow: if input.open { everything.into() } else { Vec::new() },
            ..Policy::default()
        };
        let config = Config { policy, mtu: 9000, resolver: Some(channel), journal: Journal::default() };
        let net = Net::with_queues(vec![one, other], config).expect("a valid configuration");
        Self { driver: Driver::start(net), peers: [first, second], resolver, fed: [0; 2] }
    }

    /// Reads what left the guest, and looks at it.
    fn look(&mut self) {
        let mut chunk = [0; 1 << 16];
        for Peer { stream, rest, .. } in &mut self.peers {
            while let Ok(length @ 1..) = stream.read(&mut chunk) {
                rest.extend(&chunk[..length]);
            }
            while let Some(length) = rest.first_chunk().map(|raw| u32::from_be_bytes(*raw) as usize) {
                assert!(length <= MAX_FRAME, "a frame of {length} bytes");
                let Some(frame) = rest.get(4..4 + length) else { break };
                check(frame);
                rest.drain(..4 + length);
            }
        }
    }

    fn send(&mut self, queue: usize, raw: &[u8], cut: usize) {
        let (first, second) = raw.split_at(cut.min(raw.len()));
        self.driver.add(queue, &[Buffer::Readable(first), Buffer::Readable(second)]);
        self.wait(queue);
    }

    fn wait(&mut self, queue: usize) {
        // A buffer comes back, or the peer has to read first, or the device wants a reset.
        for _ in 0..20_000 {
            if self.driver.used(queue).is_some() {
                return;
            }
            self.look();
            if self.driver.get(0x70) & 0x40 != 0 {
                return self.reset();
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        panic!("the device does not give a buffer back");
    }

    fn reset(&mut self) {
        self.driver.initialise(&SIZES);
        self.fed = [0; 2];
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Send { second, frame, header, cut } => {
                let raw = [&header.unwrap_or_default()[..], &frame.bytes(true)].concat();
                self.send(1 + 2 * usize::from(*second), &raw, usize::from(*cut));
            }
            Action::Raw(bytes) => self.send(1, bytes, bytes.len() / 2),
            Action::Command { command, pairs, cut } => {
                let said = [&command[..], &pairs.to_le_bytes()].concat();
                let said = &said[..said.len() - usize::from(cut % 4)];
                self.driver.add(CONTROL, &[Buffer::Readable(said), Buffer::Writable(1)]);
                self.wait(CONTROL);
            }
            Action::Feed { second, count, size } => {
                let pair = usize::from(*second);
                for _ in 0..usize::from(count % 32).min(usize::from(SIZES[0]) - self.fed[pair]) {
                    self.driver.add(2 * pair, &[Buffer::Writable(u32::from(*size).max(HEADER as u32))]);
                    self.fed[pair] += 1;
                }
            }
            Action::Take => self.take(),
            Action::Come { second, frame, long } => {
                let mut frame = frame.bytes(false);
                frame.resize(frame.len() + usize::from(long % 9000), 9);
                let length = frame.len() as u32;
                self.come(*second, &[&length.to_be_bytes()[..], &frame].concat());
            }
            Action::Garbage(second, bytes) => self.come(*second, bytes),
            Action::Answer { v6, port, length } => {
                let query = Query { v6: *v6, port: *port };
                let payload = vec![1; usize::from(length % 4096)];
                let _ = self.resolver.send(&Message::Datagram { query, payload });
            }
            Action::Open { address, port, seconds } => {
                let time = Duration::from_secs(u64::from(*seconds));
                let _ = self.resolver.send(&Message::Open { address: (*address).into(), port: *port, time });
            }
            Action::Host { address, length } => {
                let on_link = vec![Cidr::new((*address).into(), *length)];
                let _ = self
                    .resolver
                    .send(&Message::Host { addresses: vec![Cidr::host((*address).into())], on_link });
            }
            Action::Reset => self.reset(),
            Action::BreakRing { queue, head } => {
                let queue = usize::from(*queue) % SIZES.len();
                self.driver.publish(queue, (*head).max(SIZES[0]));
                // A receive queue is looked at when something is to go; a reset must work in any case.
                if queue % 2 == 1 {
                    self.driver.wait_needs_reset();
                }
                self.reset();
            }
        }
        self.look();
        while self.resolver.receive().is_ok() {}
    }

    /// A stream that was cut once has no frames any more.
    fn come(&mut self, second: bool, bytes: &[u8]) {
        let Peer { stream, broken, .. } = &mut self.peers[usize::from(second)];
        if !*broken {
            *broken = !matches!(stream.write(bytes), Ok(length) if length == bytes.len());
        }
    }

    fn take(&mut self) {
        for (pair, fed) in self.fed.iter_mut().enumerate() {
            while let Some(used) = self.driver.used(2 * pair) {
                *fed -= 1;
                assert!(used.length as usize <= used.written.len(), "more than the buffer has");
            }
        }
    }
}

/// What left the guest is an ordinary packet of its own, to a place that may be open.
fn check(frame: &[u8]) {
    assert_eq!(frame[..12], [GATEWAY_MAC, MAC].concat());
    match u16::from_be_bytes([frame[12], frame[13]]) {
        0x0800 => {
            assert_eq!(frame[14], 0x45, "no options");
            assert_eq!((frame[20] & 0xbf, frame[21]), (0, 0), "no fragment");
            assert!(matches!(frame[23], 1 | 6 | 17));
            assert_eq!(frame[26..30], GUEST.octets());
            assert_eq!(frame.len(), 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]])));
            let to = Ipv4Addr::new(frame[30], frame[31], frame[32], frame[33]);
            assert!(!to.is_loopback() && !to.is_multicast() && frame[30] != 0 && frame[30] < 240, "{to}");
        }
        0x86dd => {
            assert!(matches!(frame[20], 6 | 17 | 58), "no extension header");
            assert_eq!(frame[22..38], GUEST_6.octets());
            assert_eq!(frame.len(), 54 + usize::from(u16::from_be_bytes([frame[18], frame[19]])));
            let to = Ipv6Addr::from(<[u8; 16]>::try_from(&frame[38..54]).expect("16 bytes"));
            assert!(!to.is_loopback() && !to.is_multicast() && to.to_ipv4().is_none(), "{to}");
            assert!(frame[38..40] != [0x20, 2], "6to4");
        }
        other => panic!("ethertype {other:#x} left the guest"),
    }
}

fuzz_target!(|input: Input| {
    let mut session = Session::start(&input);
    for action in input.actions.iter().take(64) {
        session.act(action);
    }
    session.take();
    // However it was treated, it serves the next driver.
    session.reset();
    session.send(1, &[0; HEADER], HEADER);
});
