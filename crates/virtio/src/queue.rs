//! A queue of a running device: the one loop that takes chains out and puts them back.

use std::sync::{
    Arc,
    atomic::{Ordering, fence},
};

use virtio_queue::{Queue as Ring, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::{Chain, ChainError, Memory, chain::Segment, mmio::Interrupt};

/// Why a queue stopped: the driver broke a rule of the ring.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A descriptor chain is malformed.
    #[error("malformed descriptor chain")]
    Chain(#[from] ChainError),
    /// The ring itself is: its indices, or where it lies.
    #[error("malformed ring: {0}")]
    Ring(virtio_queue::Error),
    /// The buffers are not of the device type's form.
    #[error("malformed request: {0}")]
    Request(&'static str),
}

/// How many chains' storage is kept: at most 16 KiB each.
const SPARES: usize = 16;

// Sizes of the rings' parts in bytes (virtio 1.2, 2.7.6 and 2.7.8).
const AVAIL_HEADER: u64 = 4;
const AVAIL_ELEMENT: u64 = 2;
const USED_HEADER: u64 = 4;
const USED_ELEMENT: u64 = 8;

/// A queue that the driver has set up; the device owns it from activation to reset.
#[derive(Debug)]
pub struct Queue {
    ring: Ring,
    memory: Memory,
    interrupt: Interrupt,
    /// What the driver's notifications signal.
    kick: Arc<EventFd>,
    /// Storage of chains that went back, so that a request allocates nothing.
    spare: Vec<Vec<Segment>>,
    /// The used index when the driver was last told, or found not to care.
    announced: u16,
}

impl Queue {
    pub(crate) fn new(ring: Ring, memory: Memory, interrupt: Interrupt, kick: Arc<EventFd>) -> Self {
        let announced = ring.next_used();
        Self { ring, memory, interrupt, kick, spare: Vec::new(), announced }
    }

    /// Serves the chains that the driver has put in: `serve` returns how many bytes it wrote. Interrupts the
    /// driver once, if it wants to be.
    ///
    /// After as many chains as the ring has entries it returns with the queue notified anew, so that a
    /// driver that never pauses does not keep the device from a reset, or from the end of the VM.
    ///
    /// # Errors
    ///
    /// A malformed ring or chain; chains before it were served.
    pub fn drain(&mut self, mut serve: impl FnMut(&mut Chain) -> u32) -> Result<(), QueueError> {
        for _ in 0..self.ring.size() {
            let Some(mut chain) = self.pop()? else { return self.announce() };
            let written = serve(&mut chain);
            self.push(chain, written)?;
        }
        self.come_back();
        self.announce()
    }

    /// How many entries the ring has: a device that takes more chains than that in one go calls
    /// [`come_back`](Self::come_back) instead.
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// Notifies the queue anew, in the driver's place: the worker looks after everything else, then comes
    /// back to it.
    pub fn come_back(&self) {
        // Fails only when the counter is full, and then the worker comes back anyway.
        let _ = self.kick.write(1);
    }

    /// Takes the next chain. When there is none, the driver will notify of the next one.
    ///
    /// # Errors
    ///
    /// A malformed ring or chain.
    pub fn pop(&mut self) -> Result<Option<Chain>, QueueError> {
        loop {
            let head = self.ring.iter(&*self.memory).map_err(QueueError::Ring)?.next();
            if let Some(head) = head {
                let spare = self.spare.pop().unwrap_or_default();
                let table = GuestAddress(self.ring.desc_table());
                let chain = Chain::walk(&self.memory, table, self.ring.size(), head.head_index(), spare)?;
                return Ok(Some(chain));
            }
            // Says that we sleep, and looks once more: a chain may have come in between.
            if !self.ring.enable_notification(&*self.memory).map_err(QueueError::Ring)? {
                return Ok(None);
            }
        }
    }

    /// Puts the last chain taken back, as if it had not been taken.
    pub fn undo_pop(&mut self, chain: Chain) {
        self.ring.go_to_previous_position();
        self.keep(chain);
    }

    fn keep(&mut self, chain: Chain) {
        if self.spare.len() < SPARES {
            self.spare.push(chain.into_spare());
        }
    }

    /// Hands a chain back with the number of bytes written to it. [`announce`](Self::announce) tells the
    /// driver.
    ///
    /// # Errors
    ///
    /// A ring that is not in memory.
    pub fn push(&mut self, chain: Chain, written: u32) -> Result<(), QueueError> {
        self.ring.add_used(&*self.memory, chain.head(), written).map_err(QueueError::Ring)?;
        self.keep(chain);
        Ok(())
    }

    /// Hands chains back so that the driver sees all of them at once, in this order, or none: a driver that
    /// found the first buffers of a packet would miss the others (virtio 1.2, 5.1.6.4.1). Each comes with the
    /// number of bytes written to it.
    ///
    /// # Errors
    ///
    /// A ring that is not in memory.
    pub fn push_together(
        &mut self,
        chains: impl IntoIterator<Item = (Chain, u32)>,
    ) -> Result<(), QueueError> {
        let mut chains = chains.into_iter();
        let Some((mut chain, mut written)) = chains.next() else { return Ok(()) };
        // All but the last are written beyond the index that the driver sees; the last one moves it.
        for (next, next_written) in chains {
            let slot = u64::from(self.ring.next_used() % self.ring.size());
            let at = self.ring.used_ring().checked_add(USED_HEADER + slot * USED_ELEMENT);
            let at = at.ok_or(QueueError::Ring(virtio_queue::Error::AddressOverflow))?;
            let element = [u32::from(chain.head()).to_le(), written.to_le()];
            let bad = |e| QueueError::Ring(virtio_queue::Error::GuestMemory(e));
            self.memory.write_obj(element, GuestAddress(at)).map_err(bad)?;
            self.ring.set_next_used(self.ring.next_used().wrapping_add(1));
            self.keep(chain);
            (chain, written) = (next, next_written);
        }
        self.push(chain, written)
    }

    /// Interrupts the driver if chains were handed back since the last time and it wants to know.
    ///
    /// # Errors
    ///
    /// A ring that is not in memory.
    pub fn announce(&mut self) -> Result<(), QueueError> {
        let used = self.ring.next_used();
        let before = std::mem::replace(&mut self.announced, used);
        if used != before && self.driver_waits(before, used)? {
            self.interrupt.used();
        }
        Ok(())
    }

    /// Whether the driver asked to be told of one of the chains from `before` up to `used` (virtio 1.2,
    /// 2.7.10). The ring's own answer does not know of chains that were handed back together.
    fn driver_waits(&self, before: u16, used: u16) -> Result<bool, QueueError> {
        if !self.ring.event_idx_enabled() {
            return Ok(true);
        }
        // The driver writes its index, then looks at ours; we wrote ours, and look at its.
        fence(Ordering::SeqCst);
        let at =
            self.ring.avail_ring().checked_add(AVAIL_HEADER + u64::from(self.ring.size()) * AVAIL_ELEMENT);
        let at = at.ok_or(QueueError::Ring(virtio_queue::Error::AddressOverflow))?;
        let event: u16 = self
            .memory
            .load(GuestAddress(at), Ordering::Relaxed)
            .map_err(|e| QueueError::Ring(virtio_queue::Error::GuestMemory(e)))?;
        let event = u16::from_le(event);
        Ok(used.wrapping_sub(event).wrapping_sub(1) < used.wrapping_sub(before))
    }
}

#[cfg(test)]
mod tests;
