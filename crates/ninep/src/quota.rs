//! Caps on what a client adds to a grant: names and bytes.
//!
//! Counted is what this client has done since its server was made: names it made less names it removed, and
//! bytes by which it made files longer less those it cut off or removed, neither below zero. A file that is
//! removed counts until nobody has it open, so that nothing can be hidden in files without a name. Bytes are
//! those of sizes: a hole counts. Each change is made and counted under one lock, so that no two requests that are
//! under way together give back the same bytes.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::export::Caps;
use crate::host::{self, Metadata};

/// The account of one grant.
pub(crate) struct Quota {
    caps: Caps,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    bytes: u64,
    files: u64,
    /// How often each file is open, by device and inode number.
    open: HashMap<(u64, u64), usize>,
}

/// An open file, as long as it is.
pub(crate) struct Opened {
    quota: Arc<Quota>,
    file: (u64, u64),
}

impl Quota {
    /// An account, where there is a cap.
    pub fn new(caps: Caps) -> Option<Arc<Self>> {
        (caps != Caps::NONE).then(|| Arc::new(Self { caps, used: Mutex::default() }))
    }

    /// Makes one name more; `EDQUOT` when there are enough.
    pub fn add_name<T>(&self, make: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let mut used = self.lock();
        if self.caps.files.is_some_and(|most| used.files >= most) {
            return Err(Errno::DQUOT);
        }
        let made = make()?;
        used.files += 1;
        Ok(made)
    }

    /// Makes a change by which what `look` finds may lose a name; `is_gone` says of it whether it has.
    pub fn remove_name<T>(
        &self,
        look: impl FnOnce() -> Option<Metadata>,
        change: impl FnOnce() -> Result<T, Errno>,
        is_gone: impl FnOnce(&Metadata) -> bool,
    ) -> Result<T, Errno> {
        let mut used = self.lock();
        let was = look();
        let changed = change()?;
        if let Some(was) = was.filter(is_gone) {
            used.files = used.files.saturating_sub(1);
            if was.attributes.nlink == 1 && !used.open.contains_key(&key(&was)) {
                used.bytes = used.bytes.saturating_sub(size(&was));
            }
        }
        Ok(changed)
    }

    /// Changes the content of `file`, which may make it as long as `end` at most; `EDQUOT` when that is too
    /// long.
    pub fn change<T>(
        &self,
        file: &OwnedFd,
        end: impl FnOnce(u64) -> u64,
        change: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut used = self.lock();
        let was = host::metadata(file)?;
        let before = was.attributes.size;
        let grown = end(before).saturating_sub(before);
        if grown > 0 && self.caps.bytes.is_some_and(|most| used.bytes.saturating_add(grown) > most) {
            return Err(Errno::DQUOT);
        }
        let result = change();
        let after = host::metadata(file)?.attributes.size;
        if !used.is_given_back(&was) {
            used.bytes = used.bytes.saturating_add(after.saturating_sub(before));
            used.bytes = used.bytes.saturating_sub(before.saturating_sub(after));
        }
        result
    }

    /// Opens a file; `look` says what it was before, if that empties it.
    pub fn open(
        self: &Arc<Self>,
        look: impl FnOnce() -> Result<Option<Metadata>, Errno>,
        open: impl FnOnce() -> Result<(OwnedFd, Metadata), Errno>,
    ) -> Result<(OwnedFd, Metadata, Opened), Errno> {
        let mut used = self.lock();
        let before = look()?;
        let (file, now) = open()?;
        let opened = self.count_open(&mut used, before.as_ref().unwrap_or(&now), &now);
        Ok((file, now, opened))
    }

    /// A file has been opened, and may have lost its name since.
    pub fn opened(self: &Arc<Self>, file: &OwnedFd) -> Result<Opened, Errno> {
        let mut used = self.lock();
        let now = host::metadata(file)?;
        Ok(self.count_open(&mut used, &now, &now))
    }

    fn count_open(self: &Arc<Self>, used: &mut Used, was: &Metadata, now: &Metadata) -> Opened {
        if used.is_given_back(was) {
            // They count again, until it is closed.
            used.bytes = used.bytes.saturating_add(size(was));
        }
        used.bytes = used.bytes.saturating_sub(size(was).saturating_sub(size(now)));
        *used.open.entry(key(now)).or_default() += 1;
        Opened { quota: Arc::clone(self), file: key(now) }
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Used {
    /// Whether a file's bytes went with its last name.
    fn is_given_back(&self, file: &Metadata) -> bool {
        file.attributes.nlink == 0 && !self.open.contains_key(&key(file))
    }
}

impl Opened {
    /// The file is closed after this.
    pub fn close(&self, file: &OwnedFd) {
        let mut used = self.quota.lock();
        let Some(count) = used.open.get_mut(&self.file) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        used.open.remove(&self.file);
        if let Ok(metadata) = host::metadata(file)
            && metadata.attributes.nlink == 0
        {
            used.bytes = used.bytes.saturating_sub(size(&metadata));
        }
    }

    pub fn quota(&self) -> &Quota {
        &self.quota
    }
}

fn key(metadata: &Metadata) -> (u64, u64) {
    (metadata.device, metadata.inode)
}

fn size(metadata: &Metadata) -> u64 {
    if metadata.file_type == rustix::fs::FileType::RegularFile { metadata.attributes.size } else { 0 }
}
