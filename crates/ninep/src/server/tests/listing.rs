//! Treaddir.

use std::collections::{BTreeMap, HashSet};

use rustix::io::Errno;

use super::*;
use crate::client::Entry;

fn names(entries: &[Entry]) -> Vec<String> {
    let mut names: Vec<_> =
        entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_directory_is_listed_with_the_qids_that_a_walk_gives() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    client.walk(SHARE, 2, "").unwrap();
    client.open(2, 0).unwrap();
    let entries = client.list(2, 8192).unwrap();
    assert_eq!(names(&entries), [".", "..", "deep", "fifo", "inner", "link", "note", "up"]);
    for entry in entries {
        let name = String::from_utf8(entry.name).unwrap();
        let qids = client.walk(SHARE, 3, &name).unwrap();
        assert_eq!((qids[0].path, qids[0].kind), (entry.qid.path, entry.qid.kind), "{name}");
        let mode = client.getattr(3).unwrap().mode;
        assert_eq!(u32::from(entry.kind), mode >> 12, "{name}");
        client.clunk(3).unwrap();
    }
}

#[test]
fn directories_of_the_server_list_grants() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    client.walk(ROOT, 2, "").unwrap();
    client.open(2, 0).unwrap();
    for count in [40, 8192] {
        let entries = client.list(2, count).unwrap();
        assert_eq!(names(&entries), [".", "..", "bin", "etc", "mnt"]);
        for entry in entries {
            let qids = client.walk(ROOT, 3, std::str::from_utf8(&entry.name).unwrap()).unwrap();
            assert_eq!(qids[0].path, entry.qid.path);
            client.clunk(3).unwrap();
        }
    }
    assert_eq!(client.readdir(2, 1000, 8192).unwrap(), []);
    assert_eq!(client.readdir(2, u64::MAX, 8192).unwrap(), []);
}

#[test]
fn grants_inside_a_granted_directory_are_merged_with_it() {
    let host = Host::new();
    fs::create_dir_all(host.path("share/etc")).unwrap();
    fs::write(host.path("share/etc/passwd"), "of the share").unwrap();
    fs::write(host.path("share/etc/group"), "of the share").unwrap();
    fs::write(host.path("other"), "granted").unwrap();
    let export = ExportBuilder::new()
        .directory("/", host.path("share"))
        .unwrap()
        .file("/etc/passwd", host.path("other"))
        .unwrap()
        .file("/etc/extra", host.path("other"))
        .unwrap()
        .file("/made/up/file", host.path("other"))
        .unwrap();
    let server = Server::new(export.open().unwrap(), Limits::default());
    let mut client = connect(&server, 1 << 20);
    client.version(1 << 16).unwrap();
    client.attach(ROOT).unwrap();
    for (path, expected) in [
        ("", &[".", "..", "deep", "etc", "fifo", "inner", "link", "made", "note", "up"][..]),
        ("etc", &[".", "..", "extra", "group", "passwd"]),
        ("made", &[".", "..", "up"]),
    ] {
        for count in [60, 8192] {
            client.walk(ROOT, 2, path).unwrap();
            client.open(2, 0).unwrap();
            let entries = client.list(2, count).unwrap();
            assert_eq!(names(&entries), expected, "{path} in pieces of {count}");
            for entry in &entries {
                let qids = client.walk(2, 3, std::str::from_utf8(&entry.name).unwrap()).unwrap();
                assert_eq!(qids[0].path, entry.qid.path, "{entry:?}");
                client.clunk(3).unwrap();
            }
            client.clunk(2).unwrap();
        }
    }
    for (path, content) in [("etc/passwd", "granted"), ("etc/group", "of the share")] {
        client.walk(ROOT, 2, path).unwrap();
        client.open(2, 0).unwrap();
        assert_eq!(client.read(2, 0, 100).unwrap(), content.as_bytes());
        client.clunk(2).unwrap();
    }
    // `..` leads through the export's tree.
    client.walk(ROOT, 2, "made/up/../../etc/passwd").unwrap();
    assert_eq!(client.getattr(2).unwrap().size, 7);
}

