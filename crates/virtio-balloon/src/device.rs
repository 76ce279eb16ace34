//! The device: queues and configuration.

use std::io;

use virtio::{
    Activation, Chain, ConfigSpace, Device, DeviceKind, EventOps, EventSet, Events, Memory, Queue,
    QueueError, discard,
};
use vm_memory::GuestAddress;

use crate::{Size, pages};

/// VIRTIO_BALLOON_F_DEFLATE_ON_OOM: the guest takes pages back by itself rather than to end a process.
const DEFLATE_ON_OOM: u64 = 1 << 2;
/// VIRTIO_BALLOON_F_REPORTING: the guest tells of pages that are free.
const REPORTING: u64 = 1 << 5;

const QUEUE_SIZE: u16 = 128;

/// Pages that the guest gives away, by number.
const INFLATE: usize = 0;
/// Pages that it has taken back.
const DEFLATE: usize = 1;
/// Free pages, as buffers (5.5.6.7). There is neither a queue for statistics nor one for hints.
const REPORT: usize = 2;

/// How many pages are wanted (num_pages), then how many the driver says it gave (actual), which we count ourselves.
const CONFIG_SIZE: usize = 8;

/// A memory balloon; see the [crate's documentation](crate).
#[derive(Debug)]
pub struct Balloon {
    size: Size,
    live: Option<Live>,
}

/// What belongs to the driver's session.
#[derive(Debug)]
struct Live {
    queues: Vec<Queue>,
    memory: Memory,
    config: ConfigSpace,
}

impl Balloon {
    /// A balloon that holds nothing.
    ///
    /// # Errors
    ///
    /// No more event descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self { size: Size::new()?, live: None })
    }

    /// What asks for another size.
    pub fn size(&self) -> Size {
        self.size.clone()
    }

    /// Tells the driver how many pages are wanted.
    fn tell(&self) {
        if let Some(live) = &self.live {
            live.config.set(0, &self.size.asked().to_le_bytes());
        }
    }
}

/// What can't be discarded is no memory of the guest's, or the host's kernel does not want it: nothing is lost.
fn give_back(memory: &Memory, address: GuestAddress, length: usize) -> usize {
    discard(memory, address, length).unwrap_or_else(|e| {
        log::debug!("balloon: {length} bytes at {:#x}: {e}", address.0);
        0
    })
}

fn serve(queue: usize, chain: &Chain, memory: &Memory, size: &Size) {
    match queue {
        INFLATE => pages::ranges(chain, |address, length| size.took(give_back(memory, address, length))),
        DEFLATE => pages::ranges(chain, |_, length| size.gave(length)),
        _ => {
            for (address, length) in chain.writable_ranges() {
                size.heard(give_back(memory, address, length));
            }
        }
    }
}

impl Device for Balloon {
    fn kind(&self) -> DeviceKind {
        DeviceKind(5)
    }

    fn features(&self) -> u64 {
        DEFLATE_ON_OOM | REPORTING
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; REPORT + 1]
    }

    /// A driver that does not report sets the others up.
    fn needed_queues(&self) -> usize {
        DEFLATE + 1
    }

    fn config(&self) -> Vec<u8> {
        vec![0; CONFIG_SIZE]
    }

    fn activate(&mut self, live: Activation, events: &mut EventOps) -> io::Result<()> {
        let Activation { queues, memory, config, .. } = live;
        let wake = Events::new(self.size.changed(), EventSet::IN);
        events.add(wake).map_err(io::Error::other)?;
        self.size.forget();
        self.live = Some(Live { queues, memory, config });
        if self.size.asked() > 0 {
            self.tell();
        }
        Ok(())
    }

    fn queue_ready(&mut self, queue: usize, _events: &mut EventOps) -> Result<(), QueueError> {
        let Some(Live { queues, memory, .. }) = &mut self.live else { return Ok(()) };
        let Some(ring) = queues.get_mut(queue) else { return Ok(()) };
        ring.drain(|chain| {
            serve(queue, chain, memory, &self.size);
            0
        })
    }

    fn event(&mut self, _event: Events, _events: &mut EventOps) -> Result<(), QueueError> {
        let _ = self.size.changed().read();
        self.tell();
        Ok(())
    }

    fn reset(&mut self, events: &mut EventOps) {
        if self.live.take().is_some() {
            let _ = events.remove(Events::empty(self.size.changed()));
            self.size.forget();
        }
    }
}

#[cfg(test)]
mod tests;
