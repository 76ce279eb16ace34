//! What a hostile client tries with a writable grant: nothing outside of it changes or is read.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::attacks::{error, name, with_size};
use super::*;
use crate::client::encode;
use crate::wire::{Name, SetAttributes, open_flags::*, set_attributes as set};

const CREATE_ALL: u32 = WRITE_ONLY | CREATE;

/// All that is outside of the share: its content, times and owners.
fn outside(host: &Host) -> (Vec<u8>, i64, u32, Vec<std::ffi::OsString>) {
    let metadata = fs::metadata(host.path("outside")).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(host.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    (fs::read(host.path("outside")).unwrap(), metadata.mtime_nsec(), metadata.mode(), names)
}

#[test]
fn names_that_lead_elsewhere_are_refused_in_every_message() {
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    client.walk(SHARE, 2, "note").unwrap();
    let before = outside(&host);
    let absolute = host.path("outside");
    let bad: [&[u8]; 9] = [
        b"..",
        b".",
        b"",
        b"/",
        b"../outside",
        b"../new",
        b"deep/../../outside",
        b"outside\0",
        absolute.as_os_str().as_encoded_bytes(),
    ];
    for bad in bad {
        for (request, names) in with_names(SHARE, 2) {
            for position in 0..names {
                let message = replace_name(&encode(Tag(1), &request), position, bad);
                let reply = client.raw(&message);
                assert_eq!(error(&reply), Some(Errno::INVAL), "{} in {request:?}", bad.escape_ascii());
            }
        }
    }
    assert_eq!(outside(&host), before);
    assert_eq!(fs::read(host.path("share/note")).unwrap(), b"hello");
}

/// Each request with names of entries, and how many it has.
fn with_names(directory: u32, fid: u32) -> Vec<(Request<'static>, usize)> {
    let (directory, fid, name) = (Fid(directory), Fid(fid), marker());
    vec![
        (Request::Lcreate { fid: directory, name, flags: CREATE_ALL, mode: 0o644, gid: 0 }, 1),
        (Request::Symlink { directory, name, target: b"x", gid: 0 }, 1),
        (Request::Mknod { directory, name, mode: 0o100_644, major: 0, minor: 0, gid: 0 }, 1),
        (Request::Mkdir { directory, name, mode: 0o755, gid: 0 }, 1),
        (Request::Link { directory, fid, name }, 1),
        (Request::Rename { directory, fid, name }, 1),
        (
            Request::Renameat {
                old_directory: directory,
                old_name: name,
                new_directory: directory,
                new_name: name,
            },
            2,
        ),
        (Request::Unlinkat { directory, name, flags: 0 }, 1),
        (Request::Unlinkat { directory, name, flags: crate::wire::REMOVE_DIRECTORY }, 1),
    ]
}

fn marker() -> Name<'static> {
    Name::new(b"the name to replace").unwrap()
}

/// Puts `name` in the place of the marker at this position of a message.
fn replace_name(message: &[u8], position: usize, name: &[u8]) -> Vec<u8> {
    let marker = marker().as_bytes();
    let at = (0..message.len()).filter(|at| message[*at..].starts_with(marker)).nth(position).unwrap();
    let mut changed = message[..at - 2].to_vec();
    changed.extend((name.len() as u16).to_le_bytes());
    changed.extend(name);
    changed.extend(&message[at + marker.len()..]);
    with_size(changed)
}

