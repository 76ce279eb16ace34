//! A hostile client's whole session over a temporary tree, a part of which it may change: no reply ever holds a
//! byte of the file outside, no request takes a second, nothing outside of the writable grant changes, and
//! descriptors stay few.
#![no_main]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use memchr::memmem;
use ninep::client::encode;
use ninep::wire::{Fid, LockKind, Name, Request, SetAttributes, Step, Tag, VERSION, Walk, kind};
use ninep::{Access, Export, ExportBuilder, Limits, Server};
use rustix::time::{ClockId, clock_gettime};

/// In the file outside and nowhere else.
const CANARY: &[u8] = b"canary-7d1f0c9a4be2";

const LIMITS: Limits = Limits { msize: 64 << 10, fids: 64, open_files: 16, descriptors: 16 };

/// Standard streams, the fuzzer's own, the export's, and what [`LIMITS`] allow.
const MOST_DESCRIPTORS: usize = 80;

/// Names that exist, that lead outside, or that an attacker would try.
const NAMES: [&[u8]; 22] = [
    b"share",
    b"rw",
    b"new",
    b"other",
    b"inner",
    b"etc",
    b"bin",
    b"deep",
    b"deeper",
    b"file",
    b"note",
    b"link",
    b"up",
    b"absolute",
    b"fifo",
    b"descriptors",
    b"outside",
    b"..",
    b".",
    b"",
    b"../outside",
    b"deep/..",
];

#[derive(Arbitrary, Debug)]
enum Message {
    /// Bytes as they are.
    Raw(Vec<u8>),
    /// A message of any type with any body, and a true size.
    Framed {
        kind: u8,
        tag: u16,
        body: Vec<u8>,
    },
    /// A Twalk of names that need not be names.
    Names {
        fid: u8,
        new_fid: u8,
        names: Vec<u8>,
    },
    Version {
        msize: u16,
        large: bool,
    },
    Attach {
        fid: u8,
    },
    Walk {
        fid: u8,
        new_fid: u8,
        names: Vec<u8>,
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
    Read {
        fid: u8,
        offset: u32,
        count: u32,
    },
    Readdir {
        fid: u8,
        offset: Cookie,
        count: u16,
    },
    /// A request about one fid.
    About {
        fid: u8,
        what: u8,
    },
    /// A request that would change something.
    Change {
        fid: u8,
        other: u8,
        name: u8,
        what: u8,
    },
    Flush {
        tag: u16,
    },
}

#[derive(Arbitrary, Debug)]
enum Cookie {
    Any(u64),
    Small(u8),
    Grant(u8),
}

#[derive(Arbitrary, Debug)]
struct Session {
    room: u16,
    messages: Vec<Message>,
}

struct Host {
    directory: tempfile::TempDir,
    export: Arc<Export>,
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    build(path).expect("the tree of the temporary directory");
    let export = ExportBuilder::new()
        .directory("/share", path.join("share"))
        .and_then(|builder| builder.file("/share/deep/note", path.join("share/note")))
        .and_then(|builder| builder.file("/etc/note", path.join("share/note")))
        .and_then(|builder| builder.symlink("/bin", "share/up"))
        .and_then(|builder| builder.directory_with("/rw", path.join("rw"), Access::READ_WRITE))
        .and_then(|builder| builder.file("/rw/inner", path.join("share/note")))
        .and_then(ExportBuilder::open)
        .expect("an export of the temporary directory");
    Host { directory, export: Arc::new(export) }
});

fn build(path: &Path) -> std::io::Result<()> {
    fs::write(path.join("outside"), CANARY)?;
    fs::create_dir_all(path.join("share/deep/deeper"))?;
    fs::create_dir(path.join("rw"))?;
    fs::write(path.join("share/note"), "hello")?;
    fs::write(path.join("share/deep/deeper/file"), [7; 10_000])?;
    symlink("../outside", path.join("share/link"))?;
    symlink("..", path.join("share/up"))?;
    symlink(path, path.join("share/absolute"))?;
    symlink("/proc/self/fd", path.join("share/descriptors"))?;
    // A FIFO, which would block the server for good if it were opened; nothing in std makes one.
    std::process::Command::new("mkfifo").arg(path.join("share/fifo")).status().map(drop)
}

