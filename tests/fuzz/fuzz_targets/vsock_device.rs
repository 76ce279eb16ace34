//! A hostile guest's kernel, and programs of the host, on a virtio socket device: packets whose fields
//! are mostly right, in any order, with real Unix sockets behind them.
//!
//! Found here: a panic or a hang of the device's thread, a packet to the guest that is malformed, and more
//! bytes than the guest gave credit for.

#![no_main]

use std::{
    collections::{HashMap, VecDeque},
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    sync::OnceLock,
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use virtio::testing::{Buffer, Driver};
use virtio_vsock::{Config, Door, Listen, Visitors, Vsock};

const HEADER_SIZE: usize = 44;
const SIZES: [u16; 3] = [256; 3];

/// The port of the guest that host programs reach, and the port of the host's one program.
const LISTENED: u32 = 1;
const SERVICE: u32 = 2;

#[derive(Arbitrary, Debug)]
enum Action {
    Packet(Packet),
    Raw(Vec<u8>),
    Feed { count: u8, size: Size },
    Take,
    Connect,
    Write { which: u8, length: u16 },
    Read { which: u8, length: u16 },
    Shut { which: u8, write: bool },
    Close { which: u8 },
    Reset,
    BreakRing { queue: bool, head: u16 },
}

#[derive(Arbitrary, Debug)]
enum Size {
    Page,
    Large,
    Any(u8),
}

#[derive(Arbitrary, Debug)]
struct Packet {
    port: Port,
    op: u8,
    /// Sent as they are when one of them says so; else right, or nearly.
    odd: Option<Odd>,
    flags: u8,
    payload: u16,
    credit: Credit,
    cut: u8,
}

#[derive(Arbitrary, Debug)]
enum Port {
    /// From one of few ports, to the host's program.
    Service(u8),
    /// To the peer of a packet that came.
    Answer(u8),
    Any(u32, u32),
}

#[derive(Arbitrary, Debug)]
enum Odd {
    Cids(u64, u64),
    Kind(u16),
    Op(u16),
    Length(u32),
}

#[derive(Arbitrary, Debug)]
enum Credit {
    Honest,
    Any(u32, u32),
}

/// Sockets of the host, once for the process.
struct Host {
    guest: UnixListener,
    door: Door,
    service: Visitors,
    directory: tempfile::TempDir,
}

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory for sockets");
        let bind = |name| {
            let listener = UnixListener::bind(directory.path().join(name)).expect("a Unix socket");
            listener.set_nonblocking(true).expect("a socket that does not wait");
            listener
        };
        let (door, service) = Door::new().expect("a door");
        Host { guest: bind("guest"), door, service, directory }
    })
}

/// What the guest knows of a connection, by its two ports.
#[derive(Default)]
struct Account {
    /// Bytes that came.
    received: u32,
    /// Up to how many bytes may have come: what the guest stated last.
    limit: u32,
    asked: bool,
    /// The guest made other statements, or used the name twice: nothing can be said any more.
    muddled: bool,
}

struct Session {
    driver: Driver,
    fed: usize,
    /// Ports of packets that came: the guest's, the host's.
    peers: VecDeque<(u32, u32)>,
    accounts: HashMap<(u32, u32), Account>,
    streams: Vec<UnixStream>,
}

impl Session {
    fn start() -> Self {
        let host = host();
        let device = Vsock::new(Config {
            cid: 3,
            listen: vec![Listen::new(LISTENED, host.guest.try_clone().expect("one more descriptor"))],
            connect: HashMap::from([(SERVICE, host.door.clone())]),
        });
        let driver = Driver::start(device.expect("a valid configuration"));
        let mut new =
            Self { driver, fed: 0, peers: VecDeque::new(), accounts: HashMap::new(), streams: Vec::new() };
        new.feed(8, 4096);
        new
    }

    fn feed(&mut self, count: usize, size: u32) {
        for _ in 0..count.min(usize::from(SIZES[0]) - self.fed) {
            self.driver.add(0, &[Buffer::Writable(size)]);
            self.fed += 1;
        }
    }

    fn reset(&mut self) {
        self.driver.initialise(&SIZES);
        self.fed = 0;
        self.peers.clear();
        self.accounts.clear();
        self.feed(8, 4096);
    }

    /// Sends one packet and waits until the device has handed it back.
    fn send(&mut self, raw: &[u8], cut: usize) {
        let (first, second) = raw.split_at(cut.min(raw.len()));
        self.driver.request(1, &[Buffer::Readable(first), Buffer::Readable(second)]);
    }

