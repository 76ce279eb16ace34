//! The entropy device: one queue of buffers to fill.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};
use virtio::{Activation, Chain, Device, DeviceKind, EventOps, Queue, QueueError};

/// The most bytes that one request gets, whatever its buffer's size: 64 KiB. The driver sees a short
/// answer and asks again, as it must be ready to (virtio 1.2, 5.4.6.2).
pub const MAX_REQUEST: usize = 64 << 10;

/// The host kernel gives up to this many bytes at once without being interrupted.
const PIECE: usize = 256;

/// An entropy device. Its bytes come from `getrandom(2)`, which the guest can't exhaust.
#[derive(Debug, Default)]
pub struct Rng {
    requests: Option<Queue>,
}

impl Rng {
    /// A device that is ready to be connected.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Device for Rng {
    fn kind(&self) -> DeviceKind {
        DeviceKind(4)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![64]
    }

    fn activate(&mut self, live: Activation, _: &mut EventOps) -> io::Result<()> {
        self.requests = live.queues.into_iter().next();
        Ok(())
    }

    fn queue_ready(&mut self, _: usize, _: &mut EventOps) -> Result<(), QueueError> {
        self.requests.as_mut().map_or(Ok(()), |queue| queue.drain(|chain| fill(chain)))
    }

    fn reset(&mut self, _: &mut EventOps) {
        self.requests = None;
    }
}

/// Fills a request's buffers and returns how many bytes it got.
fn fill(chain: &Chain) -> u32 {
    let wanted = chain.writable().min(MAX_REQUEST);
    let mut done = 0;
    while done < wanted {
        let mut piece = [0; PIECE];
        let piece = &mut piece[..PIECE.min(wanted - done)];
        match getrandom(&mut *piece, GetRandomFlags::empty()) {
            Ok(got) if got > 0 && chain.write_at(done, &piece[..got]) => done += got,
            Err(rustix::io::Errno::INTR) => {}
            // A host without getrandom, which no supported one is: the guest gets what there is.
            _ => break,
        }
    }
    done as u32
}

#[cfg(test)]
mod tests;
