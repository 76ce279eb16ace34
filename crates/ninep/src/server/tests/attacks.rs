//! What a hostile client tries. Each class of the threat model has its attempt here.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::*;
use crate::client::encode;
use crate::wire::{Name, SetAttributes, Step, Walk};

/// A Twalk of names that the encoder would not let through.
fn raw_walk(fid: u32, new_fid: u32, names: &[&[u8]]) -> Vec<u8> {
    let mut message = vec![0; 4];
    message.extend([kind::TWALK, 1, 0]);
    message.extend(fid.to_le_bytes());
    message.extend(new_fid.to_le_bytes());
    message.extend((names.len() as u16).to_le_bytes());
    for name in names {
        message.extend((name.len() as u16).to_le_bytes());
        message.extend(*name);
    }
    with_size(message)
}

pub(super) fn with_size(mut message: Vec<u8>) -> Vec<u8> {
    let size = message.len() as u32;
    message[..4].copy_from_slice(&size.to_le_bytes());
    message
}

pub(super) fn error(reply: &(u8, Tag, Vec<u8>)) -> Option<Errno> {
    let errno = i32::from_le_bytes(reply.2[..].try_into().ok()?);
    (reply.0 == kind::RLERROR).then(|| Errno::from_raw_os_error(errno))
}

#[test]
fn a_share_of_the_hosts_root_is_no_way_to_the_memory_of_processes() {
    let server = whole(Path::new("/"));
    let mut client = connect(&server, 1 << 16);
    client.version(1 << 16).unwrap();
    client.attach(0).unwrap();
    client.walk(0, 1, "usr").unwrap();
    assert_eq!(client.walk(0, 2, "proc"), Err(Errno::ACCESS));
    // A walk that fails after its first name tells how far it came, and makes no fid.
    let memory = format!("usr/../proc/{}/mem", std::process::id());
    assert_eq!(client.walk(0, 2, &memory).map(|qids| qids.len()), Ok(2));
    assert_eq!(client.open(2, 0), Err(Errno::BADF));
}

#[test]
fn dots_never_lead_above_the_root() {
    let host = Host::new();
    let server = whole(&host.path("share"));
    let mut client = connect(&server, 1 << 16);
    client.version(8192).unwrap();
    let root = client.attach(ROOT).unwrap();
    for path in ["..", "../..", "../../../../../../../../../../../../../../..", "deep/../..", "./.././.."] {
        let qids = client.walk(ROOT, 2, path).unwrap();
        assert_eq!(qids.last(), Some(&root), "{path}");
        assert_eq!(client.walk(2, 3, "outside"), Err(Errno::NOENT), "{path}");
        client.clunk(2).unwrap();
    }
}

#[test]
fn dots_stay_in_the_tree_when_the_host_moves_a_directory_out() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    client.walk(SHARE, 2, "deep/deeper").unwrap();
    fs::rename(host.path("share/deep/deeper"), host.path("moved")).unwrap();
    let share = client.getattr(SHARE).unwrap().qid;
    assert_eq!(client.walk(2, 3, "../..").unwrap()[1].path, share.path);
    assert_eq!(client.walk(2, 4, "../outside").unwrap().len(), 1);
    assert_eq!(client.walk(2, 4, "../../../outside").unwrap().len(), 3);
    assert_eq!(client.getattr(4), Err(Errno::BADF));
}

#[test]
fn names_with_slash_nul_or_nothing_are_refused() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    let outside = host.path("outside");
    let absolute = outside.as_os_str().as_encoded_bytes();
    let bad: [&[u8]; 10] = [
        b"",
        b"/",
        b"../outside",
        b"/etc/passwd",
        b"deep/deeper",
        b"note\0",
        b"\0",
        b"./note",
        b"..\0",
        absolute,
    ];
    for name in bad {
        for names in [&[name][..], &[b"deep", name], &[name, b"deep"]] {
            let reply = client.raw(&raw_walk(SHARE, 2, names));
            assert_eq!(error(&reply), Some(Errno::INVAL), "{}", name.escape_ascii());
        }
        assert_eq!(client.getattr(2), Err(Errno::BADF));
    }
    let long = [b'x'; 256];
    assert_eq!(error(&client.raw(&raw_walk(SHARE, 2, &[&long]))), Some(Errno::NAMETOOLONG));
    assert_eq!(client.walk(SHARE, 2, &"x".repeat(255)), Err(Errno::NOENT));
    let seventeen = [&b"."[..]; 17];
    assert_eq!(error(&client.raw(&raw_walk(SHARE, 2, &seventeen))), Some(Errno::INVAL));
}

