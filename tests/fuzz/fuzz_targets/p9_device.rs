//! A hostile guest's kernel on a 9P device: messages that are mostly right, cut into descriptors anywhere, and
//! now and then a chain whose descriptors are anything.
//!
//! Found here: a panic or a hang of the device's thread, a reply that is longer than its room or malformed, a
//! byte of the file outside, and a device that does not serve the next driver.
#![no_main]

use std::os::unix::fs::symlink;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use memchr::memmem;
use ninep::client::encode;
use ninep::wire::{Fid, Name, Request, Step, Tag, VERSION, Walk, kind};
use ninep::{Access, ExportBuilder, Limits, Server};
use virtio::testing::{Buffer, Driver};
use virtio_9p::NineP;

/// In the file outside and nowhere else.
const CANARY: &[u8] = b"canary-0b64a2d98e17";

/// A busy machine is no fault of the device.
const PATIENCE: Duration = Duration::from_secs(20);

const QUEUE: u16 = 128;
const NEEDS_RESET: u32 = 0x40;
const STATUS: u32 = 0x70;

#[derive(Arbitrary, Debug)]
enum Action {
    Request {
        message: Message,
        cuts: Vec<u16>,
        rooms: Vec<u16>,
    },
    /// Descriptors from the table's start as they are, the first made available.
    Chain {
        descriptors: Vec<Descriptor>,
        head: u8,
    },
    Reset,
}

#[derive(Arbitrary, Debug)]
enum Message {
    Raw(Vec<u8>),
    Version {
        msize: u16,
    },
    Attach,
    Walk {
        fid: u8,
        new_fid: u8,
        name: u8,
    },
    Open {
        fid: u8,
        flags: u8,
    },
    WalkOpen {
        fid: u8,
        new_fid: u8,
        flags: u8,
    },
    Create {
        fid: u8,
        name: u8,
    },
    Read {
        fid: u8,
        offset: u16,
        count: u32,
    },
    Readdir {
        fid: u8,
        offset: u16,
        count: u32,
    },
    /// A Twrite of this many bytes that may claim another number.
    Write {
        fid: u8,
        offset: u16,
        length: u16,
        claims: Option<u32>,
    },
    Clunk {
        fid: u8,
    },
    Unlink {
        fid: u8,
        name: u8,
    },
}

#[derive(Arbitrary, Debug)]
struct Descriptor {
    address: Address,
    length: u32,
    flags: u8,
    next: u8,
}

#[derive(Arbitrary, Debug)]
enum Address {
    Memory(u32),
    Any(u64),
}

const NAMES: [&str; 6] = ["file", "deep", "link", "new", "up", "other"];

static DIRECTORY: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("outside"), CANARY).expect("the file outside");
    directory
});

/// The share as each run finds it.
fn server() -> Server {
    let share = DIRECTORY.path().join("share");
    let _ = std::fs::remove_dir_all(&share);
    std::fs::create_dir_all(share.join("deep")).expect("the share");
    std::fs::write(share.join("file"), [7; 50_000]).expect("a file");
    symlink("../outside", share.join("link")).expect("a link");
    symlink("..", share.join("up")).expect("a link");
    let export = ExportBuilder::new().directory_with("/", share, Access::READ_WRITE);
    let limits = Limits { msize: 64 << 10, fids: 64, open_files: 16, descriptors: 8 };
    Server::new(export.and_then(ExportBuilder::open).expect("an export of the share"), limits)
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        let fid = |fid: &u8| Fid(u32::from(*fid % 8));
        let name =
            |index: &u8| Name::new(NAMES[usize::from(*index) % NAMES.len()].as_bytes()).expect("a name");
        let request = match self {
            Self::Raw(bytes) => return bytes.clone(),
            Self::Version { msize } => Request::Version { msize: u32::from(*msize) + 4000, version: VERSION },
            Self::Attach => {
                Request::Attach { fid: Fid(0), afid: Fid::NONE, uname: b"", aname: b"", n_uname: 0 }
            }
            Self::Walk { fid: from, new_fid, name: index } => {
                let mut names = Walk::EMPTY;
                let step = if *index > 250 { Step::Parent } else { Step::Child(name(index)) };
                names.push(step).expect("one name");
                Request::Walk { fid: fid(from), new_fid: fid(new_fid), names }
            }
            Self::Open { fid: file, flags } => {
                Request::Lopen { fid: fid(file), flags: u32::from(*flags % 4) }
            }
            Self::WalkOpen { fid: from, new_fid, flags } => {
                Request::WalkOpen { fid: fid(from), new_fid: fid(new_fid), flags: u32::from(*flags % 4) }
            }
            Self::Create { fid: file, name: index } => {
                Request::Lcreate { fid: fid(file), name: name(index), flags: 0o102, mode: 0o644, gid: 0 }
            }
            Self::Read { fid: file, offset, count } => {
                Request::Read { fid: fid(file), offset: (*offset).into(), count: *count }
            }
            Self::Readdir { fid: file, offset, count } => {
                Request::Readdir { fid: fid(file), offset: (*offset).into(), count: *count }
            }
            Self::Write { fid: file, offset, length, claims } => {
                let data = vec![1; usize::from(*length)];
                let mut message =
                    encode(Tag(1), &Request::Write { fid: fid(file), offset: (*offset).into(), data: &data });
                if let Some(claims) = claims {
                    message[19..23].copy_from_slice(&claims.to_le_bytes());
                }
                return message;
            }
            Self::Clunk { fid: file } => Request::Clunk { fid: fid(file) },
            Self::Unlink { fid: file, name: index } => {
                Request::Unlinkat { directory: fid(file), name: name(index), flags: 0 }
            }
        };
        encode(Tag(1), &request)
    }
}

