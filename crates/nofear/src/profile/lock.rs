//! The lock of a profile: whoever works on it holds it, for as long as it lives, however it dies.
//!
//! It is flock(2) on a file that names the holder. The file stays when the holder is gone; the lock does not.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::text::printable;

/// The lock's file in a profile's folder.
const FILE: &str = "lock";

/// A lock that is held.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The number of its process.
    pub pid: u32,
    /// What it is, for people: `VM 01234567`, or the command that it does.
    pub what: String,
}

/// What came of an attempt to lock.
#[derive(Debug)]
pub enum Attempt {
    /// It is ours now.
    Locked(Lock),
    /// Somebody else's. The holder may not have written its name yet.
    Held(Option<Holder>),
    /// There is no such folder any more.
    Gone,
}

/// Tries to lock a folder, for `what`. Does not wait.
pub fn lock(folder: &Path, what: &str) -> anyhow::Result<Attempt> {
    let path = folder.join(FILE);
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = match opened {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Attempt::Gone),
        opened => opened.with_context(|| format!("open {}", path.display()))?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(Attempt::Held(holder(&mut file))),
        Err(e) => return Err(e).with_context(|| format!("lock {}", path.display())),
    }
    // Between the two, the folder may have been renamed or removed, and this be no lock on what has its name.
    let ours = file.metadata().with_context(|| format!("look at {}", path.display()))?;
    match path.metadata() {
        Ok(now) if (now.dev(), now.ino()) == (ours.dev(), ours.ino()) => {}
        _ => return Ok(Attempt::Gone),
    }
    let name = format!("{} {what}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.write_all(name.as_bytes()))
        .with_context(|| format!("write {}", path.display()))?;
    Ok(Attempt::Locked(Lock { _file: file }))
}

/// Who holds the lock of a folder now, if anybody does.
pub fn held_by(folder: &Path) -> Option<Holder> {
    let mut file = File::open(folder.join(FILE)).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => {
            Some(holder(&mut file).unwrap_or(Holder { pid: 0, what: "another process".into() }))
        }
        _ => None,
    }
}

fn holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(200).read_to_string(&mut text).ok()?;
    let (pid, what) = text.trim_end().split_once(' ')?;
    Some(Holder { pid: pid.parse().ok()?, what: printable(what, 100) })
}

/// Locks a folder, or says who has it and what to do. `None`: it is gone.
pub fn lock_or_refuse(folder: &Path, name: &str, what: &str) -> anyhow::Result<Option<Lock>> {
    match lock(folder, what)? {
        Attempt::Locked(lock) => Ok(Some(lock)),
        Attempt::Gone => Ok(None),
        Attempt::Held(holder) => {
            let by = match holder {
                Some(Holder { pid, what }) => format!("{what} (process {pid})"),
                None => "another process".into(),
            };
            bail!(
                "the profile {name} is in use by {by}: wait for its end, name another profile with \
                 --profile, or keep nothing with --temporary"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_learns_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock_or_refuse(folder.path(), "web", "VM 01234567").unwrap().unwrap();
        let pid = std::process::id();
        assert_eq!(held_by(folder.path()), Some(Holder { pid, what: "VM 01234567".into() }));
        let refusal = lock_or_refuse(folder.path(), "web", "VM 76543210").unwrap_err().to_string();
        for part in ["web", "VM 01234567", &pid.to_string(), "--temporary"] {
            assert!(refusal.contains(part), "{refusal}");
        }
        drop(first);
        assert_eq!(held_by(folder.path()), None);
        assert!(lock_or_refuse(folder.path(), "web", "VM 76543210").unwrap().is_some());
    }

    #[test]
    fn what_a_killed_holder_left_is_no_lock() {
        let folder = tempfile::tempdir().unwrap();
        // This process's own number: it lives, and holds nothing.
        std::fs::write(folder.path().join(FILE), format!("{} VM 01234567\n", std::process::id())).unwrap();
        assert_eq!(held_by(folder.path()), None);
        assert!(lock_or_refuse(folder.path(), "web", "x").unwrap().is_some());
    }

    #[test]
    fn a_lock_dies_with_its_process() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("flock");
        let child = child.arg("--no-fork").arg(folder.path().join(FILE)).args(["sleep", "1000"]);
        let mut child = child.spawn().unwrap();
        while held_by(folder.path()).is_none() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(held_by(folder.path()), None);
    }

    #[test]
    fn a_folder_that_is_gone_can_not_be_locked() {
        let folder = tempfile::tempdir().unwrap();
        assert!(lock_or_refuse(&folder.path().join("x"), "x", "x").unwrap().is_none());
    }
}
