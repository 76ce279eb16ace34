//! What a writable grant lets a client change, and what its files are like afterwards.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use rustix::io::Errno;

use super::*;
use crate::wire::{LockKind, SetAttributes, open_flags::*, set_attributes as set};

const WRITE_ALL: u32 = WRITE_ONLY | CREATE;

#[test]
fn a_file_is_created_written_and_read() {
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    client.walk(SHARE, 2, "").unwrap();
    let qid = client.create(2, "new", READ_WRITE | CREATE).unwrap();
    assert_eq!(client.write(2, 0, b"hello, world").unwrap(), 12);
    assert_eq!(client.write(2, 7, b"there").unwrap(), 5);
    assert_eq!(client.read(2, 0, 100).unwrap(), b"hello, there");
    assert_eq!(fs::read(host.path("share/new")).unwrap(), b"hello, there");
    assert_eq!(fs::metadata(host.path("share/new")).unwrap().mode() & 0o7777, 0o644);
    client.walk(SHARE, 3, "new").unwrap();
    let attributes = client.getattr(3).unwrap();
    assert_eq!((attributes.size, attributes.qid.path), (12, qid.path));
    assert_eq!(client.call(&Request::Fsync { fid: Fid(2), data_only: 0 }), Ok(vec![]));
    assert_eq!(client.call(&Request::Fsync { fid: Fid(2), data_only: 1 }), Ok(vec![]));
    client.walk(SHARE, 4, "").unwrap();
    client.open(4, 0).unwrap();
    assert_eq!(client.call(&Request::Fsync { fid: Fid(4), data_only: 0 }), Ok(vec![]));
    assert_eq!(server.counters().bytes_written(), 17);
}

#[test]
fn exclusive_creation_fails_on_what_exists_and_plain_creation_opens_it() {
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    for (name, plain) in [
        ("note", Ok(())),
        ("deep", Err(Errno::ISDIR)),
        ("link", Err(Errno::LOOP)),
        ("fifo", Err(Errno::ACCESS)),
    ] {
        client.walk(SHARE, 2, "").unwrap();
        assert_eq!(client.create(2, name, WRITE_ALL | EXCLUSIVE).map(drop), Err(Errno::EXIST), "{name}");
        assert_eq!(client.create(2, name, WRITE_ALL).map(drop), plain, "{name}");
        client.clunk(2).unwrap();
    }
    assert_eq!(fs::read(host.path("share/note")).unwrap(), b"hello");
    client.walk(SHARE, 2, "").unwrap();
    client.create(2, "note", WRITE_ALL | TRUNCATE).unwrap();
    assert_eq!(fs::read(host.path("share/note")).unwrap(), b"");
}

#[test]
fn an_open_file_has_the_access_it_was_opened_with() {
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    client.walk(SHARE, 2, "note").unwrap();
    client.walk(SHARE, 3, "note").unwrap();
    client.walk(SHARE, 4, "note").unwrap();
    client.open(2, 0).unwrap();
    client.open(3, WRITE_ONLY).unwrap();
    assert_eq!(client.write(2, 0, b"x"), Err(Errno::BADF));
    assert_eq!(client.read(3, 0, 10), Err(Errno::BADF));
    assert_eq!(client.write(4, 0, b"x"), Err(Errno::BADF));
    assert_eq!(client.open(4, 3), Err(Errno::INVAL));
    assert_eq!(client.write(3, 5, b"!").unwrap(), 1);
    assert_eq!(client.read(2, 0, 10).unwrap(), b"hello!");
    client.walk(SHARE, 5, "deep").unwrap();
    assert_eq!(client.open(5, WRITE_ONLY), Err(Errno::ISDIR));
    assert_eq!(client.open(5, READ_WRITE), Err(Errno::ISDIR));
}

