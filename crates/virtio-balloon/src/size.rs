//! How large the balloon is to be, and what has become of it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use virtio::EventFd;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK};

use crate::pages::PAGE;

/// Asks for another size of a balloon, from any thread, and tells what it holds.
#[derive(Clone, Debug)]
pub struct Size(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// In pages.
    asked: AtomicU32,
    /// Tells the device that it has changed.
    changed: EventFd,
    /// In bytes.
    held: AtomicU64,
    reported: AtomicU64,
}

/// Bytes of guest memory, by what became of them. They come from what the guest says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// What the balloon is to hold.
    pub asked: u64,
    /// What it holds: the guest can't use it, and the host has it.
    pub held: u64,
    /// What the guest has reported as free since its driver started, each time counted: the host had it until the
    /// guest used it again.
    pub reported: u64,
}

impl Size {
    pub(crate) fn new() -> io::Result<Self> {
        let changed = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let (asked, held, reported) = Default::default();
        Ok(Self(Arc::new(Shared { asked, changed, held, reported })))
    }

    /// The balloon is to hold so many bytes of guest memory, in whole pages of 4 KiB. The guest may take its time, or
    /// refuse.
    pub fn ask(&self, bytes: u64) {
        self.0.asked.store(u32::try_from(bytes / PAGE as u64).unwrap_or(u32::MAX), Ordering::Release);
        // Fails only when the counter is full, and then the device wakes anyway.
        let _ = self.0.changed.write(1);
    }

    /// What it holds now.
    pub fn counts(&self) -> Counts {
        let shared = &*self.0;
        Counts {
            asked: u64::from(shared.asked.load(Ordering::Acquire)) * PAGE as u64,
            held: shared.held.load(Ordering::Relaxed),
            reported: shared.reported.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn changed(&self) -> &EventFd {
        &self.0.changed
    }

    /// In pages.
    pub(crate) fn asked(&self) -> u32 {
        self.0.asked.load(Ordering::Acquire)
    }

    /// A driver starts: it has named nothing yet.
    pub(crate) fn forget(&self) {
        self.0.held.store(0, Ordering::Relaxed);
        self.0.reported.store(0, Ordering::Relaxed);
    }

    pub(crate) fn took(&self, bytes: usize) {
        self.0.held.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn gave(&self, bytes: usize) {
        let less = |held: u64| Some(held.saturating_sub(bytes as u64));
        let _ = self.0.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    pub(crate) fn heard(&self, bytes: usize) {
        self.0.reported.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
