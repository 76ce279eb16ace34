//! What a device is: the trait that each one implements, and what it gets when it starts.

use std::io;

use event_manager::{EventOps, Events};

use crate::{ConfigSpace, Memory, Queue, QueueError};

/// A device type's number (virtio 1.2, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceKind(pub u32);

/// A virtio device. Every method runs on the device's own thread, except those that [`crate::connect`]
/// calls once, before that thread exists: [`kind`](Self::kind), [`features`](Self::features),
/// [`queue_sizes`](Self::queue_sizes), [`needed_queues`](Self::needed_queues) and [`config`](Self::config).
pub trait Device: Send {
    /// The device type.
    fn kind(&self) -> DeviceKind;

    /// The feature bits of this device type, without those of the transport and the ring.
    fn features(&self) -> u64 {
        0
    }

    /// The size of each queue: how many there are and the most entries each can have, powers of two up
    /// to 32,768.
    fn queue_sizes(&self) -> Vec<u16>;

    /// How many of the queues, from the first, a driver must set up; default: all. Of the others it sets up as
    /// many as it wants, the first ones first.
    fn needed_queues(&self) -> usize {
        self.queue_sizes().len()
    }

    /// The device-specific configuration space, as the driver reads it at first. [`Activation::config`] changes it.
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    /// The driver is ready (DRIVER_OK): takes the queues. The device adds the descriptors it waits for
    /// to `events` with data below `1 << 16`; [`event`](Self::event) then gets them.
    ///
    /// # Errors
    ///
    /// The device then needs a reset, and the guest is told so.
    fn activate(&mut self, live: Activation, events: &mut EventOps) -> io::Result<()>;

    /// The driver may have put buffers into this queue. Called after activation too.
    ///
    /// # Errors
    ///
    /// A malformed ring: the device is reset and stays so until the driver starts it anew.
    fn queue_ready(&mut self, queue: usize, events: &mut EventOps) -> Result<(), QueueError>;

    /// A descriptor of the device's own is ready.
    ///
    /// # Errors
    ///
    /// As for [`queue_ready`](Self::queue_ready).
    fn event(&mut self, _event: Events, _events: &mut EventOps) -> Result<(), QueueError> {
        Ok(())
    }

    /// Drops the queues and what belongs to the driver's session, and removes the device's descriptors
    /// from `events`. On return nothing touches guest memory any more. Also called when never activated.
    fn reset(&mut self, events: &mut EventOps);
}

impl<D: Device + ?Sized> Device for Box<D> {
    fn kind(&self) -> DeviceKind {
        (**self).kind()
    }
    fn features(&self) -> u64 {
        (**self).features()
    }
    fn queue_sizes(&self) -> Vec<u16> {
        (**self).queue_sizes()
    }
    fn needed_queues(&self) -> usize {
        (**self).needed_queues()
    }
    fn config(&self) -> Vec<u8> {
        (**self).config()
    }
    fn activate(&mut self, live: Activation, events: &mut EventOps) -> io::Result<()> {
        (**self).activate(live, events)
    }
    fn queue_ready(&mut self, queue: usize, events: &mut EventOps) -> Result<(), QueueError> {
        (**self).queue_ready(queue, events)
    }
    fn event(&mut self, event: Events, events: &mut EventOps) -> Result<(), QueueError> {
        (**self).event(event, events)
    }
    fn reset(&mut self, events: &mut EventOps) {
        (**self).reset(events);
    }
}

/// What a device takes when its driver is ready.
#[derive(Debug)]
pub struct Activation {
    /// The negotiated features.
    pub features: u64,
    /// One for each of [`Device::queue_sizes`] that the driver has set up.
    pub queues: Vec<Queue>,
    /// The guest's memory.
    pub memory: Memory,
    /// What the driver reads of the device.
    pub config: ConfigSpace,
}