#[test]
fn appended_bytes_go_to_the_end_wherever_that_is_now() {
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    client.walk(SHARE, 2, "note").unwrap();
    client.open(2, WRITE_ONLY | APPEND).unwrap();
    fs::write(host.path("share/note"), "longer than before").unwrap();
    client.write(2, 5, b", and more").unwrap();
    assert_eq!(fs::read(host.path("share/note")).unwrap(), b"longer than before, and more");
    // A client that reads, too, may have a cache, which writes pages where they are.
    client.walk(SHARE, 3, "note").unwrap();
    client.open(3, READ_WRITE | APPEND).unwrap();
    client.write(3, 0, b"LONGER").unwrap();
    assert_eq!(fs::read(host.path("share/note")).unwrap(), b"LONGER than before, and more");
}

#[test]
fn directories_links_and_nodes_are_made() {
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    client.make_directory(SHARE, "d").unwrap();
    client.walk(SHARE, 2, "d").unwrap();
    client.symlink(2, "s", b"../../../etc/passwd").unwrap();
    client.mknod(2, "f", 0o100_640).unwrap();
    client.mknod(2, "plain", 0o600).unwrap();
    client.mknod(2, "p", 0o010_600).unwrap();
    client.walk(2, 3, "s").unwrap();
    assert_eq!(client.readlink(3).unwrap(), b"../../../etc/passwd");
    client.walk(2, 4, "f").unwrap();
    client.link(4, SHARE, "hard").unwrap();
    client.link(3, SHARE, "hard link").unwrap();
    assert_eq!(client.getattr(4).unwrap().nlink, 2);
    let of = |path: &str| fs::symlink_metadata(host.path(path)).unwrap();
    assert_eq!(of("share/d").mode(), 0o040_755);
    assert_eq!(of("share/d/f").mode(), 0o100_640);
    assert_eq!(of("share/d/plain").mode(), 0o100_600);
    assert!(of("share/d/p").file_type().is_fifo());
    assert_eq!(of("share/hard").ino(), of("share/d/f").ino());
    assert!(of("share/hard link").is_symlink());
    for name in ["d", "hard", "note", "link"] {
        assert_eq!(client.make_directory(SHARE, name), Err(Errno::EXIST), "{name}");
        assert_eq!(client.symlink(SHARE, name, b"x"), Err(Errno::EXIST), "{name}");
        assert_eq!(client.mknod(SHARE, name, 0o100_600), Err(Errno::EXIST), "{name}");
        assert_eq!(client.link(4, SHARE, name), Err(Errno::EXIST), "{name}");
    }
    assert_eq!(client.link(2, SHARE, "directory"), Err(Errno::PERM));
    assert_eq!(client.symlink(SHARE, "empty", b""), Err(Errno::NOENT));
    assert_eq!(client.make_directory(4, "in a file"), Err(Errno::NOTDIR));
}

#[test]
fn files_and_directories_are_removed() {
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    assert_eq!(client.unlink(SHARE, "deep", false), Err(Errno::ISDIR));
    assert_eq!(client.unlink(SHARE, "deep", true), Err(Errno::NOTEMPTY));
    assert_eq!(client.unlink(SHARE, "note", true), Err(Errno::NOTDIR));
    assert_eq!(client.unlink(SHARE, "missing", false), Err(Errno::NOENT));
    client.walk(SHARE, 2, "deep/deeper/file").unwrap();
    assert_eq!(client.call(&Request::Remove { fid: Fid(2) }), Ok(vec![]));
    assert_eq!(client.getattr(2), Err(Errno::BADF));
    client.walk(SHARE, 3, "deep/deeper").unwrap();
    assert_eq!(client.call(&Request::Remove { fid: Fid(3) }), Ok(vec![]));
    client.unlink(SHARE, "deep", true).unwrap();
    client.unlink(SHARE, "fifo", false).unwrap();
    client.unlink(SHARE, "link", false).unwrap();
    assert!(!host.path("share/deep").exists());
    assert_eq!(fs::read(host.path("outside")).unwrap(), CANARY.as_bytes());
}

