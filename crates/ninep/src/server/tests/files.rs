//! What a well-behaved client sees.

use std::io::{Seek, Write};
use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;

use super::*;
use crate::wire::LockKind;
use crate::wire::{QidKind, kind};

#[test]
fn a_file_is_read_whole_and_in_parts() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    assert_eq!(client.walk(SHARE, 2, "deep/deeper/file").unwrap().len(), 3);
    assert_eq!(client.open(2, 0).unwrap().kind, QidKind::File);
    let mut content = Vec::new();
    loop {
        let part = client.read(2, content.len() as u64, 40_000).unwrap();
        if part.is_empty() {
            break;
        }
        content.extend(part);
    }
    assert_eq!(content, vec![7; 100_000]);
    assert_eq!(client.read(2, 1 << 40, 10).unwrap(), []);
    assert_eq!(server.counters().bytes_read(), 100_000);
    assert_eq!(server.counters().requests(kind::TREAD), 5);
}

#[test]
fn a_granted_file_has_the_hosts_attributes() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    client.walk(ROOT, 2, "etc/note").unwrap();
    let (seen, real) = (client.getattr(2).unwrap(), fs::metadata(host.path("share/note")).unwrap());
    assert_eq!(seen.mode, real.mode());
    assert_eq!((seen.uid, seen.gid, seen.nlink), (real.uid(), real.gid(), real.nlink()));
    assert_eq!((seen.size, seen.blksize, seen.blocks), (real.size(), real.blksize(), real.blocks()));
    assert_eq!((seen.mtime.sec, i64::from(seen.mtime.nsec)), (real.mtime(), real.mtime_nsec()));
    assert_ne!(seen.qid.version, 0);
    client.open(2, 0).unwrap();
    assert_eq!(client.read(2, 0, 100).unwrap(), b"hello");
    assert_eq!(client.getattr(2).unwrap().qid, seen.qid);
}

#[test]
fn walk_open_and_getattr_agree_on_the_qid() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    let walked = client.walk(SHARE, 2, "deep").unwrap();
    assert_eq!(client.getattr(2).unwrap().qid, walked[0]);
    assert_eq!(client.open(2, 0).unwrap(), walked[0]);
    assert_eq!(walked[0].kind, QidKind::Directory);
}

#[test]
fn a_file_that_changes_gets_another_version() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    client.walk(SHARE, 2, "note").unwrap();
    let before = client.getattr(2).unwrap().qid;
    let mut file = fs::File::options().append(true).open(host.path("share/note")).unwrap();
    file.write_all(b"!").unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    let after = client.getattr(2).unwrap().qid;
    assert_eq!(after.path, before.path);
    assert_ne!(after.version, before.version);
    file.rewind().unwrap();
}

#[test]
fn links_are_data() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    for (from, path, target) in [(ROOT, "bin", "usr/bin"), (SHARE, "link", "../outside")] {
        let qids = client.walk(from, 2, path).unwrap();
        assert_eq!(qids[0].kind, QidKind::Symlink);
        assert_eq!(client.readlink(2).unwrap(), target.as_bytes());
        let attributes = client.getattr(2).unwrap();
        assert_eq!((attributes.mode, attributes.size), (0o120_777, target.len() as u64));
        assert_eq!(client.open(2, 0), Err(Errno::LOOP));
        client.clunk(2).unwrap();
    }
    client.walk(SHARE, 2, "note").unwrap();
    assert_eq!(client.readlink(2), Err(Errno::INVAL));
}

#[test]
fn directories_on_the_way_to_a_grant_exist_and_nothing_else() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    client.walk(ROOT, 2, "mnt").unwrap();
    let attributes = client.getattr(2).unwrap();
    assert_eq!((attributes.mode, attributes.nlink, attributes.uid), (0o040_555, 3, 0));
    assert_eq!(client.statfs(2).unwrap().kind, host::V9FS_MAGIC);
    assert_eq!(client.walk(2, 3, "other"), Err(Errno::NOENT));
    for path in ["home", "outside", "etc/passwd", "mnt/outside", "usr"] {
        assert!(client.walk(ROOT, 3, path).is_ok_and(|qids| qids.len() == 1) || path.find('/').is_none());
        assert_eq!(client.getattr(3), Err(Errno::BADF), "{path}");
    }
}

#[test]
fn a_walk_goes_as_far_as_it_can() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    assert_eq!(client.walk(SHARE, 2, "missing/deeper"), Err(Errno::NOENT));
    assert_eq!(client.walk(SHARE, 2, "deep/missing/file").unwrap().len(), 1);
    assert_eq!(client.getattr(2), Err(Errno::BADF));
    assert_eq!(client.walk(SHARE, 2, "note/x").unwrap().len(), 1);
    client.walk(SHARE, 3, "note").unwrap();
    assert_eq!(client.walk(3, 4, "x"), Err(Errno::NOTDIR));
    assert_eq!(client.walk(3, 4, ".."), Err(Errno::NOTDIR));
    assert_eq!(client.walk(3, 4, "").unwrap(), []);
    assert_eq!(client.getattr(4).unwrap(), client.getattr(3).unwrap());
}

