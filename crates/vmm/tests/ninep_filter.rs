//! A 9P server lives with the confinement of its kind: a call that the filter lacks ends this process, and a file
//! that Landlock keeps from it is an error.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs::{self, File},
    path::Path,
    thread,
};

use ninep::{
    Access, ExportBuilder, Limits, Server,
    client::{Client, connect},
    wire::{Fid, Name, Request, SetAttributes, open_flags::*, set_attributes::*},
};
use nofear_vmm::{Reach, Rights, ThreadKind, confine_thread_to};
use vmm_sys_util::tempdir::TempDir;

const ROOM: usize = 1 << 16;

/// Runs a session in a thread that has the filter. What only the client needs was done before.
macro_rules! confined {
    ($kind:expr, $rights:expr, $folder:expr, $access:expr, $session:ident) => {
        let server = server($folder, $access);
        let reach = Reach::nothing().unwrap().and(File::open($folder).unwrap(), $rights).unwrap();
        let mut client = connect(&server, ROOM);
        thread::scope(|scope| {
            scope.spawn(|| {
                confine_thread_to($kind, reach).unwrap();
                $session(&mut client);
            });
        });
    };
}

fn server(path: &Path, access: Access) -> Server {
    let export = ExportBuilder::new().directory_with("/", path, access).unwrap().open().unwrap();
    Server::new(export, Limits::default())
}

fn read_only<T: FnMut(&[u8]) -> Vec<u8>>(client: &mut Client<T>) {
    client.version(8192).unwrap();
    client.attach(0).unwrap();
    client.walk(0, 1, "file").unwrap();
    client.walk(0, 2, "").unwrap();
    client.walk(0, 3, "link").unwrap();
    client.open(1, 0).unwrap();
    client.open(2, 0).unwrap();
    assert_eq!(client.read(1, 0, 100).unwrap(), b"content");
    assert_eq!(client.readlink(3).unwrap(), b"target");
    assert!(client.list(2, 1000).unwrap().len() >= 4);
    client.getattr(1).unwrap();
    client.statfs(1).unwrap();
    let _ = client.xattr(1, 9, b"");
    let lock = Request::Lock {
        fid: Fid(1),
        kind: ninep::wire::LockKind::READ,
        flags: 0,
        start: 0,
        length: 0,
        proc_id: 1,
        client_id: b"",
    };
    client.call(&lock).unwrap();
    client.call(&Request::Fsync { fid: Fid(1), data_only: 0 }).unwrap();
    assert!(client.unlink(0, "file", false).is_err());
    assert!(client.make_directory(0, "new").is_err());
    client.clunk(1).unwrap();
}

fn writing<T: FnMut(&[u8]) -> Vec<u8>>(client: &mut Client<T>) {
    client.version(8192).unwrap();
    client.attach(0).unwrap();
    client.walk(0, 10, "").unwrap();
    client.create(10, "new", READ_WRITE | CREATE).unwrap();
    client.write(10, 0, b"written").unwrap();
    for data_only in [0, 1] {
        client.call(&Request::Fsync { fid: Fid(10), data_only }).unwrap();
    }
    for kind in [ninep::wire::LockKind::WRITE, ninep::wire::LockKind::UNLOCK] {
        let (flags, start, length) = (0, 0, 0);
        let lock = Request::Lock { fid: Fid(10), kind, flags, start, length, proc_id: 1, client_id: b"" };
        client.call(&lock).unwrap();
    }
    let asked = Request::Getlock {
        fid: Fid(10),
        kind: ninep::wire::LockKind::WRITE,
        start: 0,
        length: 0,
        proc_id: 1,
        client_id: b"",
    };
    client.call(&asked).unwrap();
    client.make_directory(0, "d").unwrap();
    client.mknod(0, "fifo", 0o010_666).unwrap();
    client.mknod(0, "node", 0o100_666).unwrap();
    client.symlink(0, "s", b"x").unwrap();
    client.link(10, 0, "hard").unwrap();
    client.rename((0, "hard"), (0, "renamed")).unwrap();
    let (uid, gid) = {
        let attributes = client.getattr(10).unwrap();
        (attributes.uid, attributes.gid)
    };
    let all = SetAttributes {
        valid: MODE | UID | GID | SIZE | MTIME | ATIME,
        mode: 0o640,
        uid,
        gid,
        size: 3,
        ..Default::default()
    };
    client.set(10, all).unwrap();
    client.walk(0, 11, "renamed").unwrap();
    client.set(11, all).unwrap();
    // As far as the file system has them.
    let _ = client.set_xattr(11, 12, b"user.x", b"y", 0);
    let _ = client.xattr(11, 12, b"user.x");
    let _ = client.xattr(11, 12, b"");
    let _ = client.set_xattr(11, 12, b"user.x", b"", 2);
    let name = Name::new(b"again").unwrap();
    client.call(&Request::Rename { fid: Fid(11), directory: Fid(0), name }).unwrap();
    client.call(&Request::Remove { fid: Fid(11) }).unwrap();
    client.unlink(0, "d", true).unwrap();
    client.unlink(0, "new", false).unwrap();
    client.clunk(10).unwrap();
}

#[test]
fn every_request_is_served_under_the_filter_of_its_kind() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.as_path().join("file"), "content").unwrap();
    std::os::unix::fs::symlink("target", folder.as_path().join("link")).unwrap();
    let path = folder.as_path();
    confined!(ThreadKind::NineP, Rights::Read, path, Access::READ_ONLY, read_only);
    confined!(ThreadKind::WritableNineP, Rights::Change, path, Access::READ_WRITE, writing);
    assert_eq!(fs::read(folder.as_path().join("file")).unwrap(), b"content");
}
