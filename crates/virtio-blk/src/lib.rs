//! The virtio block device (virtio 1.2, 5.2): a disk whose content is a raw image, a file or a block device.
//!
//! File data moves straight between the image and the guest's pages. What the page cache can answer at once
//! is answered by the device's own thread; what may wait for the host's disk goes to io_uring, or to a few
//! threads where the host has no io_uring, so that one slow request does not hold up the others. A flush is
//! `fdatasync(2)`; a discard gives the space back to the host. An error of the host is an I/O error of the
//! guest; from the first one of a write on, nothing is discarded until a reset, since a file system may discard what
//! it could not record as free.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let memory = virtio::testing::memory();
//! # let file = tempfile::tempfile()?;
//! # file.set_len(1 << 20)?;
//! use nofear_virtio_blk::{Blk, Image};
//!
//! let image = Image::from_file(file, false)?;
//! let mut device = Blk::new(image, "profile", 1)?;
//! device.start_threads(|| true)?;
//! let (transport, worker) = virtio::connect(device, memory)?;
//! std::thread::spawn(move || worker.run());
//! // `transport` answers the guest's accesses to the device's registers, until it is dropped.
//! # drop(transport);
//! # Ok(())
//! # }
//! ```

mod device;
mod engine;
mod image;
mod request;
mod task;

pub use device::{Blk, ID_SIZE, IdError, MAX_QUEUES};
pub use image::{Image, ImageError};