#[test]
fn a_walk_through_a_symlink_is_refused() {
    let host = Host::new();
    symlink("/", host.path("share/root")).unwrap();
    symlink("/proc/self/fd", host.path("share/descriptors")).unwrap();
    let server = host.server();
    let mut client = session(&server);
    for link in ["link", "up", "inner", "root", "descriptors"] {
        client.walk(SHARE, 2, link).unwrap();
        for below in ["outside", "etc", "deeper", "..", ".", "3"] {
            assert_eq!(client.walk(2, 3, below), Err(Errno::NOTDIR), "{link}/{below}");
            assert_eq!(client.walk(SHARE, 3, &format!("{link}/{below}")).unwrap().len(), 1);
            assert_eq!(client.getattr(3), Err(Errno::BADF));
        }
        assert_eq!(client.open(2, 0), Err(Errno::LOOP));
        assert_eq!(client.read(2, 0, 100), Err(Errno::BADF));
        client.clunk(2).unwrap();
    }
}

#[test]
fn the_kernels_own_links_lead_nowhere() {
    let server = whole(Path::new("/proc/self"));
    let mut client = connect(&server, 1 << 16);
    client.version(8192).unwrap();
    client.attach(ROOT).unwrap();
    for link in ["cwd", "root", "exe"] {
        client.walk(ROOT, 2, link).unwrap();
        assert_eq!(client.walk(2, 3, "etc"), Err(Errno::NOTDIR));
        assert_eq!(client.open(2, 0), Err(Errno::LOOP));
        client.clunk(2).unwrap();
    }
    assert_eq!(client.walk(ROOT, 2, "root/etc/passwd").unwrap().len(), 1);
    assert_eq!(client.getattr(2), Err(Errno::BADF));
}

#[test]
fn a_link_swapped_in_during_the_walk_never_leads_out() {
    let host = Host::new();
    // `door` is by turns a directory with a harmless `outside`, and a link to the real one's directory.
    fs::create_dir(host.path("share/inside")).unwrap();
    fs::write(host.path("share/inside/outside"), "harmless").unwrap();
    symlink("..", host.path("share/out")).unwrap();
    let (door, inside, out) = (host.path("share/door"), host.path("share/inside"), host.path("share/out"));
    let server = host.server_with(Limits { descriptors: 1, ..Limits::default() });
    let mut client = session(&server);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for target in [&inside, &out] {
                    let _ = fs::rename(target, &door);
                    std::thread::yield_now();
                    let _ = fs::rename(&door, target);
                }
            }
        });
        let mut read = 0;
        for _ in 0..20_000 {
            if client.walk(SHARE, 2, "door/outside").is_ok_and(|qids| qids.len() == 2) {
                if client.open(2, 0).is_ok() {
                    assert_eq!(client.read(2, 0, 100).unwrap(), b"harmless");
                    read += 1;
                }
                client.clunk(2).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(read > 0, "the race was never won, so nothing was tested");
    });
}