/// What of the writable grant an earlier session left makes way for the same tree.
fn renew(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::create_dir_all(path.join("deep/deeper"))?;
    fs::write(path.join("file"), "changeable")?;
    symlink("../outside", path.join("link"))?;
    symlink("..", path.join("up"))
}

fuzz_target!(|session: Session| {
    let host = &*HOST;
    renew(&host.directory.path().join("rw")).expect("the writable part of the tree");
    let server = Server::new(Arc::clone(&host.export), LIMITS);
    let mut reply = vec![0; usize::from(session.room) + 64];
    let opening = [
        Message::Version { msize: u16::MAX, large: false },
        Message::Attach { fid: 0 },
        Message::Walk { fid: 0, new_fid: 1, names: vec![0] },
        Message::Walk { fid: 0, new_fid: 2, names: vec![1] },
    ];
    for message in opening.iter().chain(session.messages.iter().take(256)) {
        let bytes = message.encode();
        reply.fill(0);
        let start = processor_time();
        let length = server.serve(&bytes, &mut reply[..]);
        let took = processor_time() - start;
        assert!(took < Duration::from_secs(1), "{message:?} took {took:?}");
        check_reply(&bytes, &reply, length);
    }
    let descriptors = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    assert!(descriptors < MOST_DESCRIPTORS, "{descriptors} descriptors");
    check_host(host.directory.path());
});

/// Of this thread: a busy machine is no fault of the server. One that sleeps for ever is libFuzzer's to find.
fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

fn check_reply(request: &[u8], reply: &[u8], length: usize) {
    assert!(length >= 11 || (7..11).contains(&length) || length == 0);
    assert!(memmem::find(reply, CANARY).is_none(), "the file outside was read");
    assert!(reply[length..].iter().all(|byte| *byte == 0) || reply[4] == kind::RLERROR);
    if length == 0 {
        panic!("no reply in {} bytes", reply.len());
    }
    assert_eq!(reply[..4], u32::try_from(length).unwrap_or(0).to_le_bytes());
    if let Some(tag) = request.get(5..7) {
        assert_eq!(reply[5..7], *tag);
    }
}

fn check_host(path: &Path) {
    assert_eq!(fs::read(path.join("outside")).ok().as_deref(), Some(CANARY));
    assert_eq!(fs::read(path.join("share/note")).ok().as_deref(), Some(&b"hello"[..]));
    let entries = |path: &str| fs::read_dir(HOST.directory.path().join(path)).map_or(0, Iterator::count);
    assert_eq!((entries(""), entries("share"), entries("share/deep")), (3, 7, 1));
}

fn name(index: u8) -> &'static [u8] {
    NAMES[usize::from(index) % NAMES.len()]
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        let tag = Tag(1);
        let fid = |fid: &u8| Fid(u32::from(*fid) % 80);
        match self {
            Self::Raw(bytes) => bytes.clone(),
            Self::Framed { kind, tag, body } => frame(*kind, *tag, body),
            Self::Names { fid: from, new_fid, names } => {
                let mut body = [fid(from).0.to_le_bytes(), fid(new_fid).0.to_le_bytes()].concat();
                body.extend((names.len() as u16).to_le_bytes());
                for name in names.iter().map(|index| name(*index)) {
                    body.extend((name.len() as u16).to_le_bytes());
                    body.extend(name);
                }
                frame(kind::TWALK, 1, &body)
            }
            Self::Version { msize, large } => {
                let msize = if *large { u32::MAX - u32::from(*msize) } else { u32::from(*msize) };
                encode(tag, &Request::Version { msize, version: VERSION })
            }
            Self::Attach { fid: root } => {
                let request =
                    Request::Attach { fid: fid(root), afid: Fid::NONE, uname: b"", aname: b"", n_uname: 0 };
                encode(tag, &request)
            }
            Self::Walk { fid: from, new_fid, names } => {
                let mut walk = Walk::EMPTY;
                for step in names.iter().take(16).filter_map(|index| Step::new(name(*index)).ok()) {
                    let _ = walk.push(step);
                }
                encode(tag, &Request::Walk { fid: fid(from), new_fid: fid(new_fid), names: walk })
            }
            Self::Open { fid: file, flags } => {
                encode(tag, &Request::Lopen { fid: fid(file), flags: open_flags(*flags) })
            }
            Self::WalkOpen { fid: from, new_fid, flags } => {
                let flags = open_flags(*flags);
                encode(tag, &Request::WalkOpen { fid: fid(from), new_fid: fid(new_fid), flags })
            }
            Self::Read { fid: file, offset, count } => {
                encode(tag, &Request::Read { fid: fid(file), offset: (*offset).into(), count: *count })
            }
            Self::Readdir { fid: directory, offset, count } => {
                let offset = match offset {
                    Cookie::Any(offset) => *offset,
                    Cookie::Small(offset) => (*offset).into(),
                    Cookie::Grant(offset) => 0x7fff_ffff_0000_0000 + u64::from(*offset),
                };
                encode(tag, &Request::Readdir { fid: fid(directory), offset, count: (*count).into() })
            }
            Self::About { fid: file, what } => encode(tag, &about(fid(file), *what)),
            Self::Change { fid: file, other, name: index, what } => {
                let name = Name::new(name(*index)).or_else(|_| Name::new(b"new"));
                name.map_or_else(
                    |_| Vec::new(),
                    |name| encode(tag, &change(fid(file), fid(other), name, *what)),
                )
            }
            Self::Flush { tag: old_tag } => encode(tag, &Request::Flush { old_tag: Tag(*old_tag) }),
        }
    }
}