    fn packet(&mut self, packet: &Packet) {
        let (guest, to_host) = match packet.port {
            Port::Service(port) => (u32::from(port % 4) + 10, SERVICE),
            Port::Answer(which) if !self.peers.is_empty() => {
                self.peers[usize::from(which) % self.peers.len()]
            }
            Port::Answer(_) => (LISTENED, 1 << 30),
            Port::Any(guest, to_host) => (guest, to_host),
        };
        let account = self.accounts.entry((guest, to_host)).or_default();
        let (buffer, forwarded) = match packet.credit {
            Credit::Honest => (64 << 10, account.received),
            Credit::Any(buffer, forwarded) => (buffer, forwarded),
        };
        account.limit = forwarded.wrapping_add(buffer);
        account.muddled |= matches!(packet.credit, Credit::Any(..)) || packet.odd.is_some();
        let (mut cids, mut kind, mut op) = ((3, 2), 1, u16::from(packet.op % 7) + 1);
        account.muddled |= op == 3 || (op == 1 && account.asked);
        account.asked |= op == 1;
        let mut length = u32::from(if op == 5 { packet.payload } else { 0 });
        let payload = vec![packet.cut; length as usize];
        match packet.odd {
            Some(Odd::Cids(source, destination)) => cids = (source, destination),
            Some(Odd::Kind(odd)) => kind = odd,
            Some(Odd::Op(odd)) => op = odd,
            Some(Odd::Length(odd)) => length = odd,
            None => {}
        }
        let mut raw = Vec::with_capacity(HEADER_SIZE + payload.len());
        raw.extend(u64::to_le_bytes(cids.0));
        raw.extend(u64::to_le_bytes(cids.1));
        for word in [guest, to_host, length] {
            raw.extend(word.to_le_bytes());
        }
        raw.extend(kind.to_le_bytes());
        raw.extend(op.to_le_bytes());
        for word in [u32::from(packet.flags % 4), buffer, forwarded] {
            raw.extend(word.to_le_bytes());
        }
        raw.extend(payload);
        self.send(&raw, usize::from(packet.cut));
    }

    /// Takes all packets that came, and looks at them.
    fn take(&mut self) {
        while let Some(used) = self.driver.used(0) {
            self.fed -= 1;
            if used.length == 0 {
                continue;
            }
            let word = |at: usize| {
                let bytes = used.written[at..].first_chunk().expect("a whole header");
                u32::from_le_bytes(*bytes)
            };
            let (from_host, guest, length) = (word(16), word(20), word(24));
            let op = word(28) >> 16;
            assert!((1..=7).contains(&op), "operation {op}");
            assert_eq!(used.length as usize, HEADER_SIZE + length as usize, "a packet's length");
            assert!(op == 5 || length == 0, "payload in operation {op}");
            let name = (guest, from_host);
            if let Some(account) = self.accounts.get_mut(&name) {
                account.muddled |= op == 3;
                if op == 5 && !account.muddled {
                    account.received = account.received.wrapping_add(length);
                    let left = account.limit.wrapping_sub(account.received);
                    assert!(left <= 64 << 10, "more than the guest gave credit for");
                }
            }
            if self.peers.len() == 8 {
                self.peers.pop_front();
            }
            self.peers.push_back(name);
        }
    }

    fn stream(&mut self, which: u8) -> Option<&mut UnixStream> {
        let count = self.streams.len();
        self.streams.get_mut(usize::from(which).checked_rem(count)?)
    }

    fn keep(&mut self, stream: UnixStream) {
        if self.streams.len() < 64 && stream.set_nonblocking(true).is_ok() {
            self.streams.push(stream);
        }
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Packet(ref packet) => self.packet(packet),
            Action::Raw(ref bytes) => self.send(bytes, bytes.len() / 2),
            Action::Feed { count, ref size } => {
                let size = match *size {
                    Size::Page => 4096,
                    Size::Large => 20_000,
                    Size::Any(size) => u32::from(size),
                };
                self.feed(usize::from(count % 32), size);
            }
            Action::Take => self.take(),
            Action::Connect => {
                if let Ok(stream) = UnixStream::connect(host().directory.path().join("guest")) {
                    self.keep(stream);
                }
            }
            Action::Write { which, length } => {
                // What does not fit, or has no reader any more, is no matter here; nor is it below.
                let _ = self.stream(which).map(|stream| stream.write(&vec![1; usize::from(length)]));
            }
            Action::Read { which, length } => {
                let _ = self.stream(which).map(|stream| stream.read(&mut vec![0; usize::from(length)]));
            }
            Action::Shut { which, write } => {
                let how = if write { Shutdown::Write } else { Shutdown::Read };
                let _ = self.stream(which).map(|stream| stream.shutdown(how));
            }
            Action::Close { which } => {
                if !self.streams.is_empty() {
                    self.streams.swap_remove(usize::from(which) % self.streams.len());
                }
            }
            Action::Reset => self.reset(),
            Action::BreakRing { queue, head } => {
                self.driver.publish(usize::from(queue), head.max(SIZES[0]));
                // A receive queue is looked at when something is to go; a reset must work in any case.
                if queue {
                    self.driver.wait_needs_reset();
                }
                self.reset();
            }
        }
        while let Ok(stream) = host().service.accept() {
            self.keep(stream);
        }
    }
}

fuzz_target!(|actions: Vec<Action>| {
    let mut session = Session::start();
    for action in actions.iter().take(64) {
        session.act(action);
    }
    session.take();
    // However it was treated, it serves the next driver.
    session.reset();
    session.send(&[], 0);
});
