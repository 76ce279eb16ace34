//! Keeps the `O_PATH` descriptors of the nodes used last, and closes the others.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::tree::Node;

/// A node's descriptor, while it is open.
#[derive(Default)]
pub(crate) struct Cached {
    descriptor: Mutex<Option<Arc<OwnedFd>>>,
    used: AtomicBool,
}

impl Cached {
    /// The descriptor if it is open; marks it as used.
    pub fn get(&self) -> Option<Arc<OwnedFd>> {
        self.used.store(true, Ordering::Relaxed);
        lock(&self.descriptor).clone()
    }
}

/// Bounds the number of cached descriptors, by the clock algorithm: the oldest is closed unless it was used
/// since the hand passed it.
pub(crate) struct DescriptorCache {
    limit: usize,
    clock: Mutex<VecDeque<Weak<Node>>>,
}

impl DescriptorCache {
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), clock: Mutex::default() }
    }

    /// Caches the descriptor of a node of the host.
    pub fn keep(&self, node: &Arc<Node>, descriptor: Arc<OwnedFd>) {
        let Some(entry) = node.host_entry() else { return };
        *lock(&entry.cached.descriptor) = Some(descriptor);
        let mut clock = lock(&self.clock);
        while clock.len() >= self.limit {
            let Some(oldest) = clock.pop_front() else { break };
            // A node that is gone has closed its descriptor itself.
            let Some(oldest) = oldest.upgrade() else { continue };
            let Some(entry) = oldest.host_entry() else { continue };
            if entry.cached.used.swap(false, Ordering::Relaxed) {
                clock.push_back(Arc::downgrade(&oldest));
            } else {
                *lock(&entry.cached.descriptor) = None;
            }
        }
        clock.push_back(Arc::downgrade(node));
    }
}

/// A panic elsewhere leaves these plain values whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
