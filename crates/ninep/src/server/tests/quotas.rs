//! Caps on what a client adds to a grant.

use std::sync::Barrier;
use std::thread;

use rustix::io::Errno;

use super::*;
use crate::Caps;
use crate::wire::{Name, SetAttributes, open_flags::*, set_attributes as set};

fn capped(host: &Host, bytes: Option<u64>, files: Option<u64>) -> Server {
    let access = Access { caps: Caps { bytes, files }, ..Access::READ_WRITE };
    let export = ExportBuilder::new().directory_with("/mnt/share", host.path("share"), access).unwrap();
    Server::new(export.open().unwrap(), Limits::default())
}

fn size(size: u64) -> SetAttributes {
    SetAttributes { valid: set::SIZE, size, ..Default::default() }
}

#[test]
fn names_beyond_the_cap_are_refused_until_some_are_removed() {
    let host = Host::new();
    let server = capped(&host, None, Some(4));
    let mut client = session(&server);
    client.make_directory(SHARE, "1").unwrap();
    client.symlink(SHARE, "2", b"x").unwrap();
    client.mknod(SHARE, "3", 0o010_600).unwrap();
    client.walk(SHARE, 2, "").unwrap();
    client.create(2, "4", WRITE_ONLY | CREATE).unwrap();
    assert_eq!(client.make_directory(SHARE, "5"), Err(Errno::DQUOT));
    assert_eq!(client.link(2, SHARE, "5"), Err(Errno::DQUOT));
    client.walk(SHARE, 3, "").unwrap();
    assert_eq!(client.create(3, "5", WRITE_ONLY | CREATE), Err(Errno::DQUOT));
    // What exists is opened all the same, and what fails is not counted.
    client.create(3, "note", WRITE_ONLY | CREATE).unwrap();
    client.unlink(SHARE, "2", false).unwrap();
    assert_eq!(client.make_directory(SHARE, "1"), Err(Errno::EXIST));
    client.link(2, SHARE, "5").unwrap();
    client.rename((SHARE, "5"), (SHARE, "note")).unwrap();
    client.make_directory(SHARE, "6").unwrap();
    assert_eq!(client.make_directory(SHARE, "7"), Err(Errno::DQUOT));
    // Nothing happens when both are names of one file.
    client.rename((SHARE, "4"), (SHARE, "note")).unwrap();
    assert_eq!(client.make_directory(SHARE, "7"), Err(Errno::DQUOT));
}

#[test]
fn bytes_beyond_the_cap_are_refused_until_some_are_cut_off() {
    let host = Host::new();
    let server = capped(&host, Some(1000), None);
    let mut client = session(&server);
    client.walk(SHARE, 2, "note").unwrap();
    client.open(2, READ_WRITE).unwrap();
    // Over what was there: nothing is added.
    client.write(2, 0, b"HELLO").unwrap();
    client.write(2, 5, &[1; 600]).unwrap();
    assert_eq!(client.write(2, 600, &[1; 406]), Err(Errno::DQUOT));
    assert_eq!(client.set(2, size(1006)), Err(Errno::DQUOT));
    assert_eq!(client.write(2, 1 << 40, b"x"), Err(Errno::DQUOT));
    client.set(2, size(1005)).unwrap();
    client.walk(SHARE, 3, "").unwrap();
    client.create(3, "other", WRITE_ONLY | CREATE).unwrap();
    assert_eq!(client.write(3, 0, b"x"), Err(Errno::DQUOT));
    client.set(2, size(905)).unwrap();
    client.write(3, 0, &[1; 100]).unwrap();
    assert_eq!(client.write(3, 100, b"x"), Err(Errno::DQUOT));
    client.walk(SHARE, 4, "note").unwrap();
    client.open(4, WRITE_ONLY | TRUNCATE).unwrap();
    client.write(3, 100, &[1; 900]).unwrap();
    assert_eq!(fs::metadata(host.path("share/other")).unwrap().len(), 1000);
    // The five bytes that were there before were given back, too.
    client.write(3, 1000, b"12345").unwrap();
    assert_eq!(client.write(3, 1005, b"x"), Err(Errno::DQUOT));
}