/// Cuts a message where it is told, into at most 40 pieces; some are empty.
fn cut<'a>(mut message: &'a [u8], cuts: &[u16]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for &at in cuts.iter().take(40) {
        let (piece, rest) = message.split_at(usize::from(at).min(message.len()));
        pieces.push(piece);
        message = rest;
    }
    pieces.push(message);
    pieces
}

fn request(driver: &mut Driver, message: &[u8], cuts: &[u16], rooms: &[u16]) -> Vec<u8> {
    let mut buffers: Vec<_> = cut(message, cuts).into_iter().map(Buffer::Readable).collect();
    buffers.extend(rooms.iter().take(40).map(|&room| Buffer::Writable(room.into())));
    let start = Instant::now();
    let used = driver.request(0, &buffers);
    assert!(start.elapsed() < PATIENCE, "a request took {:?}", start.elapsed());
    let length = used.length as usize;
    assert!(length <= used.written.len(), "a reply of {length} bytes in {}", used.written.len());
    assert!(memmem::find(&used.written, CANARY).is_none(), "the file outside was read");
    if length > 0 {
        assert_eq!(used.written[..4], used.length.to_le_bytes(), "the size of a reply");
    }
    used.written[..length].to_vec()
}

/// Whatever it was: the device has handed it back, or says that it goes no further.
fn settle(driver: &mut Driver) {
    let end = Instant::now() + PATIENCE;
    while driver.get(STATUS) & NEEDS_RESET == 0 && driver.used(0).is_none() {
        assert!(Instant::now() < end, "the device hangs");
        std::thread::yield_now();
    }
    driver.initialise(&[QUEUE]);
}

fuzz_target!(|actions: Vec<Action>| {
    let mut driver = Driver::start(NineP::new("fuzz", server()).expect("a short tag"));
    let version = encode(Tag(1), &Request::Version { msize: 65_535, version: VERSION });
    request(&mut driver, &version, &[], &[64]);
    request(&mut driver, &Message::Attach.encode(), &[], &[64]);
    for action in actions.iter().take(48) {
        match action {
            Action::Request { message, cuts, rooms } => {
                request(&mut driver, &message.encode(), cuts, rooms);
            }
            Action::Chain { descriptors, head } => {
                for (index, descriptor) in (0..QUEUE).zip(descriptors) {
                    let address = match descriptor.address {
                        Address::Memory(address) => u64::from(address) % (16 << 20),
                        Address::Any(address) => address,
                    };
                    let Descriptor { length, flags, next, .. } = *descriptor;
                    driver.write_descriptor(0, index, address, length, (flags % 8).into(), next.into());
                }
                driver.publish(0, (*head).into());
                settle(&mut driver);
            }
            Action::Reset => driver.initialise(&[QUEUE]),
        }
    }
    driver.initialise(&[QUEUE]);
    let reply = request(&mut driver, &version, &[7, 1], &[11, 53]);
    assert_eq!(reply[4], kind::TVERSION + 1, "the next driver is served");
    let outside = std::fs::read(DIRECTORY.path().join("outside"));
    assert_eq!(outside.ok().as_deref(), Some(CANARY), "the file outside was changed");
});
