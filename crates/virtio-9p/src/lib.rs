//! virtio device 9: carries 9P messages between a guest and a [`ninep::Server`].
//!
//! One queue; a request is the readable part of a chain, its reply goes to the writable part. File data is
//! read straight into the guest's pages, and written straight from them. The device type is reserved by the specification (virtio 1.2, 5);
//! its configuration space and its one feature are those of Linux's `virtio_9p.h`.
//!
//! ```
//! use ninep::{ExportBuilder, Limits, Server};
//! use nofear_virtio_9p::NineP;
//!
//! let export = ExportBuilder::new().directory("/", "/usr/share")?.open()?;
//! let device = NineP::new("share", Server::new(export, Limits::default()))?;
//! let (transport, worker) = virtio::connect(device, virtio_memory())?;
//! # fn virtio_memory() -> virtio::Memory { virtio::testing::memory() }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

use std::{io, os::fd::BorrowedFd};

use ninep::{
    Data, Reply, Server,
    wire::{WRITE_HEADER, kind},
};
use virtio::{Activation, Chain, Device, DeviceKind, EventOps, Queue, QueueError};

#[cfg(feature = "record")]
mod record;

/// As many requests in flight as the Linux client sends.
const QUEUE_SIZE: u16 = 128;

/// VIRTIO_9P_MOUNT_TAG: the configuration space holds a tag.
const FEATURE_MOUNT_TAG: u64 = 1;

/// The longest mount tag, in bytes.
pub const MAX_TAG: usize = 36;

/// Where a message says what it is: after `size[4]`.
const KIND: usize = 4;

/// A mount tag that is empty or too long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mount tag {0:?}: not 1 to {MAX_TAG} bytes")]
pub struct TagError(String);

/// The device.
pub struct NineP {
    tag: String,
    server: Server,
    queue: Option<Queue>,
    /// The request in hand, whole: its place is kept from one to the next.
    request: Vec<u8>,
    #[cfg(feature = "record")]
    recording: Option<record::Recording>,
}

impl NineP {
    /// A device that a guest mounts by `tag`.
    ///
    /// # Errors
    ///
    /// The tag is empty or longer than [`MAX_TAG`] bytes.
    pub fn new(tag: &str, server: Server) -> Result<Self, TagError> {
        if tag.is_empty() || tag.len() > MAX_TAG {
            return Err(TagError(tag.into()));
        }
        Ok(Self {
            tag: tag.into(),
            server,
            queue: None,
            request: Vec::new(),
            #[cfg(feature = "record")]
            recording: record::Recording::of(tag),
        })
    }
}

impl Device for NineP {
    fn kind(&self) -> DeviceKind {
        DeviceKind(9)
    }

    fn features(&self) -> u64 {
        FEATURE_MOUNT_TAG
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn config(&self) -> Vec<u8> {
        let mut config = (self.tag.len() as u16).to_le_bytes().to_vec();
        config.extend(self.tag.as_bytes());
        config
    }

    fn activate(&mut self, mut live: Activation, _: &mut EventOps) -> io::Result<()> {
        self.queue = live.queues.pop();
        Ok(())
    }

    fn queue_ready(&mut self, _: usize, _: &mut EventOps) -> Result<(), QueueError> {
        let Self { server, queue: Some(queue), request, .. } = self else { return Ok(()) };
        queue.drain(|chain| {
            #[cfg(feature = "record")]
            self.recording.iter_mut().for_each(|recording| recording.add(chain));
            // At most what the chain holds, which is below 4 GiB.
            serve(server, chain, request) as u32
        })
    }

    fn reset(&mut self, _: &mut EventOps) {
        self.queue = None;
        self.request = Vec::new();
        self.server.reset();
    }
}

/// Serves the request in a chain and returns the length of its reply. `request` is a place for it.
fn serve(server: &Server, chain: &Chain, request: &mut Vec<u8>) -> usize {
    let mut head = [0; WRITE_HEADER];
    if chain.readable() >= WRITE_HEADER && chain.read_at(0, &mut head) && head[KIND] == kind::TWRITE {
        // The driver can change its memory meanwhile: from here on the copy counts.
        return server.serve_write(&head, &Written(chain), &mut Answer(chain));
    }
    // A longer one is refused whatever it holds, so no more of it is needed than says so.
    let length = chain.readable().min(server.limits().msize as usize + 1);
    request.resize(length, 0);
    if !chain.read_at(0, request) {
        return 0;
    }
    server.serve(request, &mut Answer(chain))
}

/// The writable part of a chain, as the server sees it.
struct Answer<'a>(&'a Chain);

impl Reply for Answer<'_> {
    fn capacity(&self) -> usize {
        self.0.writable()
    }

    fn write_at(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        if self.0.write_at(offset, bytes) { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn read_file_at(
        &mut self,
        offset: usize,
        count: usize,
        file: BorrowedFd,
        file_offset: u64,
    ) -> io::Result<usize> {
        self.0.read_from_file(offset, count, file, file_offset)
    }
}

/// The readable part of a chain that holds a Twrite, after its head.
struct Written<'a>(&'a Chain);

impl Data for Written<'_> {
    fn count(&self) -> usize {
        self.0.readable() - WRITE_HEADER
    }

    fn write_file_at(&self, file: BorrowedFd, position: u64) -> io::Result<usize> {
        self.0.write_to_file(WRITE_HEADER, self.count(), file, position)
    }

    fn copy_to(&self, to: &mut [u8]) -> io::Result<()> {
        if self.0.read_at(WRITE_HEADER, to) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

#[cfg(test)]
mod tests;
