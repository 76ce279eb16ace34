//! Devices that answer each request on the spot.

use std::io;

use crate::{Activation, Chain, Device, DeviceKind, EventOps, Queue, QueueError};

/// A device that does nothing but answer requests, each on the spot. [`Answering`] makes a [`Device`] of it.
pub trait Requests: Send {
    /// The device type.
    fn kind(&self) -> DeviceKind;

    /// The feature bits of this device type.
    fn features(&self) -> u64 {
        0
    }

    /// The device-specific configuration space.
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    /// How many queues it has.
    fn queues(&self) -> usize {
        1
    }

    /// Answers a request of this queue, and returns how many bytes it wrote. Every byte of it is the guest's choice.
    fn answer(&mut self, queue: usize, request: &Chain) -> u32;
}

/// The queues of a device that answers [`Requests`], of 128 entries each.
#[derive(Debug)]
pub struct Answering<R> {
    requests: R,
    queues: Vec<Queue>,
}

impl<R: Requests> Answering<R> {
    /// Such a device.
    pub fn new(requests: R) -> Self {
        Self { requests, queues: Vec::new() }
    }
}

impl<R: Requests> Device for Answering<R> {
    fn kind(&self) -> DeviceKind {
        self.requests.kind()
    }

    fn features(&self) -> u64 {
        self.requests.features()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![128; self.requests.queues()]
    }

    fn config(&self) -> Vec<u8> {
        self.requests.config()
    }

    fn activate(&mut self, live: Activation, _: &mut EventOps) -> io::Result<()> {
        self.queues = live.queues;
        Ok(())
    }

    fn queue_ready(&mut self, number: usize, _: &mut EventOps) -> Result<(), QueueError> {
        let Self { requests, queues } = self;
        let Some(queue) = queues.get_mut(number) else { return Ok(()) };
        queue.drain(|chain| requests.answer(number, chain))
    }

    fn reset(&mut self, _: &mut EventOps) {
        self.queues.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Buffer, Driver};

    /// Says which request of which queue it is.
    struct Count(u8);

    impl Requests for Count {
        fn kind(&self) -> DeviceKind {
            DeviceKind(42)
        }
        fn config(&self) -> Vec<u8> {
            vec![7]
        }
        fn queues(&self) -> usize {
            2
        }
        fn answer(&mut self, queue: usize, request: &Chain) -> u32 {
            self.0 += 1;
            if request.write_at(0, &[queue as u8, self.0]) { 2 } else { 0 }
        }
    }

    #[test]
    fn requests_are_answered_by_their_queue_and_counted() {
        let mut driver = Driver::start(Answering::new(Count(0)));
        driver.initialise(&[16, 16]);
        for (queue, number) in [(1, 1), (0, 2), (1, 3)] {
            let used = driver.request(queue, &[Buffer::Readable(b"abc"), Buffer::Writable(4)]);
            assert_eq!((used.length, &used.written[..2]), (2, &[queue as u8, number][..]));
        }
        let counts = driver.transport.counters().read();
        assert_eq!(counts, crate::Counts { requests: 3, from_guest: 9, to_guest: 6, errors: 0 });
        // No room for the answer; then a malformed ring, which is an error.
        assert_eq!(driver.request(0, &[Buffer::Writable(1)]).length, 0);
        driver.initialise(&[16, 16]);
        driver.write_descriptor(0, 0, u64::MAX, 16, 0, 0);
        driver.publish(0, 0);
        driver.wait_needs_reset();
        assert_eq!(driver.transport.counters().read().errors, 1);
    }
}
