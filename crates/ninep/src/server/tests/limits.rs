//! Sizes and numbers at their edges.

use rustix::io::Errno;

use super::*;
use crate::client::encode;
use crate::wire::open_flags::{READ_WRITE, TRUNCATE};

#[test]
fn msize_is_the_smaller_of_both_sides() {
    let host = Host::new();
    let server = host.server_with(Limits { msize: 65_536, ..Limits::default() });
    let mut client = connect(&server, 1 << 20);
    for (asked, agreed) in
        [(4096, 4096), (8192, 8192), (65_536, 65_536), (65_537, 65_536), (u32::MAX, 65_536)]
    {
        assert_eq!(client.version(asked), Ok(agreed));
    }
    for asked in [0, 1, 7, 24, 4095] {
        assert_eq!(client.version(asked), Err(Errno::INVAL));
        assert_eq!(client.attach(ROOT), Err(Errno::PROTO), "no session after msize {asked}");
    }
}

#[test]
fn other_versions_are_unknown() {
    let host = Host::new();
    let server = host.server();
    let mut client = connect(&server, 1 << 16);
    for version in [&b"9P2000"[..], b"9P2000.u", b"9P2000.L.x", b"", b"\xff"] {
        let reply = client.call(&Request::Version { msize: 8192, version }).unwrap();
        assert_eq!(reply[4..], *b"\x07\0unknown");
        assert_eq!(client.attach(ROOT), Err(Errno::PROTO));
    }
}

#[test]
fn nothing_is_served_before_a_version_is_agreed_on() {
    let host = Host::new();
    let server = host.server();
    let mut client = connect(&server, 1 << 16);
    assert_eq!(client.attach(ROOT), Err(Errno::PROTO));
    assert_eq!(client.walk(ROOT, 1, "mnt"), Err(Errno::PROTO));
    drop(client);
    session(&server);
    server.reset();
    assert_eq!(connect(&server, 1 << 16).getattr(ROOT), Err(Errno::PROTO));
}

#[test]
fn a_count_is_cut_to_msize_and_to_the_room_in_the_reply() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    client.walk(SHARE, 2, "deep/deeper/file").unwrap();
    client.open(2, 0).unwrap();
    client.walk(SHARE, 3, "").unwrap();
    client.open(3, 0).unwrap();
    assert_eq!(client.read(2, 0, u32::MAX).unwrap().len(), 65_536 - DATA_HEADER);
    for room in [11, 12, 100, 4096, 5000] {
        let mut client = connect(&server, room);
        assert_eq!(client.read(2, 0, u32::MAX).unwrap().len(), room - DATA_HEADER);
        match client.readdir(3, 0, u32::MAX) {
            Ok(entries) => assert!(!entries.is_empty() && room >= 100),
            Err(errno) => assert!(errno == Errno::INVAL && room < 100),
        }
    }
}

#[test]
fn a_reply_without_room_for_an_error_is_empty_and_never_overrun() {
    let host = Host::new();
    let server = host.server();
    drop(session(&server));
    for room in 0..ERROR_SIZE {
        let mut reply = [0xaa; 64];
        let request = encode(Tag(1), &Request::Getattr { fid: Fid(SHARE), mask: 0 });
        assert_eq!(server.serve(&request, &mut reply[..room]), 0);
        assert!(reply.iter().all(|byte| *byte == 0xaa));
    }
}

#[test]
fn a_reply_that_does_not_fit_is_an_error() {
    let host = Host::new();
    let server = host.server();
    drop(session(&server));
    let mut client = connect(&server, 40);
    assert_eq!(client.getattr(SHARE), Err(Errno::MSGSIZE));
    assert_eq!(client.statfs(SHARE), Err(Errno::MSGSIZE));
    assert_eq!(client.walk(SHARE, 2, "deep/deeper/file"), Err(Errno::MSGSIZE));
}

#[test]
fn offsets_beyond_what_a_file_can_have_are_refused() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    client.walk(SHARE, 2, "note").unwrap();
    client.open(2, 0).unwrap();
    assert_eq!(client.read(2, 1 << 63, 10), Err(Errno::INVAL));
    assert_eq!(client.read(2, u64::MAX, 10), Err(Errno::INVAL));
    // Up to the host's file system, which knows the largest file it can have.
    let at_the_end = client.read(2, i64::MAX as u64, 10);
    assert!(at_the_end == Ok(Vec::new()) || at_the_end == Err(Errno::INVAL), "{at_the_end:?}");
}

