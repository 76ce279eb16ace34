//! A cap on how many of something exist at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many may still be taken.
pub(crate) struct Budget(Arc<AtomicUsize>);

/// One of a budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Budget {
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(limit)))
    }

    /// Takes one, or nothing when none is left.
    pub fn take(&self) -> Option<Permit> {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .ok()
            .map(|_| Permit(Arc::clone(&self.0)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
