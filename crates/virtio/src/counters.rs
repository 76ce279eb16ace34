//! What a device has done, counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a device has done since it was made. Plain numbers, so that they can lie in memory that processes share; each is
/// right by itself, and they may be a request apart.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Counters {
    requests: AtomicU64,
    from_guest: AtomicU64,
    to_guest: AtomicU64,
    errors: AtomicU64,
}

/// [`Counters`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Descriptor chains that were handed back: requests, or packets each way.
    pub requests: u64,
    /// Bytes in them that the driver had put there, headers too.
    pub from_guest: u64,
    /// Bytes in them that the device has written, headers too.
    pub to_guest: u64,
    /// Requests that failed or were refused, and times that the device needed a reset.
    pub errors: u64,
}

impl Counters {
    /// So many requests were handed back, with so many bytes each way.
    pub(crate) fn add(&self, requests: u64, from_guest: u64, to_guest: u64) {
        self.requests.fetch_add(requests, Relaxed);
        self.from_guest.fetch_add(from_guest, Relaxed);
        self.to_guest.fetch_add(to_guest, Relaxed);
    }

    /// So many requests have failed, or were refused.
    pub(crate) fn add_errors(&self, count: u64) {
        self.errors.fetch_add(count, Relaxed);
    }

    /// What they are now.
    pub fn read(&self) -> Counts {
        let [requests, from_guest, to_guest, errors] =
            [&self.requests, &self.from_guest, &self.to_guest, &self.errors]
                .map(|number| number.load(Relaxed));
        Counts { requests, from_guest, to_guest, errors }
    }
}
