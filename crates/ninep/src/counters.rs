//! Counts what a server does.

use std::sync::atomic::{AtomicU64, Ordering};

/// Message types are even, so half of the numbers are enough.
const TYPES: usize = 128;

/// Running totals of a server, from any thread.
#[derive(Debug)]
pub struct Counters {
    requests: [AtomicU64; TYPES],
    errors: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; TYPES],
            errors: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
        }
    }

    pub(crate) fn request(&self, kind: u8) {
        self.requests[usize::from(kind / 2)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn written(&self, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Requests of one type ([`wire::kind`](crate::wire::kind)); malformed ones count under the type they
    /// claim.
    #[must_use]
    pub fn requests(&self, kind: u8) -> u64 {
        self.requests[usize::from(kind / 2)].load(Ordering::Relaxed)
    }

    /// Requests answered with Rlerror.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Bytes of files delivered by Rread.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Bytes that Twrite put into files.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }
}