#[test]
fn a_file_that_loses_its_name_lives_as_long_as_a_fid() {
    let host = Host::new();
    let export = ExportBuilder::new().directory_with("/mnt/share", host.path("share"), Access::READ_WRITE);
    let limits = Limits { descriptors: 2, ..Limits::default() };
    let server = Server::new(export.unwrap().open().unwrap(), limits);
    let mut client = session(&server);
    client.walk(SHARE, 2, "note").unwrap();
    client.walk(SHARE, 3, "note").unwrap();
    client.open(3, READ_WRITE).unwrap();
    client.unlink(SHARE, "note", false).unwrap();
    // Others come and go, and another file gets the name: perhaps with the same inode number.
    fs::write(host.path("share/note"), "another").unwrap();
    for _ in 0..4 {
        client.walk(SHARE, 4, "deep/deeper/file").unwrap();
        client.clunk(4).unwrap();
    }
    client.write(3, 5, b" again").unwrap();
    assert_eq!(client.read(3, 0, 100).unwrap(), b"hello again");
    assert_eq!((client.getattr(2).unwrap().nlink, client.getattr(2).unwrap().size), (0, 11));
    client.set(2, SetAttributes { valid: set::MODE, mode: 0o600, ..Default::default() }).unwrap();
    client.set(3, SetAttributes { valid: set::SIZE, size: 3, ..Default::default() }).unwrap();
    assert_eq!(client.read(3, 0, 100).unwrap(), b"hel");
    client.walk(2, 5, "").unwrap();
    client.open(5, 0).unwrap();
    assert_eq!(client.read(5, 0, 100).unwrap(), b"hel");
    client.walk(SHARE, 6, "note").unwrap();
    client.open(6, 0).unwrap();
    assert_eq!(client.read(6, 0, 100).unwrap(), b"another");
    assert_eq!(client.call(&Request::Remove { fid: Fid(2) }), Err(Errno::NOENT));
}

#[test]
fn a_rename_takes_the_fids_along() {
    let host = Host::new();
    let export = ExportBuilder::new().directory_with("/mnt/share", host.path("share"), Access::READ_WRITE);
    // One descriptor: each request looks the whole way up again.
    let limits = Limits { descriptors: 1, ..Limits::default() };
    let server = Server::new(export.unwrap().open().unwrap(), limits);
    let mut client = session(&server);
    client.walk(SHARE, 2, "deep/deeper/file").unwrap();
    client.walk(SHARE, 3, "deep/deeper").unwrap();
    client.walk(SHARE, 4, "deep").unwrap();
    client.open(4, 0).unwrap();
    client.make_directory(SHARE, "new").unwrap();
    client.walk(SHARE, 5, "new").unwrap();
    client.rename((SHARE, "deep"), (5, "moved")).unwrap();
    assert_eq!(client.getattr(2).unwrap().size, 100_000);
    client.walk(3, 6, "file").unwrap();
    assert_eq!(client.getattr(6).unwrap().size, 100_000);
    assert_eq!(client.list(4, 1000).unwrap().len(), 3);
    // `..` is where it is now.
    let above = client.walk(3, 7, "../../..").unwrap()[2];
    assert_eq!(above.path, client.getattr(SHARE).unwrap().qid.path);
    // And the file by its own name, by Trename.
    let name = crate::wire::Name::new(b"at the top").unwrap();
    client.call(&Request::Rename { fid: Fid(2), directory: Fid(SHARE), name }).unwrap();
    client.getattr(5).unwrap();
    assert_eq!(client.getattr(2).unwrap().size, 100_000);
    assert_eq!(fs::metadata(host.path("share/at the top")).unwrap().len(), 100_000);
    assert_eq!(client.getattr(6).unwrap().qid, client.getattr(2).unwrap().qid);
}