#[test]
fn a_planted_symlink_leads_no_change_out() {
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    let before = outside(&host);
    let target = host.path("outside");
    client.symlink(SHARE, "file", target.as_os_str().as_encoded_bytes()).unwrap();
    client.symlink(SHARE, "directory", host.directory.path().as_os_str().as_encoded_bytes()).unwrap();
    client.symlink(SHARE, "magic", b"/proc/self/root").unwrap();
    client.walk(SHARE, 2, "file").unwrap();
    for flags in [0, WRITE_ONLY, READ_WRITE, WRITE_ONLY | TRUNCATE, CREATE_ALL] {
        assert_eq!(client.open(2, flags), Err(Errno::LOOP));
    }
    assert_eq!(client.set(2, SetAttributes { valid: set::SIZE, ..Default::default() }), Err(Errno::INVAL));
    let mode = SetAttributes { valid: set::MODE, mode: 0o777, ..Default::default() };
    assert_eq!(client.set(2, mode), Err(Errno::OPNOTSUPP));
    client.set(2, SetAttributes { valid: set::MTIME | set::ATIME, ..Default::default() }).unwrap();
    assert_eq!(client.write(2, 0, b"x"), Err(Errno::BADF));
    client.walk(SHARE, 3, "").unwrap();
    assert_eq!(client.create(3, "file", CREATE_ALL | TRUNCATE), Err(Errno::LOOP));
    client.link(2, SHARE, "hard").unwrap();
    assert!(fs::symlink_metadata(host.path("share/hard")).unwrap().is_symlink());
    for link in ["directory", "magic"] {
        client.walk(SHARE, 4, link).unwrap();
        client.walk(SHARE, 5, "note").unwrap();
        let here = || name();
        for request in [
            Request::Lcreate { fid: Fid(4), name: here(), flags: CREATE_ALL, mode: 0o644, gid: 0 },
            Request::Mkdir { directory: Fid(4), name: here(), mode: 0o755, gid: 0 },
            Request::Symlink { directory: Fid(4), name: here(), target: b"x", gid: 0 },
            Request::Link { directory: Fid(4), fid: Fid(5), name: here() },
            Request::Rename { directory: Fid(4), fid: Fid(5), name: here() },
            Request::Unlinkat { directory: Fid(4), name: Name::new(b"outside").unwrap(), flags: 0 },
        ] {
            assert_eq!(client.call(&request), Err(Errno::NOTDIR), "{request:?}");
        }
        client.clunk(4).unwrap();
        client.clunk(5).unwrap();
    }
    assert_eq!(outside(&host), before);
}

