//! virtio devices for a VMM: the virtio-mmio transport, the [`Device`] trait, and one queue loop.
//!
//! A device states what it is, and on activation *takes* its queues. It runs on a thread of its own
//! ([`Worker`]); the [`Transport`] stays with the vCPUs and owns feature negotiation, status,
//! configuration reads, queue addresses and reset. Neither knows KVM: notifications are event
//! descriptors both ways.
//!
//! Everything that the guest writes is checked: a malformed ring sets DEVICE_NEEDS_RESET and stops that
//! device alone (virtio 1.2, 2.1.2).
//!
//! ```
//! use std::{io, sync::Arc};
//! use nofear_virtio::{self as virtio, Activation, Device, DeviceKind, EventOps, Queue, QueueError};
//! use vm_memory::{GuestAddress, GuestMemoryMmap};
//!
//! /// A device that hands every buffer back, untouched.
//! struct Null(Vec<Queue>);
//!
//! impl Device for Null {
//!     fn kind(&self) -> DeviceKind {
//!         DeviceKind(42)
//!     }
//!     fn queue_sizes(&self) -> Vec<u16> {
//!         vec![64]
//!     }
//!     fn activate(&mut self, live: Activation, _: &mut EventOps) -> io::Result<()> {
//!         self.0 = live.queues;
//!         Ok(())
//!     }
//!     fn queue_ready(&mut self, queue: usize, _: &mut EventOps) -> Result<(), QueueError> {
//!         self.0[queue].drain(|_chain| 0)
//!     }
//!     fn reset(&mut self, _: &mut EventOps) {
//!         self.0.clear();
//!     }
//! }
//!
//! let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap());
//! let (mut transport, worker) = virtio::connect(Null(Vec::new()), memory).unwrap();
//! std::thread::spawn(move || worker.run());
//! let mut magic = [0; 4];
//! transport.read(0, &mut magic);
//! assert_eq!(&magic, b"virt");
//! ```

mod chain;
mod counters;
mod device;
mod discard;
mod mmio;
mod pool;
mod queue;
mod requests;
mod ring;
mod slots;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod worker;

use std::sync::Arc;

pub use event_manager::{EventOps, EventSet, Events};
use vm_memory::GuestMemoryMmap;
pub use vmm_sys_util::eventfd::EventFd;

pub use chain::{Chain, ChainError};
pub use counters::{Counters, Counts};
pub use device::{Activation, Device, DeviceKind};
pub use discard::discard;
pub use mmio::{ACKNOWLEDGE, ConfigSpace, MMIO_SIZE, NOTIFY_OFFSET, Signal, Transport, Window, Windows};
pub use pool::Pool;
pub use queue::{Queue, QueueError};
pub use requests::{Answering, Requests};
pub use slots::Slots;
pub use worker::{Stopped, Worker, connect};

/// The guest's memory.
pub type Memory = Arc<GuestMemoryMmap<()>>;
