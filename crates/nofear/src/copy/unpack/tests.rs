use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// A stream with these entries: a kind, a path, and a text or a link's target.
fn stream(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (kind, path, text) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o6755);
        // Not by the library, which refuses what a guest would send.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        let is_link = matches!(kind, Symlink | EntryType::Link);
        let text = if is_link {
            header.as_mut_bytes()[157..157 + text.len()].copy_from_slice(text.as_bytes());
            ""
        } else {
            text
        };
        header.set_size(text.len() as u64);
        header.set_cksum();
        tar.append(&header, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

struct Outside(tempfile::TempDir);

impl Outside {
    /// A folder to copy into, beside a file that must not change.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("into")).unwrap();
        fs::write(folder.path().join("precious"), "precious").unwrap();
        Self(folder)
    }

    fn target(&self) -> PathBuf {
        self.0.path().join("into")
    }

    fn unpack(&self, entries: &[(EntryType, &str, &str)]) -> anyhow::Result<()> {
        let folder = File::open(self.target()).unwrap();
        let result = unpack(&mut stream(entries).as_slice(), &folder, "a".as_ref(), "b".as_ref());
        assert_eq!(fs::read(self.0.path().join("precious")).unwrap(), b"precious");
        assert_eq!(fs::read_dir(self.0.path()).unwrap().count(), 2);
        result
    }
}

use EntryType::{Directory, Regular, Symlink};

#[test]
fn a_folder_arrives_under_its_new_name_without_set_user_id() {
    let outside = Outside::new();
    let entries =
        [(Directory, "a/", ""), (Regular, "a/x", "text"), (Directory, "a/d", ""), (Symlink, "a/d/l", "../x")];
    // Twice: what is there is written over.
    for _ in 0..2 {
        outside.unpack(&entries).unwrap();
        let made = outside.target().join("b");
        assert_eq!(fs::read(made.join("d/l")).unwrap(), b"text");
        assert_eq!(made.join("x").metadata().unwrap().permissions().mode() & 0o7700, 0o700);
        assert_eq!(fs::read_dir(outside.target()).unwrap().count(), 1);
    }
}

#[test]
fn no_name_leads_out() {
    for path in ["../precious", "/precious", "a/../../precious", "c", "a/..", "a/../c", ""] {
        let outside = Outside::new();
        assert!(outside.unpack(&[(Directory, "a", ""), (Regular, path, "x")]).is_err(), "{path}");
    }
}

#[test]
fn no_link_is_followed_neither_the_streams_own_nor_one_that_was_there() {
    let outside = Outside::new();
    // A link of the stream, and then a file through it.
    let through =
        [(Directory, "a", ""), (Directory, "a/d", ""), (Symlink, "a/l", "d"), (Regular, "a/l/x", "x")];
    assert!(outside.unpack(&through).is_err());
    assert!(!outside.target().join("b/d/x").exists());
    // A file in the place of a link replaces it.
    symlink("../../precious", outside.target().join("b/y")).unwrap();
    outside.unpack(&[(Directory, "a", ""), (Regular, "a/y", "x")]).unwrap();
    assert!(outside.target().join("b/y").symlink_metadata().unwrap().is_file());
    // The target itself a link to a folder elsewhere.
    let outside = Outside::new();
    symlink("..", outside.target().join("b")).unwrap();
    assert!(outside.unpack(&[(Directory, "a", ""), (Regular, "a/precious", "x")]).is_err());
}

#[test]
fn links_that_lead_out_devices_and_hard_links_are_left_out() {
    let outside = Outside::new();
    let entries = [
        (Directory, "a", ""),
        (Symlink, "a/1", "/etc/passwd"),
        (Symlink, "a/2", "../x"),
        (Symlink, "a/3", ""),
        (EntryType::Link, "a/4", "../precious"),
        (EntryType::Char, "a/5", ""),
        (EntryType::Fifo, "a/6", ""),
        (Regular, "a/7", "kept"),
    ];
    outside.unpack(&entries).unwrap();
    let names: Vec<_> =
        fs::read_dir(outside.target().join("b")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["7"]);
}

#[test]
fn a_stream_that_is_none_is_an_error() {
    let outside = Outside::new();
    let folder = File::open(outside.target()).unwrap();
    let whole = stream(&[(Regular, "a", &"x".repeat(2000))]);
    for bytes in [&b""[..], &[0xff; 600], &whole[..700]] {
        assert!(unpack(&mut &bytes[..], &folder, "a".as_ref(), "b".as_ref()).is_err());
    }
}