#[test]
fn renaming_over_an_open_file_leaves_it_to_those_who_have_it() {
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    fs::write(host.path("share/other"), "other").unwrap();
    client.walk(SHARE, 2, "note").unwrap();
    client.open(2, 0).unwrap();
    client.walk(SHARE, 3, "note").unwrap();
    client.walk(SHARE, 4, "other").unwrap();
    client.rename((SHARE, "other"), (SHARE, "note")).unwrap();
    assert_eq!(client.read(2, 0, 10).unwrap(), b"hello");
    assert_eq!(client.getattr(3).unwrap().nlink, 0);
    client.open(4, 0).unwrap();
    assert_eq!(client.read(4, 0, 10).unwrap(), b"other");
    assert_eq!(client.walk(SHARE, 5, "other"), Err(Errno::NOENT));
    // Onto itself, and one name of a file onto the other: nothing happens.
    client.rename((SHARE, "note"), (SHARE, "note")).unwrap();
    client.link(4, SHARE, "same").unwrap();
    client.walk(SHARE, 6, "same").unwrap();
    client.rename((SHARE, "same"), (SHARE, "note")).unwrap();
    client.walk(SHARE, 7, "same").unwrap();
    client.walk(SHARE, 8, "note").unwrap();
    assert_eq!(client.getattr(6).unwrap().nlink, 2);
}

#[test]
fn impossible_renames_have_the_hosts_errors() {
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    client.walk(SHARE, 2, "deep/deeper").unwrap();
    client.make_directory(SHARE, "empty").unwrap();
    assert_eq!(client.rename((SHARE, "deep"), (2, "inside itself")), Err(Errno::INVAL));
    assert_eq!(client.rename((SHARE, "empty"), (SHARE, "deep")), Err(Errno::NOTEMPTY));
    assert_eq!(client.rename((SHARE, "note"), (SHARE, "deep")), Err(Errno::ISDIR));
    assert_eq!(client.rename((SHARE, "deep"), (SHARE, "note")), Err(Errno::NOTDIR));
    assert_eq!(client.rename((SHARE, "missing"), (SHARE, "x")), Err(Errno::NOENT));
    client.walk(SHARE, 3, "deep").unwrap();
    client.rename((SHARE, "deep"), (SHARE, "empty")).unwrap();
    assert_eq!(client.walk(3, 4, "deeper/file").unwrap().len(), 2);
}

#[test]
fn attributes_are_set() {
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    client.walk(SHARE, 2, "note").unwrap();
    let times = SetAttributes {
        valid: set::ATIME | set::ATIME_SET | set::MTIME | set::MTIME_SET,
        atime_sec: 1_000_000_000,
        atime_nsec: 123_456_789,
        mtime_sec: (-5_i64).cast_unsigned(),
        mtime_nsec: 999_999_999,
        ..Default::default()
    };
    client.set(2, times).unwrap();
    let attributes = client.getattr(2).unwrap();
    assert_eq!((attributes.atime.sec, attributes.atime.nsec), (1_000_000_000, 123_456_789));
    assert_eq!((attributes.mtime.sec, attributes.mtime.nsec), (-5, 999_999_999));
    client.set(2, SetAttributes { valid: set::MTIME, ..times }).unwrap();
    assert!(client.getattr(2).unwrap().mtime.sec > 1_700_000_000);
    assert_eq!(client.getattr(2).unwrap().atime.nsec, 123_456_789);
    assert_eq!(client.set(2, SetAttributes { atime_nsec: 1_000_000_000, ..times }), Err(Errno::INVAL));

    client.set(2, SetAttributes { valid: set::SIZE, size: 1 << 40, ..times }).unwrap();
    let sparse = client.getattr(2).unwrap();
    assert_eq!((sparse.size, sparse.blocks < 1000), (1 << 40, true));
    client.walk(2, 3, "").unwrap();
    client.open(3, READ_WRITE).unwrap();
    assert_eq!(client.read(3, 1 << 39, 4).unwrap(), [0; 4]);
    client.write(3, (1 << 40) - 2, b"end").unwrap();
    assert_eq!(client.getattr(2).unwrap().size, (1 << 40) + 1);
    client.set(3, SetAttributes { valid: set::SIZE | set::MODE, size: 2, mode: 0o444, ..times }).unwrap();
    assert_eq!((client.getattr(2).unwrap().size, client.getattr(2).unwrap().mode), (2, 0o100_444));
    // What is open stays writable.
    client.set(3, SetAttributes { valid: set::SIZE, size: 1, ..times }).unwrap();
    client.write(3, 0, b"y").unwrap();
    assert_eq!(client.set(3, SetAttributes { valid: set::SIZE, size: u64::MAX, ..times }), Err(Errno::INVAL));

    client.walk(SHARE, 4, "deep").unwrap();
    assert_eq!(client.set(4, SetAttributes { valid: set::SIZE, ..times }), Err(Errno::ISDIR));
    client.set(4, SetAttributes { valid: set::MODE, mode: 0o3775, ..times }).unwrap();
    assert_eq!(client.getattr(4).unwrap().mode, 0o043_775);
    // A symbolic link has times of its own.
    client.walk(SHARE, 5, "link").unwrap();
    client.set(5, times).unwrap();
    assert_eq!(client.getattr(5).unwrap().atime.nsec, 123_456_789);
    assert_eq!(client.set(5, SetAttributes { valid: set::MODE, ..times }), Err(Errno::OPNOTSUPP));
    assert_eq!(fs::read(host.path("outside")).unwrap(), CANARY.as_bytes());
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    client.set(5, SetAttributes { valid: set::UID | set::GID, uid, gid, ..times }).unwrap();
    assert_eq!(client.set(5, SetAttributes { valid: set::UID, uid: u32::MAX, ..times }), Err(Errno::INVAL));
}