#[test]
fn a_directory_granted_twice_has_two_identities() {
    let host = Host::new();
    let export = ExportBuilder::new()
        .directory("/a", host.path("share"))
        .unwrap()
        .directory("/b", host.path("share"))
        .unwrap();
    let server = Server::new(export.open().unwrap(), Limits::default());
    let mut client = connect(&server, 1 << 20);
    client.version(1 << 16).unwrap();
    client.attach(ROOT).unwrap();
    let a = client.walk(ROOT, 1, "a/deep").unwrap();
    let b = client.walk(ROOT, 2, "b/deep").unwrap();
    assert_ne!(a[0].path, b[0].path);
    assert_ne!(a[1].path, b[1].path);
}

#[test]
fn a_large_directory_is_listed_once_each_in_any_piece_size() {
    let host = tempfile::tempdir().unwrap();
    let mut expected: HashSet<String> = [".".into(), "..".into()].into();
    for number in 0..3000 {
        let name = format!("{number:0>width$}", width = 1 + number % 200);
        fs::write(host.path().join(&name), "").unwrap();
        expected.insert(name);
    }
    let server = whole(host.path());
    let mut client = connect(&server, 1 << 20);
    client.version(512_000).unwrap();
    client.attach(ROOT).unwrap();
    client.open(ROOT, 0).unwrap();
    for count in [300, 5000, 65_536, 500_000] {
        let entries = client.list(ROOT, count).unwrap();
        assert_eq!(entries.len(), expected.len(), "in pieces of {count}");
        assert_eq!(names(&entries).into_iter().collect::<HashSet<_>>(), expected);
    }
}

#[test]
fn listing_goes_on_after_any_entry_in_any_order() {
    let host = tempfile::tempdir().unwrap();
    for number in 0..100 {
        fs::write(host.path().join(format!("file{number}")), "").unwrap();
    }
    let server = whole(host.path());
    let mut client = connect(&server, 1 << 20);
    client.version(1 << 16).unwrap();
    client.attach(ROOT).unwrap();
    client.open(ROOT, 0).unwrap();
    let all = client.list(ROOT, 8192).unwrap();
    let rest: BTreeMap<u64, &[Entry]> =
        all.iter().enumerate().map(|(index, entry)| (entry.offset, &all[index + 1..])).collect();
    for (offset, expected) in rest.iter().rev() {
        assert_eq!(client.readdir(ROOT, *offset, 60_000).unwrap(), *expected);
    }
}

#[test]
fn a_count_too_small_for_one_entry_is_refused() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    for fid in [ROOT, SHARE] {
        client.walk(fid, 2, "").unwrap();
        client.open(2, 0).unwrap();
        for count in [0, 1, 23] {
            assert_eq!(client.readdir(2, 0, count), Err(Errno::INVAL));
        }
        assert!(client.list(2, 40).unwrap().len() > 3);
        client.clunk(2).unwrap();
    }
}

#[test]
fn cookies_that_were_never_given_are_harmless() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    client.walk(SHARE, 2, "").unwrap();
    client.open(2, 0).unwrap();
    let known: HashSet<Vec<u8>> = client.list(2, 8192).unwrap().into_iter().map(|entry| entry.name).collect();
    let odd = [1, 2, 3, 77, u64::from(u32::MAX), 1 << 40, (1 << 63) - 1, 1 << 63, u64::MAX]
        .into_iter()
        .chain((0..10).map(|low| 0x7fff_ffff_0000_0000 + low));
    for offset in odd {
        if let Ok(entries) = client.readdir(2, offset, 8192) {
            assert!(entries.iter().all(|entry| known.contains(&entry.name)), "{offset:#x}");
        }
    }
    assert_eq!(client.list(2, 8192).unwrap().len(), known.len());
}

#[test]
fn only_open_directories_are_listed_and_only_open_files_read() {
    let host = Host::new();
    let server = host.server();
    let mut client = session(&server);
    assert_eq!(client.readdir(SHARE, 0, 1000), Err(Errno::BADF));
    assert_eq!(client.read(SHARE, 0, 1000), Err(Errno::BADF));
    client.walk(SHARE, 2, "note").unwrap();
    client.open(2, 0).unwrap();
    assert_eq!(client.readdir(2, 0, 1000), Err(Errno::NOTDIR));
    client.walk(SHARE, 3, "").unwrap();
    client.open(3, 0).unwrap();
    assert_eq!(client.read(3, 0, 1000), Err(Errno::ISDIR));
    assert_eq!(client.open(3, 0), Err(Errno::BADF));
}