#[test]
fn a_walk_with_attributes_is_a_walk_and_a_getattr() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    client.walk(SHARE, 2, "deep").unwrap();
    client.open(2, 0).unwrap();
    let paths = [
        "",
        "note",
        "deep",
        "deep/deeper/file",
        "deep/..",
        "..",
        "../..",
        "link",
        "fifo",
        "missing",
        "missing/x",
        "deep/missing",
        "note/x",
        "link/x",
        "deep/deeper/file/..",
    ];
    for from in [ROOT, SHARE, 2] {
        for path in paths {
            let walked = client.walk(from, 3, path);
            let found = client.getattr(3);
            let both = client.walk_attributes(from, 4, path);
            assert_eq!(both.as_ref().map(|(qids, _)| qids), walked.as_ref(), "{from}: {path}");
            assert_eq!(both.ok().and_then(|(_, attributes)| attributes), found.ok(), "{from}: {path}");
            // And so is what it leads to.
            assert_eq!(client.getattr(4), found, "{from}: {path}");
            assert_eq!(client.clunk(4), client.clunk(3), "{from}: {path}");
        }
    }
    assert_eq!(client.walk_attributes(2, 2, "deeper").map(|_| ()), Err(Errno::INVAL), "it is open");
    assert_eq!(client.walk_attributes(99, 3, "note").map(|_| ()), Err(Errno::BADF));
    assert_eq!(client.walk_attributes(SHARE, SHARE, "note").unwrap().1, client.getattr(SHARE).ok());
}

#[test]
fn an_opening_walk_is_a_walk_and_an_open() {
    use crate::wire::open_flags::{APPEND, DIRECTORY, READ_WRITE, TRUNCATE, WRITE_ONLY};
    let host = Host::new();
    for server in [host.server(), host.writable()] {
        let mut client = session(&server);
        for path in ["note", "deep", "link", "fifo", ".."] {
            client.walk(SHARE, 2, path).unwrap();
            for flags in [0, WRITE_ONLY, READ_WRITE | APPEND, READ_WRITE | WRITE_ONLY, DIRECTORY, 1 << 30] {
                client.walk(2, 3, "").unwrap();
                let apart = client.open(3, flags);
                let read = client.read(3, 0, 100);
                client.clunk(3).unwrap();
                assert_eq!(client.walk_open(2, 4, flags), apart, "{path}: {flags:#o}");
                match apart {
                    Ok(_) => {
                        assert_eq!(client.read(4, 0, 100), read, "{path}: {flags:#o}");
                        client.clunk(4).unwrap();
                    }
                    Err(_) => assert_eq!(client.clunk(4), Err(Errno::BADF), "{path}: {flags:#o}"),
                }
                // What it comes from stays as it was.
                assert_eq!(client.read(2, 0, 100), Err(Errno::BADF), "{path}: {flags:#o}");
            }
            client.clunk(2).unwrap();
        }
        client.walk(SHARE, 2, "note").unwrap();
        // Refused before anything is done.
        for (from, to, errno) in [(2, 2, Errno::INVAL), (2, SHARE, Errno::INVAL), (99, 3, Errno::BADF)] {
            assert_eq!(client.walk_open(from, to, READ_WRITE | TRUNCATE), Err(errno), "{from}, {to}");
        }
        assert_eq!(client.getattr(2).unwrap().size, 5);
    }
    // From one that is open, too.
    let server = host.writable();
    let mut client = session(&server);
    client.walk(SHARE, 2, "note").unwrap();
    client.open(2, 0).unwrap();
    client.walk_open(2, 3, READ_WRITE | TRUNCATE).unwrap();
    assert_eq!(client.write(3, 0, b"new").unwrap(), 3);
    assert_eq!(client.read(2, 0, 100).unwrap(), b"new");
}

#[test]
fn an_open_fid_can_be_cloned_but_not_moved() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    client.walk(SHARE, 2, "").unwrap();
    client.open(2, 0).unwrap();
    assert_eq!(client.walk(2, 2, "deep"), Err(Errno::INVAL));
    client.walk(2, 3, "deep").unwrap();
    client.walk(3, 3, "deeper/file").unwrap();
    assert_eq!(client.getattr(3).unwrap().size, 100_000);
}

#[test]
fn a_file_unlinked_while_open_is_still_read() {
    let host = Host::new();
    // One cached descriptor, so that the file's is closed by the walk that follows.
    let server = host.server_with(Limits { descriptors: 1, ..Limits::default() });
    let mut client = session(&server);
    client.walk(SHARE, 2, "note").unwrap();
    client.walk(SHARE, 3, "note").unwrap();
    client.open(2, 0).unwrap();
    fs::remove_file(host.path("share/note")).unwrap();
    client.walk(SHARE, 4, "deep/deeper/file").unwrap();
    assert_eq!(client.read(2, 0, 10).unwrap(), b"hello");
    let attributes = client.getattr(2).unwrap();
    assert_eq!((attributes.size, attributes.nlink), (5, 0));
    assert_eq!(client.getattr(3), Err(Errno::STALE));
    assert_eq!(client.getattr(4).unwrap().size, 100_000);
}

