//! The record locks of a client, and what the host's other programs see of them.
//!
//! The client's kernel arbitrates among its own processes before it asks here, so this server only has to hold
//! against the host what any of them holds: the union, on one descriptor for each file. The host then drops
//! nothing when one of several descriptors is closed, and one process's lock is not in another's way.
//!
//! Nothing here waits: a lock that another program of the host has is `P9_LOCK_BLOCKED`, and the client asks
//! again.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::budget::Permit;
use crate::host::lock::{self, Range};
use crate::identity::{Identity, Origin};
use crate::wire::{LockKind, LockStatus};

#[cfg(test)]
mod tests;

/// Locks on one file; each costs the ones after it a comparison or two.
const MAX_HELD: usize = 256;

/// Whose a lock is: a process of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    process: u32,
    /// A hash of the client's name for itself.
    client: u64,
    /// The fid it was taken through, with which it goes: any number that is the fid's own.
    fid: usize,
}

impl Owner {
    fn is_same_process(self, other: Self) -> bool {
        (self.process, self.client) == (other.process, other.client)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    owner: Owner,
    write: bool,
    range: Range,
}

/// A file on which there are locks.
struct Locked {
    file: OwnedFd,
    held: Vec<Held>,
    _permit: Permit,
}

/// Names a file.
type Key = (Origin, u64);

fn key(file: Identity) -> Key {
    (file.origin, file.inode)
}

/// All locks of a session.
#[derive(Default)]
pub(crate) struct Locks {
    files: Mutex<HashMap<Key, Locked>>,
    key: RandomState,
}

impl Locks {
    pub fn owner(&self, process: u32, client: &[u8], fid: usize) -> Owner {
        Owner { process, client: self.key.hash_one(client), fid }
    }

    /// Takes a lock, or drops it. `open` gives the file and a place for one more.
    pub fn set(
        &self,
        file: Identity,
        owner: Owner,
        kind: LockKind,
        range: Range,
        open: impl FnOnce() -> Result<(OwnedFd, Permit), Errno>,
    ) -> Result<LockStatus, Errno> {
        let (mut files, at) = (self.lock(), key(file));
        let known = files.contains_key(&at);
        let write = match kind {
            LockKind::UNLOCK if !known => return Ok(LockStatus::Success),
            LockKind::UNLOCK => None,
            LockKind::READ => Some(false),
            LockKind::WRITE => Some(true),
            _ => return Err(Errno::INVAL),
        };
        if !known {
            let (file, permit) = open()?;
            files.insert(at, Locked { file, held: Vec::new(), _permit: permit });
        }
        let Some(locked) = files.get_mut(&at) else { return Err(Errno::NOLCK) };
        let status = locked.change(owner, write, range);
        if locked.held.is_empty() {
            files.remove(&at);
        }
        status
    }

    /// A lock of another program of the host that would be in the way.
    pub fn conflict(
        &self,
        file: Identity,
        kind: LockKind,
        range: Range,
        open: impl FnOnce() -> Result<(OwnedFd, Permit), Errno>,
    ) -> Result<Option<(LockKind, Range, u32)>, Errno> {
        match self.lock().get(&key(file)) {
            Some(locked) => lock::conflict(&locked.file, kind, range),
            None => lock::conflict(&open()?.0, kind, range),
        }
    }

    /// Drops what was locked through a fid that is no more.
    pub fn release(&self, file: Identity, fid: usize) {
        let (mut files, at) = (self.lock(), key(file));
        let Some(locked) = files.get_mut(&at) else { return };
        let (gone, kept): (Vec<_>, Vec<_>) =
            locked.held.iter().copied().partition(|held| held.owner.fid == fid);
        locked.held = kept;
        for held in gone {
            // Less is always granted; for what isn't, the end of the file's locks is soon enough.
            let _ = locked.apply(held.range);
        }
        if locked.held.is_empty() {
            files.remove(&at);
        }
    }

    /// Drops all.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Locked>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Locked {
    /// Makes `range` the owner's for writing, for reading or not at all, here and on the host.
    fn change(&mut self, owner: Owner, write: Option<bool>, range: Range) -> Result<LockStatus, Errno> {
        let mut held = without(&self.held, owner, range);
        held.extend(write.map(|write| Held { owner, write, range }));
        // Dropping the middle of a lock makes two of one: that is let through.
        if write.is_some() && held.len() > MAX_HELD {
            return Err(Errno::NOLCK);
        }
        let before = std::mem::replace(&mut self.held, held);
        match self.apply(range) {
            Ok(true) => Ok(LockStatus::Success),
            failed => {
                self.held = before;
                // It held all of this a moment ago, or less.
                let _ = self.apply(range);
                failed.map(|_| LockStatus::Blocked)
            }
        }
    }

    /// Has the host hold within `range` the strongest of what is held.
    fn apply(&self, range: Range) -> Result<bool, Errno> {
        for part in parts(&self.held, range) {
            let covers = |held: &&Held| held.range.start <= part.start && part.end <= held.range.end;
            let strongest = self.held.iter().filter(covers).map(|held| held.write).max();
            let kind = match strongest {
                None => LockKind::UNLOCK,
                Some(false) => LockKind::READ,
                Some(true) => LockKind::WRITE,
            };
            if !lock::set(&self.file, kind, part)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What is held when a process no longer holds `range`.
fn without(held: &[Held], owner: Owner, range: Range) -> Vec<Held> {
    let mut left = Vec::with_capacity(held.len() + 2);
    for &one in held {
        if !one.owner.is_same_process(owner) || one.range.end < range.start || range.end < one.range.start {
            left.push(one);
            continue;
        }
        if one.range.start < range.start {
            left.push(Held { range: Range { end: range.start - 1, ..one.range }, ..one });
        }
        if range.end < one.range.end {
            left.push(Held { range: Range { start: range.end + 1, ..one.range }, ..one });
        }
    }
    left
}

/// Cuts a range where any lock begins or ends.
fn parts(held: &[Held], range: Range) -> Vec<Range> {
    let mut starts = BTreeSet::from([range.start]);
    for one in held {
        starts.insert(one.range.start);
        starts.extend(one.range.end.checked_add(1));
    }
    let starts: Vec<u64> = starts.range(range.start..=range.end).copied().collect();
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([range.end]);
    starts.iter().zip(ends).map(|(&start, end)| Range { start, end }).collect()
}