#[test]
fn special_files_have_attributes_and_cannot_be_opened() {
    let host = Host::new();
    let _socket = std::os::unix::net::UnixListener::bind(host.path("share/socket")).unwrap();
    let server = host.server();
    let mut client = session(&server);
    for (name, file_type) in [("fifo", 0o010_000), ("socket", 0o140_000)] {
        client.walk(SHARE, 2, name).unwrap();
        assert_eq!(client.getattr(2).unwrap().mode & 0o170_000, file_type);
        for flags in [0, 0o4000, open_flags::DIRECTORY] {
            let expected = if flags == open_flags::DIRECTORY { Errno::NOTDIR } else { Errno::ACCESS };
            assert_eq!(client.open(2, flags), Err(expected));
        }
        assert_eq!(client.read(2, 0, 10), Err(Errno::BADF));
        client.clunk(2).unwrap();
    }
    let server = whole(Path::new("/dev"));
    let mut client = connect(&server, 1 << 16);
    client.version(8192).unwrap();
    client.attach(ROOT).unwrap();
    client.walk(ROOT, 2, "zero").unwrap();
    assert_eq!(client.getattr(2).unwrap().rdev, rustix::fs::makedev(1, 5));
    assert_eq!(client.open(2, 0), Err(Errno::ACCESS));
}

#[test]
fn a_fid_is_made_once_and_forgotten_once() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    client.walk(SHARE, 2, "note").unwrap();
    assert_eq!(client.walk(SHARE, 2, "deep"), Err(Errno::INVAL));
    assert_eq!(client.attach(2), Err(Errno::INVAL));
    assert_eq!(client.walk(SHARE, u32::MAX, "deep"), Err(Errno::INVAL));
    assert_eq!(client.attach(u32::MAX), Err(Errno::INVAL));
    client.clunk(2).unwrap();
    assert_eq!(client.clunk(2), Err(Errno::BADF));
    client.walk(SHARE, 2, "deep").unwrap();
    client.open(2, 0).unwrap();
    assert_eq!(client.read(2, 0, 10), Err(Errno::ISDIR));
}

#[test]
fn unknown_fids_are_refused_by_every_request() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    for request in all_requests(77) {
        assert_eq!(client.call(&request), Err(Errno::BADF), "{request:?}");
    }
}

#[test]
fn whatever_would_change_something_is_refused() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    for directory in [ROOT, SHARE] {
        for request in all_requests(5).into_iter().filter(changes) {
            client.walk(directory, 5, "").unwrap();
            assert_eq!(client.call(&request), Err(Errno::ROFS), "{request:?}");
            // Tremove has forgotten the fid.
            assert_eq!(client.clunk(5).is_err(), matches!(request, Request::Remove { .. }));
        }
    }
    client.walk(SHARE, 2, "note").unwrap();
    for flags in [1, 2, 3, 0o100, 0o1000, 0o2000, 0o101, 0o1002, 0o2001, u32::MAX] {
        assert_eq!(client.open(2, flags), Err(Errno::ROFS), "{flags:#o}");
    }
    client.open(2, 0).unwrap();
    let write = Request::Write { fid: Fid(2), offset: 0, data: b"x" };
    assert_eq!(client.call(&write), Err(Errno::ROFS));
    assert_eq!(fs::read(host.path("share/note")).unwrap(), b"hello");
    let mut names: Vec<_> =
        fs::read_dir(host.path("share")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["deep", "fifo", "inner", "link", "note", "up"]);
}

pub(super) fn name() -> Name<'static> {
    Name::new(b"note").unwrap()
}