#[test]
fn set_uid_is_neither_set_nor_kept_when_a_file_changes() {
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    let mode = || fs::metadata(host.path("share/note")).unwrap().mode() & 0o7777;
    client.walk(SHARE, 2, "note").unwrap();
    client.set(2, SetAttributes { valid: set::MODE, mode: 0o7755, ..Default::default() }).unwrap();
    assert_eq!(mode(), 0o1755);
    client.mknod(SHARE, "made", 0o106_755).unwrap();
    assert_eq!(fs::metadata(host.path("share/made")).unwrap().mode() & 0o7777, 0o755);

    let arm = || fs::set_permissions(host.path("share/note"), fs::Permissions::from_mode(0o6755)).unwrap();
    arm();
    client.walk(SHARE, 3, "note").unwrap();
    client.open(3, WRITE_ONLY).unwrap();
    assert_eq!(mode(), 0o6755);
    client.write(3, 0, b"x").unwrap();
    assert_eq!(mode(), 0o755);
    arm();
    client.set(2, SetAttributes { valid: set::SIZE, size: 0, ..Default::default() }).unwrap();
    assert_eq!(mode(), 0o755);
}

#[test]
fn extended_attributes_of_the_user_are_kept_and_no_others() {
    // tmpfs has them since Linux 6.6 only.
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let file = fs::File::open(folder.path().join("file")).unwrap();
    if rustix::fs::fsetxattr(&file, "user.probe", b"", rustix::fs::XattrFlags::empty()).is_err() {
        eprintln!("SKIPPED: no extended attributes on the file system of {}", folder.path().display());
        return;
    }
    rustix::fs::fremovexattr(&file, "user.probe").unwrap();
    let server = |access| {
        let export = ExportBuilder::new().directory_with("/", folder.path(), access).unwrap();
        let server = Server::new(export.open().unwrap(), Limits::default());
        connect(&server, 1 << 16).version(8192).unwrap();
        connect(&server, 1 << 16).attach(0).unwrap();
        connect(&server, 1 << 16).walk(0, 1, "file").unwrap();
        server
    };
    let writable = server(Access::READ_WRITE);
    let mut client = connect(&writable, 1 << 16);
    let large = vec![0xa5; 3000];
    client.set_xattr(1, 9, b"user.a", b"value", 0).unwrap();
    client.set_xattr(1, 9, b"user.empty", b"", 0).unwrap();
    client.set_xattr(1, 9, b"user.large", &large, 1).unwrap();
    assert_eq!(client.set_xattr(1, 9, b"user.a", b"x", 1), Err(Errno::EXIST));
    assert_eq!(client.set_xattr(1, 9, b"user.missing", b"x", 2), Err(Errno::NODATA));
    assert_eq!(client.xattr(1, 9, b"user.a").unwrap(), b"value");
    assert_eq!(client.xattr(1, 9, b"user.empty").unwrap(), b"");
    assert_eq!(client.xattr(1, 9, b"user.large").unwrap(), large);
    let mut names: Vec<_> =
        client.xattr(1, 9, b"").unwrap().split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    names.sort();
    assert_eq!(names, [&b""[..], b"user.a", b"user.empty", b"user.large"]);
    client.set_xattr(1, 9, b"user.a", b"", 2).unwrap();
    assert_eq!(client.xattr(1, 9, b"user.a"), Err(Errno::NODATA));
    for name in [&b"trusted.x"[..], b"security.capability", b"system.posix_acl_access", b"user.", b"user"] {
        assert_eq!(client.set_xattr(1, 9, name, b"x", 0), Err(Errno::OPNOTSUPP));
        assert_eq!(client.xattr(1, 9, name), Err(Errno::OPNOTSUPP));
    }
    assert_eq!(client.set_xattr(1, 9, b"user.\0", b"x", 0), Err(Errno::INVAL));
    assert_eq!(client.set_xattr(1, 9, &[&b"user."[..], &[b'x'; 251]].concat(), b"x", 0), Err(Errno::RANGE));
    let create = |size| Request::Xattrcreate { fid: Fid(1), name: b"user.b", size, flags: 0 };
    assert_eq!(client.call(&create(u64::MAX)), Err(Errno::TOOBIG));
    client.call(&create(4)).unwrap();
    assert_eq!(client.write(1, 1, b"x"), Err(Errno::INVAL));
    assert_eq!(client.write(1, 0, b"12345"), Err(Errno::NOSPC));
    client.write(1, 0, b"12").unwrap();
    assert_eq!(client.read(1, 0, 10), Err(Errno::BADF));
    // Not all of the value came.
    assert_eq!(client.clunk(1), Err(Errno::INVAL));
    assert_eq!(client.getattr(1), Err(Errno::BADF));

    let read_only = server(Access { xattrs: true, ..Access::READ_ONLY });
    let mut client = connect(&read_only, 1 << 16);
    assert_eq!(client.xattr(1, 9, b"user.large").unwrap(), large);
    assert_eq!(client.set_xattr(1, 9, b"user.x", b"x", 0), Err(Errno::ROFS));
    let without = server(Access { xattrs: false, ..Access::READ_WRITE });
    let mut client = connect(&without, 1 << 16);
    assert_eq!(client.xattr(1, 9, b"user.large"), Err(Errno::OPNOTSUPP));
    assert_eq!(client.set_xattr(1, 9, b"user.x", b"x", 0), Err(Errno::OPNOTSUPP));
}

