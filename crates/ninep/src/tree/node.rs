//! A file or directory that a fid names, or one above it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::FileType;

use crate::budget::Permit;
use crate::descriptors::Cached;
use crate::export::GrantId;
use crate::identity::Identity;
use crate::wire::{Name, OwnedName};

/// A place in the client's namespace, one for each name that fids lead through.
pub(crate) struct Node {
    place: Place,
    identity: Identity,
    /// None only for the root, and while the node is dropped.
    link: Mutex<Option<Link>>,
    /// The nodes below that fids name or lead through.
    children: Mutex<BTreeMap<OwnedName, Weak<Node>>>,
    _permit: Permit,
}

enum Place {
    Grant(GrantId),
    Host(HostEntry),
}

struct HostEntry {
    cached: Cached,
    /// The client has removed the name: what has it now is another file.
    nameless: AtomicBool,
}

/// How a node is reached from the one above. A rename changes it.
#[derive(Clone)]
pub(crate) struct Link {
    pub parent: Arc<Node>,
    pub name: OwnedName,
}

impl Node {
    pub fn root(id: GrantId, identity: Identity, permit: Permit) -> Arc<Self> {
        Self::new(Place::Grant(id), identity, None, permit)
    }

    /// The node of a grant below `parent`.
    pub fn grant(
        id: GrantId,
        identity: Identity,
        parent: &Arc<Self>,
        name: Name<'_>,
        permit: Permit,
    ) -> Arc<Self> {
        Self::linked(Place::Grant(id), identity, parent, name, permit)
    }

    /// The node of a file of the host below `parent`.
    pub fn host(identity: Identity, parent: &Arc<Self>, name: Name<'_>, permit: Permit) -> Arc<Self> {
        let entry = HostEntry { cached: Cached::default(), nameless: AtomicBool::new(false) };
        Self::linked(Place::Host(entry), identity, parent, name, permit)
    }

    fn linked(
        place: Place,
        identity: Identity,
        parent: &Arc<Self>,
        name: Name<'_>,
        permit: Permit,
    ) -> Arc<Self> {
        let name = OwnedName::from(name);
        let link = Link { parent: Arc::clone(parent), name: name.clone() };
        let node = Self::new(place, identity, Some(link), permit);
        lock(&parent.children).insert(name, Arc::downgrade(&node));
        node
    }

    fn new(place: Place, identity: Identity, link: Option<Link>, permit: Permit) -> Arc<Self> {
        Arc::new(Self {
            place,
            identity,
            link: Mutex::new(link),
            children: Mutex::default(),
            _permit: permit,
        })
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    pub fn is_directory(&self) -> bool {
        self.identity.file_type == FileType::Directory
    }

    pub fn grant_id(&self) -> Option<GrantId> {
        match self.place {
            Place::Grant(id) => Some(id),
            Place::Host(_) => None,
        }
    }

    /// The descriptor of a file of the host; a grant keeps its own.
    pub fn cached(&self) -> Option<&Cached> {
        match &self.place {
            Place::Grant(_) => None,
            Place::Host(entry) => Some(&entry.cached),
        }
    }

    /// The node that `..` leads to; the root's is the root.
    pub fn parent(self: &Arc<Self>) -> Arc<Self> {
        self.link().map_or_else(|| Arc::clone(self), |link| link.parent)
    }

    /// The name and the directory that it is in; none for the root.
    pub fn link(&self) -> Option<Link> {
        lock(&self.link).clone()
    }

    /// As [`Self::link`], of a file of the host that has a name still, as far as the client knows.
    pub fn host_link(&self) -> Option<Link> {
        match &self.place {
            Place::Host(entry) if !entry.nameless.load(Ordering::Acquire) => self.link(),
            _ => None,
        }
    }

    /// How many directories are above.
    pub fn depth(self: &Arc<Self>) -> usize {
        let mut depth = 0;
        let mut link = self.link();
        while let Some(above) = link {
            depth += 1;
            link = above.parent.link();
        }
        depth
    }

    /// What is known to be below by this name.
    pub fn child(&self, name: &[u8]) -> Option<Arc<Self>> {
        lock(&self.children).get(name).and_then(Weak::upgrade)
    }

    /// The client has removed the name of this node.
    pub fn unlink(&self) {
        let Place::Host(entry) = &self.place else { return };
        entry.nameless.store(true, Ordering::Release);
        if let Some(link) = self.link() {
            link.parent.forget(&link.name, |known| std::ptr::eq(known.as_ptr(), self));
        }
    }

    /// The client has renamed this node. The caller lets one rename at a time through.
    ///
    /// When another way of the client's to the same files, or the host, has moved directories meanwhile, the
    /// new place may be below this node: then it only loses its name.
    pub fn relink(self: &Arc<Self>, parent: &Arc<Self>, name: Name<'_>) {
        let mut above = Some(Arc::clone(parent));
        while let Some(node) = above {
            if Arc::ptr_eq(&node, self) {
                self.unlink();
                return;
            }
            above = node.link().map(|link| link.parent);
        }
        let name = OwnedName::from(name);
        let new = Link { parent: Arc::clone(parent), name: name.clone() };
        let old = lock(&self.link).replace(new);
        if let Some(old) = old {
            old.parent.forget(&old.name, |known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(self)));
        }
        lock(&parent.children).insert(name, Arc::downgrade(self));
    }

    /// Removes a child from the table when it is the one meant.
    fn forget(&self, name: &OwnedName, is_it: impl FnOnce(&Weak<Self>) -> bool) {
        let mut children = lock(&self.children);
        if children.get(name).is_some_and(is_it) {
            children.remove(name);
        }
    }

    /// Takes the node off the one above, which is returned.
    fn detach(&mut self) -> Option<Arc<Self>> {
        let link = self.link.get_mut().unwrap_or_else(PoisonError::into_inner).take()?;
        // Another node may have the name by now; this one is dead and has no other mark.
        link.parent.forget(&link.name, |known| known.strong_count() == 0);
        Some(link.parent)
    }
}

/// A chain of parents is as long as the client made it: dropping it must not recurse.
impl Drop for Node {
    fn drop(&mut self) {
        let mut next = self.detach();
        while let Some(mut node) = next.and_then(Arc::into_inner) {
            next = node.detach();
        }
    }
}

/// A panic elsewhere leaves these plain values whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