/// Each request that starts with a fid, about `fid`.
fn all_requests(fid: u32) -> Vec<Request<'static>> {
    let (fid, directory, name) = (Fid(fid), Fid(fid), name());
    let mut names = Walk::EMPTY;
    names.push(Step::Parent).unwrap();
    vec![
        Request::Walk { fid, new_fid: Fid(78), names },
        Request::WalkAttributes { fid, new_fid: Fid(78), names },
        Request::WalkOpen { fid, new_fid: Fid(78), flags: 0 },
        Request::Lopen { fid, flags: 0 },
        Request::Lcreate { fid, name, flags: 0, mode: 0o644, gid: 0 },
        Request::Read { fid, offset: 0, count: 10 },
        Request::Write { fid, offset: 0, data: b"x" },
        Request::Readdir { fid, offset: 0, count: 100 },
        Request::Getattr { fid, mask: 0 },
        Request::Setattr { fid, attributes: SetAttributes::default() },
        Request::Readlink { fid },
        Request::Statfs { fid },
        Request::Clunk { fid },
        Request::Remove { fid },
        Request::Fsync { fid, data_only: 0 },
        Request::Xattrwalk { fid, new_fid: Fid(78), name: b"" },
        Request::Xattrcreate { fid, name: b"user.x", size: 1, flags: 0 },
        Request::Symlink { directory, name, target: b"/", gid: 0 },
        Request::Mknod { directory, name, mode: 0o010_644, major: 0, minor: 0, gid: 0 },
        Request::Mkdir { directory, name, mode: 0o755, gid: 0 },
        Request::Link { directory, fid, name },
        Request::Rename { fid, directory, name },
        Request::Renameat { old_directory: fid, old_name: name, new_directory: fid, new_name: name },
        Request::Unlinkat { directory, name, flags: 0 },
    ]
}

fn changes(request: &Request<'_>) -> bool {
    matches!(
        request,
        Request::Lcreate { .. }
            | Request::Write { .. }
            | Request::Setattr { .. }
            | Request::Remove { .. }
            | Request::Xattrcreate { .. }
            | Request::Symlink { .. }
            | Request::Mknod { .. }
            | Request::Mkdir { .. }
            | Request::Link { .. }
            | Request::Rename { .. }
            | Request::Renameat { .. }
            | Request::Unlinkat { .. }
    )
}

#[test]
fn tversion_in_the_middle_forgets_every_fid() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    client.walk(SHARE, 2, "note").unwrap();
    client.open(2, 0).unwrap();
    client.version(8192).unwrap();
    assert_eq!(client.read(2, 0, 10), Err(Errno::BADF));
    assert_eq!(client.getattr(ROOT), Err(Errno::BADF));
    client.attach(2).unwrap();
    assert_eq!(client.walk(2, 3, "mnt/share/note").unwrap().len(), 3);
}

#[test]
fn messages_that_are_not_whole_are_refused_with_their_tag() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    let whole = encode(Tag(0x1234), &Request::Getattr { fid: Fid(SHARE), mask: 0 });
    for length in 0..whole.len() {
        let reply = client.raw(&whole[..length]);
        assert_eq!(error(&reply), Some(Errno::PROTO), "{length} bytes");
        assert_eq!(reply.1, if length < 7 { Tag::NONE } else { Tag(0x1234) });
    }
    for size in [0, 6, 18, 20, u32::MAX] {
        let mut lying = whole.clone();
        lying[..4].copy_from_slice(&size.to_le_bytes());
        assert_eq!(error(&client.raw(&lying)), Some(Errno::PROTO));
    }
    for kind in [0, 1, 6, 7, 9, 13, 101, 106, 107, 111, 124, 126, 255] {
        let mut unknown = whole.clone();
        unknown[4] = kind;
        assert_eq!(error(&client.raw(&unknown)), Some(Errno::OPNOTSUPP), "type {kind}");
    }
    assert!(client.getattr(SHARE).is_ok());
}

#[test]
fn a_grant_hides_what_the_host_has_there_from_every_walk() {
    let host = Host::new();
    fs::write(host.path("share/deep/secret"), CANARY).unwrap();
    fs::write(host.path("blank"), "").unwrap();
    let export = ExportBuilder::new()
        .directory("/", host.path("share"))
        .unwrap()
        .file("/deep/secret", host.path("blank"))
        .unwrap();
    let server = Server::new(export.open().unwrap(), Limits::default());
    let mut client = connect(&server, 1 << 16);
    client.version(8192).unwrap();
    client.attach(ROOT).unwrap();
    for path in ["deep/secret", "deep/deeper/../secret", "deep/../deep/./secret"] {
        client.walk(ROOT, 2, path).unwrap();
        assert_eq!(client.getattr(2).unwrap().size, 0, "{path}");
        client.clunk(2).unwrap();
    }
}