#[test]
fn fids_beyond_the_limit_are_refused_and_descriptors_stay_few() {
    let host = Host::new();
    let limits = Limits { fids: 65_536, descriptors: 64, ..Limits::default() };
    let server = host.server_with(limits);
    let mut client = session(&server);
    client.walk(SHARE, 2, "deep").unwrap();
    for fid in 3..65_536 {
        client.walk(2, fid, "deeper").unwrap();
    }
    assert_eq!(client.walk(SHARE, 65_536, "note"), Err(Errno::NFILE));
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(descriptors < 400, "{descriptors} descriptors");
    for fid in [3, 100, 40_000, 65_535] {
        client.walk(fid, fid, "file").unwrap();
        assert_eq!(client.getattr(fid).unwrap().size, 100_000);
    }
    client.clunk(1000).unwrap();
    client.walk(SHARE, 65_536, "note").unwrap();
    for fid in (2..65_536).filter(|fid| *fid != 1000) {
        client.clunk(fid).unwrap();
    }
    client.walk(SHARE, 2, "note").unwrap();
}

#[test]
fn the_directories_above_fids_count_too() {
    let host = Host::new();
    let chain = ["d"; 14].join("/");
    fs::create_dir_all(host.path(&format!("share/{chain}"))).unwrap();
    let server = host.server_with(Limits { fids: 8, ..Limits::default() });
    let mut client = session(&server);
    // 16 nodes: the root, two for the share, and 13 on the way down, however many fids are there.
    for fid in 2..8 {
        client.walk(SHARE, fid, &chain[..25]).unwrap();
    }
    assert_eq!(client.walk(7, 7, "d"), Err(Errno::NFILE));
    assert_eq!(client.walk(SHARE, SHARE, "deep"), Err(Errno::NFILE));
    assert_eq!(client.walk(SHARE, 9, ""), Err(Errno::NFILE));
    for fid in 2..8 {
        client.clunk(fid).unwrap();
    }
    assert!(client.walk(SHARE, SHARE, "deep").is_ok());
}

#[test]
fn files_opened_beyond_the_limit_are_refused_until_one_is_closed() {
    let host = Host::new();
    let server = host.server_with(Limits { open_files: 3, ..Limits::default() });
    let mut client = session(&server);
    for fid in 2..6 {
        client.walk(SHARE, fid, "note").unwrap();
    }
    for fid in 2..5 {
        client.open(fid, 0).unwrap();
    }
    assert_eq!(client.open(5, 0), Err(Errno::NFILE));
    assert!(client.getattr(5).is_ok());
    assert_eq!(client.walk_open(5, 6, 0), Err(Errno::NFILE));
    assert_eq!(client.getattr(6), Err(Errno::BADF));
    client.clunk(3).unwrap();
    client.walk_open(5, 6, 0).unwrap();
    client.clunk(6).unwrap();
    client.open(5, 0).unwrap();
    server.reset();
    session(&server).open(SHARE, 0).unwrap();
}

#[test]
fn a_file_is_not_emptied_for_a_fid_that_there_is_no_room_for() {
    let host = Host::new();
    let export = ExportBuilder::new().directory_with("/mnt/share", host.path("share"), Access::READ_WRITE);
    let server = Server::new(export.unwrap().open().unwrap(), Limits { fids: 3, ..Limits::default() });
    let mut client = session(&server);
    client.walk(SHARE, 2, "note").unwrap();
    let emptying = READ_WRITE | TRUNCATE;
    for (new, errno) in [(3, Errno::NFILE), (2, Errno::INVAL), (Fid::NONE.0, Errno::INVAL)] {
        assert_eq!(client.walk_open(2, new, emptying), Err(errno), "{new}");
    }
    assert_eq!(client.getattr(2).unwrap().size, 5);
}

#[test]
fn a_chain_of_directories_is_as_deep_as_allowed_and_no_deeper() {
    let host = tempfile::tempdir().unwrap();
    let mut directory =
        rustix::fs::open(host.path(), OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..4100 {
        rustix::fs::mkdirat(&directory, "d", 0o755.into()).unwrap();
        directory =
            rustix::fs::openat(&directory, "d", OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty())
                .unwrap();
    }
    let export = ExportBuilder::new().directory("/", host.path()).unwrap().open().unwrap();
    let server = Server::new(export, Limits { descriptors: 16, ..Limits::default() });
    let mut client = connect(&server, 1 << 16);
    client.version(8192).unwrap();
    client.attach(ROOT).unwrap();
    client.walk(ROOT, 1, "").unwrap();
    for _ in 0..4096 {
        assert_eq!(client.walk(1, 1, "d").unwrap().len(), 1);
    }
    assert_eq!(client.walk(1, 1, "d"), Err(Errno::NAMETOOLONG));
    client.walk(1, 2, "..").unwrap();
    client.walk(ROOT, 3, "d/d/d").unwrap();
    assert!(client.getattr(1).is_ok());
    // The whole chain is dropped at once.
    client.version(8192).unwrap();
    remove_deep(host.path());
}

/// `remove_dir_all` recurses with a descriptor for each level.
fn remove_deep(path: &Path) {
    for _ in 0..4100 {
        let (top, next) = (path.join("d"), path.join("n"));
        if fs::rename(top.join("d"), &next).is_err() {
            break;
        }
        fs::remove_dir(&top).unwrap();
        fs::rename(&next, &top).unwrap();
    }
}