#[test]
fn locks_hold_against_the_hosts_programs_until_the_fid_is_gone() {
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    let lock = |fid, kind, proc_id| Request::Lock {
        fid: Fid(fid),
        kind,
        flags: 0,
        start: 10,
        length: 5,
        proc_id,
        client_id: b"guest",
    };
    let asked = |fid| Request::Getlock {
        fid: Fid(fid),
        kind: LockKind::WRITE,
        start: 0,
        length: 0,
        proc_id: 7,
        client_id: b"guest",
    };
    client.walk(SHARE, 2, "note").unwrap();
    assert_eq!(client.call(&lock(2, LockKind::WRITE, 1)), Err(Errno::BADF));
    client.open(2, READ_WRITE).unwrap();
    client.walk(SHARE, 3, "note").unwrap();
    client.open(3, READ_WRITE).unwrap();
    let own = fs::File::options().read(true).write(true).open(host.path("share/note")).unwrap().into();
    let range = host::lock::Range { start: 12, end: 12 };
    assert_eq!(client.call(&lock(2, LockKind::WRITE, 1)).unwrap(), [0]);
    assert!(!host::lock::set(&own, LockKind::READ, range).unwrap());
    // Another process of the client is not in the way of the first, which its kernel would have said.
    assert_eq!(client.call(&lock(3, LockKind::READ, 2)).unwrap(), [0]);
    assert_eq!(client.call(&asked(2)).unwrap()[0], LockKind::UNLOCK.0);
    client.clunk(2).unwrap();
    assert!(host::lock::set(&own, LockKind::READ, range).unwrap());
    assert!(!host::lock::set(&own, LockKind::WRITE, range).unwrap());
    client.clunk(3).unwrap();
    assert!(host::lock::set(&own, LockKind::WRITE, range).unwrap());

    client.walk(SHARE, 4, "note").unwrap();
    client.open(4, 0).unwrap();
    assert_eq!(client.call(&lock(4, LockKind::READ, 1)).unwrap(), [1]);
    let reply = client.call(&asked(4)).unwrap();
    assert_eq!(
        (reply[0], &reply[1..9], &reply[9..17]),
        (LockKind::WRITE.0, &12_u64.to_le_bytes()[..], &1_u64.to_le_bytes()[..])
    );
    assert_eq!(client.call(&lock(4, LockKind(9), 1)), Err(Errno::INVAL));
    host::lock::set(&own, LockKind::UNLOCK, range).unwrap();
    assert_eq!(client.call(&lock(4, LockKind::READ, 1)).unwrap(), [0]);
    server.reset();
    assert!(host::lock::set(&own, LockKind::WRITE, range).unwrap());
}

