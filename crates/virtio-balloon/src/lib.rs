//! The traditional memory balloon (virtio 1.2, 5.5), with free page reporting: guest memory that the guest does not
//! use goes back to the host, by itself and on request.
//!
//! The device asks for nothing unless [`Size::ask`] does. Then the guest's driver takes pages from its own kernel and
//! names them, and gives them back to it when it runs out of memory (VIRTIO_BALLOON_F_DEFLATE_ON_OOM). Whatever it
//! names, only memory of that guest is discarded: a hostile one loses what it had in it.
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! # let memory = virtio::testing::memory();
//! let balloon = nofear_virtio_balloon::Balloon::new()?;
//! let size = balloon.size();
//! let (transport, worker) = virtio::connect(balloon, memory)?;
//! std::thread::spawn(move || worker.run());
//! size.ask(64 << 20);
//! # drop(transport);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod device;
mod pages;
mod size;

pub use device::Balloon;
pub use size::{Counts, Size};
