//! The fid table: what the client's numbers stand for.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::io::Errno;

use crate::budget::Permit;
use crate::directory::Directory;
use crate::quota::Opened;
use crate::tree::Node;
use crate::wire::Fid;
use crate::xattr::Xattr;

/// What a fid stands for. Shared, so that a request under way outlives a clunk.
pub(crate) struct FidState {
    pub node: Arc<Node>,
    /// Few fids are open: one that is not stays small.
    open: OnceLock<Box<Open>>,
}

/// An opened file or directory, and its share of the limit on them.
pub(crate) struct Open {
    pub handle: Handle,
    pub _permit: Permit,
}

pub(crate) enum Handle {
    File(OpenFile),
    Directory(Directory),
    /// The fid was made an extended attribute.
    Xattr(Xattr),
}

/// An open regular file.
pub(crate) struct OpenFile {
    pub file: OwnedFd,
    pub writable: bool,
    /// The first write must take set-uid off.
    pub set_id: AtomicBool,
    /// Where sizes are counted.
    pub counted: Option<Opened>,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let Some(counted) = &self.counted {
            counted.close(&self.file);
        }
    }
}

impl FidState {
    pub fn new(node: Arc<Node>) -> Self {
        Self { node, open: OnceLock::new() }
    }

    /// A fid that is open from its start.
    pub fn opened(node: Arc<Node>, open: Open) -> Self {
        Self { node, open: OnceLock::from(Box::new(open)) }
    }

    pub fn handle(&self) -> Option<&Handle> {
        self.open.get().map(|open| &open.handle)
    }

    /// Opens the fid, once: a second time is `EBADF`, also when two requests race.
    pub fn open(&self, open: Open) -> Result<(), Errno> {
        self.open.set(Box::new(open)).map_err(|_| Errno::BADF)
    }
}

/// All fids of a session, up to a limit.
pub(crate) struct FidTable {
    limit: usize,
    fids: Mutex<HashMap<Fid, Arc<FidState>>>,
}

/// Tables smaller than this are not worth shrinking.
const SMALL: usize = 1024;

impl FidTable {
    pub fn new(limit: usize) -> Self {
        Self { limit, fids: Mutex::default() }
    }

    /// What `fid` stands for, or `EBADF`.
    pub fn get(&self, fid: Fid) -> Result<Arc<FidState>, Errno> {
        self.lock().get(&fid).cloned().ok_or(Errno::BADF)
    }

    /// Adds a fid: `EINVAL` for one in use and for `P9_NOFID`, `ENFILE` when there are too many.
    pub fn insert(&self, fid: Fid, state: FidState) -> Result<Arc<FidState>, Errno> {
        let mut fids = self.lock();
        if fid == Fid::NONE || fids.contains_key(&fid) {
            return Err(Errno::INVAL);
        }
        if fids.len() >= self.limit {
            return Err(Errno::NFILE);
        }
        let state = Arc::new(state);
        fids.insert(fid, Arc::clone(&state));
        Ok(state)
    }

    /// Forgets a fid that still stands for `state`.
    pub fn forget(&self, fid: Fid, state: &Arc<FidState>) {
        let mut fids = self.lock();
        if fids.get(&fid).is_some_and(|current| Arc::ptr_eq(current, state)) {
            fids.remove(&fid);
        }
    }

    /// Makes a fid stand for something else, if it still stands for `old`: `EBADF` otherwise.
    pub fn replace(&self, fid: Fid, old: &Arc<FidState>, state: FidState) -> Result<(), Errno> {
        let mut fids = self.lock();
        match fids.get_mut(&fid) {
            Some(current) if Arc::ptr_eq(current, old) => *current = Arc::new(state),
            _ => return Err(Errno::BADF),
        }
        Ok(())
    }

    /// Forgets a fid and returns what it stood for, or `EBADF`.
    pub fn remove(&self, fid: Fid) -> Result<Arc<FidState>, Errno> {
        let mut fids = self.lock();
        let removed = fids.remove(&fid).ok_or(Errno::BADF)?;
        // A guest that has walked a large tree and dropped its caches leaves no large table behind.
        if fids.capacity() > SMALL && fids.len() < fids.capacity() / 8 {
            let keep = fids.len() * 2;
            fids.shrink_to(keep);
        }
        // The caller closes files, which is no reason to hold the lock.
        Ok(removed)
    }

    /// Forgets every fid.
    pub fn clear(&self) {
        let fids = std::mem::take(&mut *self.lock());
        drop(fids);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Fid, Arc<FidState>>> {
        self.fids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
