//! Twalk; Twalkattr, which also says what is there; and Twalkopen, which opens it.

use std::sync::Arc;

use rustix::io::Errno;

use super::Server;
use crate::fid::FidState;
use crate::wire::{Attributes, Fid, MAX_WALK, Qid, Walk};

/// What became of a walk.
pub(super) struct Walked {
    pub qids: [Qid; MAX_WALK],
    /// How many of them count: one for each name that was walked.
    pub count: usize,
    /// Of what it leads to; none unless it got there.
    pub attributes: Option<Attributes>,
}

impl Server {
    /// As far as it goes. An error at the first name is an error; later, the reply has the qids so far and the new
    /// fid is not made.
    pub(super) fn walk(&self, fid: Fid, new_fid: Fid, names: &Walk<'_>) -> Result<Walked, Errno> {
        let state = self.fids.get(fid)?;
        // A fid that is open must not become another file; one that is not open may.
        if fid == new_fid && state.handle().is_some() {
            return Err(Errno::INVAL);
        }
        let mut node = Arc::clone(&state.node);
        let mut qids = [Qid::default(); MAX_WALK];
        let mut attributes = None;
        for (count, (step, slot)) in names.steps().iter().zip(&mut qids).enumerate() {
            match self.tree.step(&node, *step) {
                Ok((next, found)) => {
                    (node, *slot) = (next, found.qid);
                    attributes = Some(found);
                }
                Err(errno) if count == 0 => return Err(errno),
                Err(_) => return Ok(Walked { qids, count, attributes: None }),
            }
        }
        let walked = FidState::new(node);
        if fid == new_fid {
            self.fids.replace(fid, &state, walked)?;
        } else {
            self.fids.insert(new_fid, walked)?;
        }
        Ok(Walked { qids, count: names.steps().len(), attributes })
    }

    /// A walk of no name, and an open of the new fid, which is not made if that fails.
    pub(super) fn walk_open(&self, fid: Fid, new_fid: Fid, flags: u32) -> Result<Qid, Errno> {
        let node = Arc::clone(&self.fids.get(fid)?.node);
        // Before it is opened, which may empty it: a number that is in use is refused.
        let state = self.fids.insert(new_fid, FidState::new(node))?;
        self.open(&state, flags).inspect_err(|_| {
            self.fids.forget(new_fid, &state);
            // Another request may have opened and locked it meanwhile.
            self.unlock(&state);
        })
    }
}