#[test]
fn a_directory_swapped_for_a_link_leads_no_change_out() {
    let host = Host::new();
    // `door` is by turns a directory with an `outside` of its own, and a link to the directory above, which has
    // the real one.
    fs::create_dir(host.path("share/inside")).unwrap();
    symlink("..", host.path("share/out")).unwrap();
    let (door, inside, out) = (host.path("share/door"), host.path("share/inside"), host.path("share/out"));
    let export = ExportBuilder::new().directory_with("/mnt/share", host.path("share"), Access::READ_WRITE);
    let limits = Limits { descriptors: 1, ..Limits::default() };
    let server = Server::new(export.unwrap().open().unwrap(), limits);
    let mut client = session(&server);
    let before = outside(&host);
    let done = AtomicBool::new(false);
    let mut changes = 0;
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
        for _ in 0..4000 {
            if client.walk(SHARE, 2, "door").is_err() {
                continue;
            }
            // The fid is the link or the directory. With one descriptor, each request looks it up again.
            client.walk(2, 3, "").unwrap();
            changes += u32::from(client.create(3, "outside", CREATE_ALL | TRUNCATE).is_ok());
            let _ = client.write(3, 0, b"changed");
            let _ = client.make_directory(2, "new");
            let _ = client.unlink(2, "outside", false);
            let _ = client.unlink(2, "new", true);
            let _ = client.rename((SHARE, "note"), (2, "outside"));
            let _ = client.rename((2, "outside"), (SHARE, "note"));
            client.clunk(2).unwrap();
            client.clunk(3).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(changes > 0, "the race was never won, so nothing was tested");
    assert_eq!(outside(&host), before);
}

#[test]
fn a_directory_moved_out_of_the_share_is_not_followed() {
    let host = Host::new();
    let export = ExportBuilder::new().directory_with("/mnt/share", host.path("share"), Access::READ_WRITE);
    let limits = Limits { descriptors: 1, ..Limits::default() };
    let server = Server::new(export.unwrap().open().unwrap(), limits);
    let mut client = session(&server);
    client.walk(SHARE, 2, "deep/deeper").unwrap();
    client.walk(SHARE, 3, "note").unwrap();
    fs::rename(host.path("share/deep/deeper"), host.path("moved")).unwrap();
    let before = outside(&host);
    assert_eq!(client.make_directory(2, "new").map(drop), Err(Errno::STALE));
    assert_eq!(client.unlink(2, "file", false), Err(Errno::STALE));
    assert_eq!(
        client.call(&Request::Rename { fid: Fid(3), directory: Fid(2), name: name() }),
        Err(Errno::STALE)
    );
    assert_eq!(outside(&host), before);
    assert_eq!(fs::read_dir(host.path("moved")).unwrap().count(), 1);
}

#[test]
fn fids_that_move_below_themselves_are_no_loop() {
    let host = Host::new();
    // Two ways to the same files: what one renames, the other does not know.
    let export = ExportBuilder::new()
        .directory_with("/mnt/share", host.path("share"), Access::READ_WRITE)
        .unwrap()
        .directory_with("/again", host.path("share"), Access::READ_WRITE)
        .unwrap();
    let server = Server::new(export.open().unwrap(), Limits::default());
    let mut client = session(&server);
    client.walk(ROOT, 2, "again").unwrap();
    client.walk(SHARE, 3, "deep").unwrap();
    client.walk(SHARE, 4, "deep/deeper").unwrap();
    client.rename((2, "deep"), (2, "aside")).unwrap();
    client.walk(2, 5, "aside").unwrap();
    client.rename((5, "deeper"), (2, "top")).unwrap();
    client.walk(2, 6, "top").unwrap();
    client.rename((2, "aside"), (6, "below")).unwrap();
    // To the share's fids, `deep` is still above `deeper`: and now a new `deep` moves into that.
    client.make_directory(2, "deep").unwrap();
    client.rename((SHARE, "deep"), (4, "deep")).unwrap();
    let mut qids = client.walk(4, 7, "../../../../..").unwrap();
    assert_eq!(qids.pop().unwrap().path, client.getattr(ROOT).unwrap().qid.path);
    for fid in 2..8 {
        let _ = client.getattr(fid);
        client.clunk(fid).unwrap();
    }
    client.walk(SHARE, 2, "top/deep").unwrap();
}

#[test]
fn devices_and_sockets_are_not_made() {
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    for (kind, bits) in [("character", 0o020_000), ("block", 0o060_000), ("socket", 0o140_000)] {
        assert_eq!(client.mknod(SHARE, "node", bits | 0o666), Err(Errno::PERM), "{kind}");
    }
    for bits in [0o040_000, 0o120_000, 0o170_000] {
        assert_eq!(client.mknod(SHARE, "node", bits | 0o666), Err(Errno::PERM), "{bits:o}");
    }
    assert!(!host.path("share/node").exists());
}

#[test]
fn special_files_are_not_opened_for_writing_either() {
    let host = Host::new();
    let _socket = std::os::unix::net::UnixListener::bind(host.path("share/socket")).unwrap();
    let server = host.writable();
    let mut client = session(&server);
    for name in ["fifo", "socket"] {
        client.walk(SHARE, 2, name).unwrap();
        for flags in [WRITE_ONLY, READ_WRITE, WRITE_ONLY | TRUNCATE, WRITE_ONLY | 0o4000] {
            assert_eq!(client.open(2, flags), Err(Errno::ACCESS), "{name}");
        }
        let size = SetAttributes { valid: set::SIZE, ..Default::default() };
        assert_eq!(client.set(2, size), Err(Errno::INVAL));
        client.walk(SHARE, 3, "").unwrap();
        assert_eq!(client.create(3, name, CREATE_ALL), Err(Errno::ACCESS));
        client.clunk(2).unwrap();
        client.clunk(3).unwrap();
    }
    let export = ExportBuilder::new().directory_with("/", "/dev", Access::READ_WRITE).unwrap();
    let server = Server::new(export.open().unwrap(), Limits::default());
    let mut client = connect(&server, 1 << 16);
    client.version(8192).unwrap();
    client.attach(ROOT).unwrap();
    client.walk(ROOT, 2, "null").unwrap();
    assert_eq!(client.open(2, WRITE_ONLY), Err(Errno::ACCESS));
}

#[test]
fn grants_are_neither_removed_nor_hidden_nor_left() {
    let host = Host::new();
    fs::create_dir(host.path("second")).unwrap();
    let export = ExportBuilder::new()
        .directory_with("/a", host.path("share"), Access::READ_WRITE)
        .unwrap()
        .directory_with("/a/inner", host.path("second"), Access::READ_WRITE)
        .unwrap()
        .file_with("/b", host.path("share/note"), Access::READ_WRITE)
        .unwrap()
        .directory("/c", host.path("second"))
        .unwrap();
    let server = Server::new(export.open().unwrap(), Limits::default());
    let mut client = connect(&server, 1 << 16);
    client.version(8192).unwrap();
    client.attach(ROOT).unwrap();
    client.walk(ROOT, 1, "a").unwrap();
    client.walk(ROOT, 2, "a/inner").unwrap();
    client.walk(ROOT, 3, "b").unwrap();
    client.walk(ROOT, 4, "c").unwrap();
    client.walk(1, 5, "note").unwrap();
    assert_eq!(client.unlink(1, "inner", true), Err(Errno::BUSY));
    assert_eq!(client.make_directory(1, "inner").map(drop), Err(Errno::EXIST));
    assert_eq!(client.rename((1, "inner"), (1, "x")), Err(Errno::BUSY));
    assert_eq!(client.rename((1, "deep"), (1, "inner")), Err(Errno::BUSY));
    assert_eq!(client.rename((1, "note"), (2, "note")), Err(Errno::XDEV));
    assert_eq!(client.link(5, 2, "note"), Err(Errno::XDEV));
    assert_eq!(client.link(3, 1, "b"), Err(Errno::XDEV));
    for directory in [ROOT, 4] {
        assert_eq!(client.make_directory(directory, "x").map(drop), Err(Errno::ROFS));
        assert_eq!(client.unlink(directory, "b", false), Err(Errno::ROFS));
        assert_eq!(client.rename((1, "note"), (directory, "x")), Err(Errno::ROFS));
        assert_eq!(client.rename((directory, "b"), (1, "x")), Err(Errno::ROFS));
        assert_eq!(client.link(5, directory, "x"), Err(Errno::ROFS));
        let mode = SetAttributes { valid: set::MODE, mode: 0, ..Default::default() };
        assert_eq!(client.set(directory, mode), Err(Errno::ROFS));
    }
    client.open(3, WRITE_ONLY).unwrap();
    client.write(3, 0, b"by the grant").unwrap();
    client.walk(ROOT, 6, "b").unwrap();
    assert_eq!(client.call(&Request::Remove { fid: Fid(6) }), Err(Errno::BUSY));
    assert_eq!(fs::read(host.path("share/note")).unwrap(), b"by the grant");
}

#[test]
fn procfs_is_no_writable_grant() {
    let refused = ExportBuilder::new().directory_with("/p", "/proc/self", Access::READ_WRITE).unwrap().open();
    assert!(matches!(refused, Err(crate::ExportError::WritableProc { .. })), "{refused:?}");
}

#[test]
fn an_attribute_never_grows_beyond_what_it_may_and_few_exist_at_once() {
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    let create = |fid| Request::Xattrcreate { fid: Fid(fid), name: b"user.x", size: 65_536, flags: 0 };
    for fid in 2..200 {
        client.walk(SHARE, fid, "note").unwrap();
        let expected = if fid < 66 { Ok(vec![]) } else { Err(Errno::NFILE) };
        assert_eq!(client.call(&create(fid)), expected, "{fid}");
    }
    assert_eq!(client.xattr(SHARE, 300, b""), Err(Errno::NFILE));
    assert_eq!(client.clunk(2), Err(Errno::INVAL));
    client.call(&create(100)).unwrap();
    for fid in 3..66 {
        assert_eq!(client.clunk(fid), Err(Errno::INVAL));
    }
}

#[test]
fn offsets_beyond_what_a_file_can_have_are_no_signal() {
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    client.walk(SHARE, 2, "note").unwrap();
    client.open(2, READ_WRITE).unwrap();
    for offset in [u64::MAX, u64::MAX - 1, 1 << 63, i64::MAX as u64] {
        assert_eq!(client.write(2, offset, b"xx"), Err(Errno::FBIG), "{offset:#x}");
    }
    assert_eq!(fs::metadata(host.path("share/note")).unwrap().len(), 5);
}

#[test]
fn a_server_that_is_limited_in_the_size_of_files_says_so_and_lives() {
    // `RLIMIT_FSIZE` is the whole process's: this test runs in one of its own, as nextest does.
    if std::env::var_os("NEXTEST").is_none() {
        eprintln!("SKIPPED: needs a process of its own; run with cargo nextest");
        return;
    }
    let host = Host::new();
    let limit = rustix::process::Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) };
    rustix::process::setrlimit(Resource::Fsize, limit).unwrap();
    let server = host.writable();
    let mut client = session(&server);
    client.walk(SHARE, 2, "note").unwrap();
    client.open(2, READ_WRITE).unwrap();
    assert_eq!(client.write(2, (1 << 20) - 1, b"xx"), Err(Errno::FBIG));
    assert_eq!(client.write(2, (1 << 20) - 1, b"x"), Ok(1));
    let size = SetAttributes { valid: set::SIZE, size: (1 << 20) + 1, ..Default::default() };
    assert_eq!(client.set(2, size), Err(Errno::FBIG));
}

