//! The virtio entropy device (virtio 1.2, 5.4): the host kernel's random bytes for the guest.
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! # let memory = virtio::testing::memory();
//! let (transport, worker) = virtio::connect(nofear_virtio_rng::Rng::new(), memory)?;
//! std::thread::spawn(move || worker.run());
//! // `transport` answers the guest's accesses to the device's registers, until it is dropped.
//! # drop(transport);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod device;

pub use device::{MAX_REQUEST, Rng};
