//! Tlock and Tgetlock.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::Server;
use crate::budget::Permit;
use crate::fid::{FidState, Handle};
use crate::host::lock::Range;
use crate::tree::Node;
use crate::wire::{Fid, LockKind, LockStatus, Response};

impl Server {
    /// Tlock. Where nothing can be written, nobody waits for a client to be done: what it locks there is
    /// between its own processes.
    pub(super) fn lock(
        &self,
        fid: Fid,
        kind: LockKind,
        (start, length): (u64, u64),
        (process, client): (u32, &[u8]),
    ) -> Result<Response<'static>, Errno> {
        let state = self.fids.get(fid)?;
        if !self.is_lockable(&state.node) {
            return Ok(Response::Lock(LockStatus::Success));
        }
        let Some(Handle::File(_)) = state.handle() else { return Err(Errno::BADF) };
        let owner = self.locks.owner(process, client, number(&state));
        let range = Range::new(start, length)?;
        let identity = state.node.identity();
        let status = self.locks.set(identity, owner, kind, range, || self.lock_file(&state.node))?;
        // A Tclunk at the same time must not be the first to let go.
        if self.fids.get(fid).map_or(true, |now| !Arc::ptr_eq(&now, &state)) {
            self.unlock(&state);
        }
        Ok(Response::Lock(status))
    }

    /// Tgetlock.
    pub(super) fn get_lock<'a>(
        &self,
        fid: Fid,
        kind: LockKind,
        (start, length): (u64, u64),
        (proc_id, client_id): (u32, &'a [u8]),
    ) -> Result<Response<'a>, Errno> {
        let state = self.fids.get(fid)?;
        let found = if self.is_lockable(&state.node) {
            let range = Range::new(start, length)?;
            let identity = state.node.identity();
            self.locks.conflict(identity, kind, range, || self.lock_file(&state.node))?
        } else {
            None
        };
        Ok(match found {
            None => Response::Getlock { kind: LockKind::UNLOCK, start, length, proc_id, client_id },
            Some((kind, range, proc_id)) => {
                let (start, length) = (range.start, range.length());
                // The client's own name would say that the holder is one of its processes.
                Response::Getlock { kind, start, length, proc_id, client_id: b"host" }
            }
        })
    }

    /// A fid is no more, and with it the locks that were taken through it.
    pub(super) fn unlock(&self, state: &Arc<FidState>) {
        if let Some(Handle::File(_)) = state.handle() {
            self.locks.release(state.node.identity(), number(state));
        }
    }

    fn is_lockable(&self, node: &Node) -> bool {
        self.tree.access(node).writable && node.identity().file_type == FileType::RegularFile
    }

    /// A descriptor for the locks of all fids of a file.
    fn lock_file(&self, node: &Arc<Node>) -> Result<(OwnedFd, Permit), Errno> {
        let permit = self.open_files.take().ok_or(Errno::NOLCK)?;
        // To lock for writing it must be writable; a file that isn't can still be locked for reading.
        let (file, _) = match self.tree.open_host(node, OFlags::RDWR) {
            Err(Errno::ACCESS) => self.tree.open_host(node, OFlags::RDONLY),
            opened => opened,
        }?;
        Ok((file, permit))
    }
}

/// A number that no other fid has while this one exists.
fn number(state: &Arc<FidState>) -> usize {
    Arc::as_ptr(state).addr()
}