#[test]
fn what_the_host_forbids_to_write_is_forbidden() {
    if rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: root may write everything");
        return;
    }
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    fs::set_permissions(host.path("share/deep"), fs::Permissions::from_mode(0o555)).unwrap();
    client.walk(SHARE, 2, "deep").unwrap();
    assert_eq!(client.make_directory(2, "x").map(drop), Err(Errno::ACCESS));
}

#[test]
fn requests_of_many_threads_about_the_same_names_leave_a_working_server() {
    let host = Host::new();
    let server = host.writable();
    drop(session(&server));
    std::thread::scope(|scope| {
        for thread in 1..5_u32 {
            let server = &server;
            scope.spawn(move || {
                let mut client = connect(server, 1 << 16);
                let base = thread * 100;
                for round in 0..300 {
                    let (one, other) = if (thread + round) % 2 == 0 { ("x", "y") } else { ("y", "x") };
                    let _ = client.make_directory(SHARE, one);
                    let _ = client.walk(SHARE, base, one);
                    let _ = client.walk(SHARE, base + 1, other);
                    let _ = client.make_directory(base, "in");
                    let _ = client.rename((SHARE, one), (base + 1, "in"));
                    let _ = client.rename((base, "in"), (SHARE, other));
                    let _ = client.walk(base, base + 2, "../../in");
                    let _ = client.unlink(base, "in", true);
                    let _ = client.unlink(SHARE, other, true);
                    for fid in base..base + 3 {
                        let _ = client.clunk(fid);
                    }
                }
            });
        }
    });
    let mut client = connect(&server, 1 << 16);
    client.walk(SHARE, 2, "deep/deeper/file").unwrap();
    assert_eq!(client.getattr(2).unwrap().size, 100_000);
}