#[test]
fn a_directory_is_listed_to_its_end_while_it_changes() {
    let host = Host::new();
    let server = host.writable();
    let mut client = session(&server);
    client.make_directory(SHARE, "many").unwrap();
    client.walk(SHARE, 2, "many").unwrap();
    let name = |index: u32| format!("{index:0>255}");
    for index in 0..300 {
        client.mknod(2, &name(index), 0o100_600).unwrap();
    }
    client.walk(2, 3, "").unwrap();
    client.open(3, 0).unwrap();
    let (mut seen, mut offset, mut added) = (std::collections::HashSet::new(), 0, 300);
    loop {
        let entries = client.readdir(3, offset, 4096).unwrap();
        let Some(last) = entries.last() else { break };
        offset = last.offset;
        seen.extend(entries.into_iter().map(|entry| String::from_utf8(entry.name).unwrap()));
        // One goes that was seen, one comes.
        if let Some(gone) =
            seen.iter().find(|name| name.len() == 255 && host.path(&format!("share/many/{name}")).exists())
        {
            client.unlink(2, &gone.clone(), false).unwrap();
        }
        client.mknod(2, &name(added), 0o100_600).unwrap();
        added += 1;
        assert!(added < 2000, "the list has no end");
    }
    // What was there all the time was seen.
    assert!((0..300).all(|index| seen.contains(&name(index))));
}

#[test]
fn names_of_255_bytes_nest_deeper_than_a_path_can_say() {
    let folder = tempfile::tempdir().unwrap();
    let export = ExportBuilder::new().directory_with("/", folder.path(), Access::READ_WRITE).unwrap();
    let server = Server::new(export.open().unwrap(), Limits { descriptors: 4, ..Limits::default() });
    let mut client = connect(&server, 1 << 16);
    client.version(65_536).unwrap();
    client.attach(0).unwrap();
    let long = "n".repeat(255);
    client.walk(0, 1, "").unwrap();
    for _ in 0..40 {
        client.make_directory(1, &long).unwrap();
        client.walk(1, 1, &long).unwrap();
    }
    client.walk(1, 2, "").unwrap();
    client.create(2, "deep", READ_WRITE | CREATE).unwrap();
    client.write(2, 0, b"at 10 KiB").unwrap();
    client.walk(0, 3, &long).unwrap();
    client.rename((0, &long), (0, "short")).unwrap();
    client.walk(1, 4, "deep").unwrap();
    client.open(4, 0).unwrap();
    assert_eq!(client.read(4, 0, 100).unwrap(), b"at 10 KiB");
    client.unlink(1, "deep", false).unwrap();
    for _ in 0..39 {
        client.walk(1, 1, "..").unwrap();
        client.unlink(1, &long, true).unwrap();
    }
    client.unlink(0, "short", true).unwrap();
}
