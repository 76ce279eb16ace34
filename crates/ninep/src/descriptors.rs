//! Keeps the `O_PATH` descriptors of the nodes used last, and closes the others.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::budget::{Budget, Permit};
use crate::tree::Node;

/// A node's descriptor, while it is open.
#[derive(Default)]
pub(crate) struct Cached {
    descriptor: Mutex<Descriptor>,
    used: AtomicBool,
}

#[derive(Default)]
enum Descriptor {
    #[default]
    Closed,
    Open(Arc<OwnedFd>),
    /// The file has lost its name, so that it could not be opened again.
    Kept {
        descriptor: Arc<OwnedFd>,
        _permit: Permit,
    },
}

impl Cached {
    /// The descriptor if it is open; marks it as used.
    pub fn get(&self) -> Option<Arc<OwnedFd>> {
        self.used.store(true, Ordering::Relaxed);
        match &*lock(&self.descriptor) {
            Descriptor::Closed => None,
            Descriptor::Open(descriptor) | Descriptor::Kept { descriptor, .. } => {
                Some(Arc::clone(descriptor))
            }
        }
    }
}

/// Bounds the number of cached descriptors, by the clock algorithm: the oldest is closed unless it was used
/// since the hand passed it.
pub(crate) struct DescriptorCache {
    limit: usize,
    clock: Mutex<VecDeque<Weak<Node>>>,
    /// For those that are kept as long as their node. Half as many again as the clock has.
    kept: Budget,
}

impl DescriptorCache {
    pub fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        Self { limit, clock: Mutex::default(), kept: Budget::new(limit.div_ceil(2)) }
    }

    /// Caches the descriptor of a node of the host.
    pub fn keep(&self, node: &Arc<Node>, descriptor: Arc<OwnedFd>) {
        let Some(cached) = node.cached() else { return };
        {
            let mut slot = lock(&cached.descriptor);
            match &*slot {
                // It has its place in the clock, or needs none.
                Descriptor::Open(_) | Descriptor::Kept { .. } => return,
                Descriptor::Closed => *slot = Descriptor::Open(descriptor),
            }
        }
        let mut clock = lock(&self.clock);
        while clock.len() >= self.limit {
            let Some(oldest) = clock.pop_front() else { break };
            // A node that is gone has closed its descriptor itself.
            let Some(oldest) = oldest.upgrade() else { continue };
            let Some(cached) = oldest.cached() else { continue };
            let mut slot = lock(&cached.descriptor);
            if matches!(*slot, Descriptor::Kept { .. }) {
                continue;
            }
            if cached.used.swap(false, Ordering::Relaxed) {
                drop(slot);
                clock.push_back(Arc::downgrade(&oldest));
            } else {
                *slot = Descriptor::Closed;
            }
        }
        clock.push_back(Arc::downgrade(node));
    }

    /// Keeps the descriptor of a node that has lost its name until the node goes, as far as there is room for
    /// such.
    pub fn keep_for_good(&self, node: &Node, descriptor: Arc<OwnedFd>) {
        if let Some(cached) = node.cached()
            && let Some(permit) = self.kept.take()
        {
            *lock(&cached.descriptor) = Descriptor::Kept { descriptor, _permit: permit };
        }
    }
}

/// A panic elsewhere leaves these plain values whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
