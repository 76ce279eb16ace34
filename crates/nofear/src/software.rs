//! Notices that the machine's software changed while a VM sees it.
//!
//! The VM goes on: its files are the host's new ones, and a program that it started before may meet a mix of both.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// Folders in which every package manager changes something. Below them nothing is watched: a watch for each folder
/// of `/usr` would cost more than the VM's start.
const WATCHED: [&str; 8] = [
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/share",
    "/usr/share/doc",
    "/etc/ld.so.conf.d",
];

/// A descriptor that becomes readable when the software changes.
#[derive(Debug)]
pub struct SoftwareWatch(OwnedFd);

impl SoftwareWatch {
    /// Watches this machine's software; `None` when the user has no more watches, which is no reason not to run.
    pub fn start() -> Option<Self> {
        Self::of(Path::new("/"))
    }

    fn of(root: &Path) -> Option<Self> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        let changes = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        let mut watches = 0;
        for folder in WATCHED {
            let path = root.join(folder.trim_start_matches('/'));
            watches += u32::from(inotify::add_watch(&watch, &path, changes).is_ok());
        }
        (watches > 0).then_some(Self(watch))
    }

    /// Whether something has changed. Tells each change once.
    pub fn has_changed(&self) -> bool {
        let mut changed = false;
        let mut events = [0_u8; 4096];
        while rustix::io::read(&self.0, &mut events).is_ok_and(|bytes| bytes > 0) {
            changed = true;
        }
        changed
    }
}

impl AsFd for SoftwareWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_upgrade_is_noticed_once_and_reading_is_no_change() {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("usr/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("program"), "old").unwrap();
        let watch = SoftwareWatch::of(root.path()).unwrap();
        fs::read(bin.join("program")).unwrap();
        assert!(!watch.has_changed());
        // As package managers do it.
        fs::write(bin.join("program.new"), "new").unwrap();
        fs::rename(bin.join("program.new"), bin.join("program")).unwrap();
        assert!(watch.has_changed());
        assert!(!watch.has_changed());
    }

    #[test]
    fn a_machine_without_such_folders_is_not_watched() {
        assert!(SoftwareWatch::of(tempfile::tempdir().unwrap().path()).is_none());
    }
}