fn frame(kind: u8, tag: u16, body: &[u8]) -> Vec<u8> {
    let mut message = u32::try_from(body.len() + 7).unwrap_or(0).to_le_bytes().to_vec();
    message.push(kind);
    message.extend(tag.to_le_bytes());
    message.extend(body);
    message
}

/// Half of the time none, or one.
fn open_flags(byte: u8) -> u32 {
    if byte < 128 { 0 } else { 1 << (byte & 31) }
}

fn about(fid: Fid, what: u8) -> Request<'static> {
    let (start, length, proc_id, client_id) = (0, 0, 1, &b"guest"[..]);
    match what % 8 {
        0 => Request::Getattr { fid, mask: u64::MAX },
        1 => Request::Readlink { fid },
        2 => Request::Statfs { fid },
        3 => Request::Clunk { fid },
        4 => Request::Xattrwalk { fid, new_fid: Fid(79), name: b"user.x" },
        5 => Request::Lock { fid, kind: LockKind(what), flags: 0, start, length, proc_id, client_id },
        6 => Request::Getlock { fid, kind: LockKind(what), start, length, proc_id, client_id },
        _ => Request::Fsync { fid, data_only: 0 },
    }
}

fn change<'a>(fid: Fid, other: Fid, name: Name<'a>, what: u8) -> Request<'a> {
    let directory = fid;
    match what % 12 {
        0 => Request::Lcreate { fid, name, flags: 0o102, mode: 0o644, gid: 0 },
        1 => Request::Write { fid, offset: u64::from(other.0) << (what % 64), data: b"overwritten" },
        2 => {
            // Owners are left: those of this process alone can be given.
            let valid = !0b110;
            let size = u64::from(other.0) << (what % 40);
            let attributes = SetAttributes { valid, mode: 0o7777, size, ..SetAttributes::default() };
            Request::Setattr { fid, attributes }
        }
        3 => Request::Remove { fid },
        4 if other.0.is_multiple_of(2) => {
            Request::Mknod { directory, name, mode: 0o010_644, major: 0, minor: 0, gid: 0 }
        }
        4 => Request::Xattrcreate { fid, name: b"user.x", size: 1, flags: 0 },
        5 => Request::Symlink { directory, name, target: b"/", gid: 0 },
        6 => Request::Mknod { directory, name, mode: 0o100_644, major: 0, minor: 0, gid: 0 },
        7 => Request::Mkdir { directory, name, mode: 0o755, gid: 0 },
        8 => Request::Link { directory, fid: other, name },
        9 => Request::Rename { fid, directory: other, name },
        10 => Request::Renameat { old_directory: fid, old_name: name, new_directory: other, new_name: name },
        _ => Request::Unlinkat { directory, name, flags: 0 },
    }
}