#[test]
fn a_file_without_a_name_counts_until_it_is_closed() {
    let host = Host::new();
    let server = capped(&host, Some(1000), None);
    let mut client = session(&server);
    client.walk(SHARE, 2, "").unwrap();
    client.create(2, "hidden", READ_WRITE | CREATE).unwrap();
    client.write(2, 0, &[1; 1000]).unwrap();
    client.link(2, SHARE, "second name").unwrap();
    client.unlink(SHARE, "hidden", false).unwrap();
    client.unlink(SHARE, "second name", false).unwrap();
    client.walk(SHARE, 3, "").unwrap();
    client.create(3, "next", READ_WRITE | CREATE).unwrap();
    assert_eq!(client.write(3, 0, b"x"), Err(Errno::DQUOT));
    client.clunk(2).unwrap();
    client.write(3, 0, &[1; 1000]).unwrap();
    // And once only.
    client.unlink(SHARE, "next", false).unwrap();
    client.clunk(3).unwrap();
    client.walk(SHARE, 4, "").unwrap();
    client.create(4, "last", READ_WRITE | CREATE).unwrap();
    client.write(4, 0, &[1; 1000]).unwrap();
    assert_eq!(client.write(4, 1000, b"x"), Err(Errno::DQUOT));
    // Closed and then removed gives back too.
    client.clunk(4).unwrap();
    client.unlink(SHARE, "last", false).unwrap();
    client.walk(SHARE, 5, "").unwrap();
    client.create(5, "again", READ_WRITE | CREATE).unwrap();
    client.write(5, 0, &[1; 1000]).unwrap();
}

#[test]
fn a_file_that_lost_its_name_before_it_was_opened_is_given_back_once() {
    let host = Host::new();
    let server = capped(&host, Some(1000), None);
    let mut client = session(&server);
    client.walk(SHARE, 2, "").unwrap();
    client.create(2, "stays", READ_WRITE | CREATE).unwrap();
    client.write(2, 0, &[1; 500]).unwrap();
    let uses: [fn(&mut Client<_>); 4] = [
        |client| _ = client.open(3, 0).unwrap(),
        |client| _ = client.open(3, READ_WRITE | TRUNCATE).unwrap(),
        |client| client.set(3, size(0)).unwrap(),
        |client| {
            client.set(3, size(450)).unwrap();
            client.open(3, READ_WRITE).unwrap();
            client.write(3, 450, &[1; 50]).unwrap();
        },
    ];
    for used in uses {
        client.walk(SHARE, 4, "").unwrap();
        client.create(4, "one", READ_WRITE | CREATE).unwrap();
        client.write(4, 0, &[1; 400]).unwrap();
        client.clunk(4).unwrap();
        client.walk(SHARE, 3, "one").unwrap();
        client.unlink(SHARE, "one", false).unwrap();
        used(&mut client);
        client.clunk(3).unwrap();
        assert_eq!(client.write(2, 500, &[1; 501]), Err(Errno::DQUOT));
    }
}

#[test]
fn bytes_are_given_back_once_by_requests_that_are_under_way_together() {
    let host = Host::new();
    let server = capped(&host, Some(1000), None);
    let mut client = session(&server);
    client.walk(SHARE, 2, "").unwrap();
    client.create(2, "stays", READ_WRITE | CREATE).unwrap();
    client.write(2, 0, &[1; 500]).unwrap();
    let together = |one: Request<'static>, other: Request<'static>| {
        let start = Barrier::new(2);
        thread::scope(|scope| {
            for request in [one, other] {
                let (server, start) = (&server, &start);
                scope.spawn(move || {
                    let mut client = connect(server, 100);
                    start.wait();
                    client.call(&request).unwrap();
                });
            }
        });
    };
    let names = ["one", "two"].map(|name| Name::new(name.as_bytes()).unwrap());
    let directory = Fid(SHARE);
    for _ in 0..300 {
        client.walk(SHARE, 3, "").unwrap();
        client.create(3, "one", READ_WRITE | CREATE).unwrap();
        client.write(3, 0, &[1; 400]).unwrap();
        together(Request::Clunk { fid: Fid(3) }, Request::Unlinkat { directory, name: names[0], flags: 0 });
        // Both of its names.
        client.walk(SHARE, 3, "").unwrap();
        client.create(3, "one", READ_WRITE | CREATE).unwrap();
        client.write(3, 0, &[1; 400]).unwrap();
        client.link(3, SHARE, "two").unwrap();
        client.clunk(3).unwrap();
        let [one, two] = names.map(|name| Request::Unlinkat { directory, name, flags: 0 });
        together(one, two);
        // Emptied by two who open it.
        client.walk(SHARE, 3, "").unwrap();
        client.create(3, "one", READ_WRITE | CREATE).unwrap();
        client.write(3, 0, &[1; 400]).unwrap();
        let [one, two] = [4, 5].map(|new| Request::WalkOpen {
            fid: Fid(3),
            new_fid: Fid(new),
            flags: WRITE_ONLY | TRUNCATE,
        });
        together(one, two);
        for fid in 3..6 {
            client.clunk(fid).unwrap();
        }
        client.unlink(SHARE, "one", false).unwrap();
    }
    client.write(2, 500, &[1; 500]).unwrap();
    assert_eq!(client.write(2, 1000, b"x"), Err(Errno::DQUOT));
}