#[test]
fn a_fid_whose_descriptor_was_closed_finds_its_file_again_or_is_stale() {
    let host = Host::new();
    let server = host.server_with(Limits { descriptors: 1, ..Limits::default() });
    let mut client = session(&server);
    client.walk(SHARE, 2, "deep/deeper/file").unwrap();
    for _ in 0..3 {
        client.walk(SHARE, 3, "note").unwrap();
        client.clunk(3).unwrap();
        assert_eq!(client.getattr(2).unwrap().size, 100_000);
    }
    // Another file of the same name is not the file that the fid stands for.
    fs::rename(host.path("share/deep/deeper"), host.path("share/deep/old")).unwrap();
    fs::create_dir(host.path("share/deep/deeper")).unwrap();
    fs::write(host.path("share/deep/deeper/file"), "another").unwrap();
    client.walk(SHARE, 3, "note").unwrap();
    client.walk(SHARE, 4, "fifo").unwrap();
    assert_eq!(client.getattr(2), Err(Errno::STALE));
    assert_eq!(client.open(2, 0), Err(Errno::STALE));
}

#[test]
fn what_the_host_forbids_is_forbidden() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    client.walk(SHARE, 2, "deep").unwrap();
    fs::set_permissions(host.path("share/note"), std::os::unix::fs::PermissionsExt::from_mode(0o0)).unwrap();
    client.walk(SHARE, 3, "note").unwrap();
    let expected = if rustix::process::geteuid().is_root() { Ok(()) } else { Err(Errno::ACCESS) };
    assert_eq!(client.open(3, 0).map(drop), expected);
}

#[test]
fn locks_of_existing_files_are_granted() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    let lock = |fid| Request::Lock {
        fid: Fid(fid),
        kind: LockKind(0),
        flags: 0,
        start: 0,
        length: 0,
        proc_id: 1,
        client_id: b"guest",
    };
    assert_eq!(client.call(&lock(SHARE)).unwrap(), [0]);
    assert_eq!(client.call(&lock(99)), Err(Errno::BADF));
    let reply = client
        .call(&Request::Getlock {
            fid: Fid(SHARE),
            kind: LockKind(1),
            start: 5,
            length: 6,
            proc_id: 7,
            client_id: b"guest",
        })
        .unwrap();
    assert_eq!(reply[0], LockKind::UNLOCK.0);
    assert_eq!(reply[1..9], 5_u64.to_le_bytes());
    assert!(reply.ends_with(b"\x05\0guest"));
}

#[test]
fn there_are_no_extended_attributes_and_no_authentication() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    let xattr = Request::Xattrwalk { fid: Fid(SHARE), new_fid: Fid(9), name: b"user.x" };
    assert_eq!(client.call(&xattr), Err(Errno::OPNOTSUPP));
    let auth = Request::Auth { afid: Fid(9), uname: b"", aname: b"", n_uname: 0 };
    assert_eq!(client.call(&auth), Err(Errno::OPNOTSUPP));
    let attach = |afid, aname| Request::Attach { fid: Fid(9), afid, uname: b"", aname, n_uname: 0 };
    assert_eq!(client.call(&attach(Fid(3), b"")), Err(Errno::INVAL));
    assert_eq!(client.call(&attach(Fid::NONE, b"/etc")), Err(Errno::NOENT));
    assert_eq!(client.call(&attach(Fid::NONE, b"../..")), Err(Errno::NOENT));
    assert!(client.call(&attach(Fid::NONE, b"/")).is_ok());
    assert_eq!(client.call(&Request::Flush { old_tag: Tag(3) }).unwrap(), []);
    assert_eq!(client.call(&Request::Fsync { fid: Fid(SHARE), data_only: 0 }).unwrap(), []);
}

#[test]
fn the_server_is_shared_between_threads() {
    let host = Host::new();
    let server = host.server_with(Limits { descriptors: 4, ..Limits::default() });
    drop(session(&server));
    std::thread::scope(|scope| {
        for thread in 1..5_u32 {
            let server = &server;
            scope.spawn(move || {
                let mut client = connect(server, 1 << 16);
                for _ in 0..200 {
                    let fid = thread * 10;
                    client.walk(SHARE, fid, "deep/deeper/file").unwrap();
                    client.walk(SHARE, fid + 1, "deep").unwrap();
                    client.open(fid, 0).unwrap();
                    client.open(fid + 1, 0).unwrap();
                    assert_eq!(client.read(fid, 99_990, 100).unwrap(), [7; 10]);
                    assert_eq!(client.list(fid + 1, 1000).unwrap().len(), 3);
                    client.clunk(fid).unwrap();
                    client.clunk(fid + 1).unwrap();
                }
            });
        }
    });
}
