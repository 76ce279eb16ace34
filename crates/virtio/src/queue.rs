//! A queue of a running device: the one loop that takes chains out and puts them back.

use std::sync::Arc;

use virtio_queue::Queue as Setup;
use vmm_sys_util::eventfd::EventFd;

use crate::{
    Chain, ChainError, Memory,
    chain::Segment,
    counters::Counters,
    mmio::Interrupt,
    ring::{Malformed, Ring},
};

/// Why a queue stopped: the driver broke a rule of the ring.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A descriptor chain is malformed.
    #[error("malformed descriptor chain")]
    Chain(#[from] ChainError),
    /// The ring itself is: the driver's index has gone further than the ring is long.
    #[error("malformed ring: its index has jumped")]
    Ring,
    /// What does the device's work, elsewhere, has ended. Who made the device knows of it.
    #[error("{0} has ended")]
    Ended(&'static str),
    /// The buffers are not of the device type's form.
    #[error("malformed request: {0}")]
    Request(&'static str),
}

/// How many chains' storage is kept: at most 16 KiB each.
const SPARES: usize = 16;

/// A queue that the driver has set up; the device owns it from activation to reset.
#[derive(Debug)]
pub struct Queue {
    ring: Ring,
    interrupt: Interrupt,
    /// What the driver's notifications signal.
    kick: Arc<EventFd>,
    /// Storage of chains that went back, so that a request allocates nothing.
    spare: Vec<Vec<Segment>>,
    /// The used index when the driver was last told, or found not to care.
    announced: u16,
    counters: Arc<Counters>,
}

impl Queue {
    /// None: the ring is not all in guest memory, or not aligned.
    pub(crate) fn new(
        setup: &Setup,
        memory: &Memory,
        interrupt: Interrupt,
        kick: Arc<EventFd>,
        counters: Arc<Counters>,
    ) -> Option<Self> {
        let ring = Ring::new(setup, memory)?;
        let announced = ring.next_used();
        Some(Self { ring, interrupt, kick, spare: Vec::new(), announced, counters })
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
            let Some(mut chain) = self.pop()? else {
                return self.announce();
            };
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
            if let Some(head) = self.ring.take()? {
                let spare = self.spare.pop().unwrap_or_default();
                let table = self.ring.table();
                let chain = Chain::walk(self.ring.memory(), table, self.ring.size(), head, spare)?;
                return Ok(Some(chain));
            }
            // Says that we sleep, and looks once more: a chain may have come in between.
            if !self.ring.sleep()? {
                return Ok(None);
            }
        }
    }

    /// Puts the last chain taken back, as if it had not been taken.
    pub fn undo_pop(&mut self, chain: Chain) {
        self.ring.take_back();
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
    /// A malformed ring.
    pub fn push(&mut self, chain: Chain, written: u32) -> Result<(), QueueError> {
        self.ring.put(chain.head(), written)?;
        self.ring.show()?;
        self.counters.add(1, chain.readable() as u64, written.into());
        self.keep(chain);
        Ok(())
    }

    /// Hands chains back so that the driver sees all of them at once, in this order, or none: a driver that
    /// found the first buffers of a packet would miss the others (virtio 1.2, 5.1.6.4.1). Each comes with the
    /// number of bytes written to it.
    ///
    /// # Errors
    ///
    /// A malformed ring.
    pub fn push_together(
        &mut self,
        chains: impl IntoIterator<Item = (Chain, u32)>,
    ) -> Result<(), QueueError> {
        let mut all = 0;
        for (chain, written) in chains {
            self.ring.put(chain.head(), written)?;
            self.keep(chain);
            all += u64::from(written);
        }
        // What the driver sees as one.
        self.counters.add(1, 0, all);
        Ok(self.ring.show()?)
    }

    /// Counts so many requests as failed, or refused.
    pub fn count_errors(&self, count: u64) {
        self.counters.add_errors(count);
    }

    /// Interrupts the driver if chains were handed back since the last time and it wants to know.
    ///
    /// # Errors
    ///
    /// A malformed ring.
    pub fn announce(&mut self) -> Result<(), QueueError> {
        let used = self.ring.next_used();
        let before = std::mem::replace(&mut self.announced, used);
        if used != before && self.driver_waits(before, used)? {
            self.interrupt.used();
        }
        Ok(())
    }

    /// Whether the driver asked to be told of one of the chains from `before` up to `used` (virtio 1.2,
    /// 2.7.10).
    fn driver_waits(&self, before: u16, used: u16) -> Result<bool, QueueError> {
        let Some(event) = self.ring.event()? else { return Ok(true) };
        Ok(used.wrapping_sub(event).wrapping_sub(1) < used.wrapping_sub(before))
    }
}

impl From<Malformed> for QueueError {
    fn from(Malformed: Malformed) -> Self {
        Self::Ring
    }
}

#[cfg(test)]
mod tests;
