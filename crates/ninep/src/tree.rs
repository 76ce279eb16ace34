//! The namespace as the client walks it: the export's grants, and the host's files below them.
//!
//! A [`Node`] knows its parent, so that `..` never asks the host, and its name, so that its descriptor can
//! be closed and opened again: a client may hold many more fids than a process may hold descriptors. Opening
//! again looks the one name up below the parent's descriptor, as the first time, and insists on finding the
//! same inode; otherwise the fid is stale (`ESTALE`).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::budget::{Budget, Permit};
use crate::descriptors::{Cached, DescriptorCache};
use crate::export::{Backing, Export, GrantId, Granted};
use crate::host::{self, Metadata, V9FS_MAGIC};
use crate::identity::{Identity, QidPaths, Region};
use crate::wire::{Attributes, FileSystem, Name, OwnedName, Qid, Step};

/// The deepest directory that can be walked to. It bounds how many names must be looked up again for one
/// request.
const MAX_DEPTH: u32 = 4096;

/// What the server's own files say of their version: they never change.
const SERVER_VERSION: u32 = 1;

/// A file or directory that a fid names, or one above it.
pub(crate) struct Node {
    place: Place,
    parent: Option<Arc<Node>>,
    depth: u32,
    identity: Identity,
    _permit: Permit,
}

enum Place {
    Grant(GrantId),
    Host(HostEntry),
}

pub(crate) struct HostEntry {
    name: OwnedName,
    region: Region,
    pub cached: Cached,
}

impl Node {
    pub fn identity(&self) -> Identity {
        self.identity
    }

    pub fn is_directory(&self) -> bool {
        self.identity.file_type == FileType::Directory
    }

    /// The node that `..` leads to; the root's is the root.
    pub fn parent(self: &Arc<Self>) -> &Arc<Self> {
        self.parent.as_ref().unwrap_or(self)
    }

    pub fn host_entry(&self) -> Option<&HostEntry> {
        match &self.place {
            Place::Grant(_) => None,
            Place::Host(entry) => Some(entry),
        }
    }
}

/// A chain of parents is as long as the client made it: dropping it must not recurse.
impl Drop for Node {
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut node) = next.and_then(Arc::into_inner) {
            next = node.parent.take();
        }
    }
}

/// An export, and what is needed to walk it.
pub(crate) struct Tree {
    export: Arc<Export>,
    qids: QidPaths,
    descriptors: DescriptorCache,
    nodes: Budget,
}

impl Tree {
    pub fn new(export: Arc<Export>, max_nodes: usize, max_descriptors: usize) -> Self {
        Self {
            export,
            qids: QidPaths::default(),
            descriptors: DescriptorCache::new(max_descriptors),
            nodes: Budget::new(max_nodes),
        }
    }

    pub fn root(&self) -> Result<(Arc<Node>, Qid), Errno> {
        let root = self.grant_node(GrantId::ROOT, None)?;
        let qid = self.attributes(&root)?.qid;
        Ok((root, qid))
    }

    /// One element of a walk.
    pub fn step(&self, from: &Arc<Node>, step: Step<'_>) -> Result<(Arc<Node>, Qid), Errno> {
        if !from.is_directory() {
            return Err(Errno::NOTDIR);
        }
        let node = match step {
            Step::Here => Arc::clone(from),
            Step::Parent => Arc::clone(from.parent()),
            Step::Child(name) => return self.child(from, name),
        };
        let qid = self.attributes(&node)?.qid;
        Ok((node, qid))
    }

    fn child(&self, from: &Arc<Node>, name: Name<'_>) -> Result<(Arc<Node>, Qid), Errno> {
        if from.depth >= MAX_DEPTH {
            return Err(Errno::NAMETOOLONG);
        }
        let region = match &from.place {
            Place::Host(entry) => entry.region,
            Place::Grant(id) => {
                let granted = self.export.get(*id);
                if let Some(child) = granted.children.get(name.as_bytes()) {
                    let node = self.grant_node(*child, Some(from))?;
                    let qid = self.attributes(&node)?.qid;
                    return Ok((node, qid));
                }
                match &granted.backing {
                    Backing::Directory(_) => granted.identity.origin.same_region(),
                    _ => return Err(Errno::NOENT),
                }
            }
        };
        let permit = self.nodes.take().ok_or(Errno::NFILE)?;
        let descriptor = host::open_child(self.descriptor(from)?, name)?;
        let metadata = host::metadata(&descriptor)?;
        let identity = metadata.identity(region);
        // Whoever shares `/` means files. That the kernel keeps processes in the same tree is no wish to have
        // this process's memory read, `/proc/PID/mem` being a regular file.
        if from.identity.origin != identity.origin && host::is_proc(&descriptor)? {
            return Err(Errno::ACCESS);
        }
        let entry = HostEntry { name: name.into(), region, cached: Cached::default() };
        let node = Arc::new(Node {
            place: Place::Host(entry),
            parent: Some(Arc::clone(from)),
            depth: from.depth + 1,
            identity,
            _permit: permit,
        });
        self.descriptors.keep(&node, Arc::new(descriptor));
        Ok((node, self.qids.qid(identity, metadata.attributes.qid.version)))
    }

    fn grant_node(&self, id: GrantId, parent: Option<&Arc<Node>>) -> Result<Arc<Node>, Errno> {
        Ok(Arc::new(Node {
            place: Place::Grant(id),
            parent: parent.cloned(),
            depth: parent.map_or(0, |parent| parent.depth + 1),
            identity: self.export.get(id).identity,
            _permit: self.nodes.take().ok_or(Errno::NFILE)?,
        }))
    }

    /// The grant that a node is, with what stands below it; nothing for a file of the host.
    pub fn grant<'a>(&'a self, node: &Node) -> Option<&'a Granted> {
        match node.place {
            Place::Grant(id) => Some(self.export.get(id)),
            Place::Host(_) => None,
        }
    }

    pub fn granted(&self, id: GrantId) -> &Granted {
        self.export.get(id)
    }

    pub fn attributes(&self, node: &Arc<Node>) -> Result<Attributes, Errno> {
        let own = |mode: FileType, permissions: u32, nlink: usize, size: usize| Attributes {
            qid: self.qids.qid(node.identity, SERVER_VERSION),
            mode: mode.as_raw_mode() | permissions,
            nlink: nlink as u64,
            size: size as u64,
            blksize: 4096,
            atime: self.export.opened(),
            mtime: self.export.opened(),
            ctime: self.export.opened(),
            ..Attributes::default()
        };
        match self.grant(node) {
            Some(Granted { backing: Backing::Nothing, children, .. }) => {
                let directories = children
                    .values()
                    .filter(|child| self.export.get(**child).identity.file_type == FileType::Directory);
                Ok(own(FileType::Directory, 0o555, 2 + directories.count(), 0))
            }
            Some(Granted { backing: Backing::Symlink(target), .. }) => {
                Ok(own(FileType::Symlink, 0o777, 1, target.len()))
            }
            _ => Ok(self.host_attributes(node, &host::metadata(self.descriptor(node)?)?)),
        }
    }

    /// The attributes of a file of the host, from what the host says of one of its descriptors.
    pub fn host_attributes(&self, node: &Node, metadata: &Metadata) -> Attributes {
        let mut attributes = metadata.attributes;
        attributes.qid = self.qids.qid(node.identity, attributes.qid.version);
        attributes
    }

    /// Opens a regular file or a directory of the host for reading; nothing else ever is opened.
    ///
    /// FIFOs, sockets and devices are `EACCES`, as on a file system mounted `nodev`: a client's kernel opens
    /// its own, and never asks. Symbolic links are `ELOOP`.
    pub fn open_host(&self, node: &Arc<Node>) -> Result<(OwnedFd, Qid), Errno> {
        let descriptor = self.descriptor(node)?;
        let file = host::reopen(self.export.descriptors(), &descriptor, node.identity.file_type)?;
        let metadata = host::metadata(&file)?;
        // `/proc/self/fd` names a process: were it not this one, another file would have been opened.
        if !same_file(node, &metadata) {
            return Err(Errno::STALE);
        }
        Ok((file, self.host_attributes(node, &metadata).qid))
    }

    pub fn read_link(&self, node: &Arc<Node>) -> Result<Vec<u8>, Errno> {
        if node.identity.file_type != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        match self.grant(node) {
            Some(Granted { backing: Backing::Symlink(target), .. }) => Ok(target.to_vec()),
            _ => host::read_link(self.descriptor(node)?),
        }
    }

    pub fn file_system(&self, node: &Arc<Node>) -> Result<FileSystem, Errno> {
        match self.grant(node) {
            Some(Granted { backing: Backing::Nothing | Backing::Symlink(_), .. }) => {
                Ok(FileSystem { kind: V9FS_MAGIC, bsize: 4096, namelen: 255, ..FileSystem::default() })
            }
            _ => host::file_system(self.descriptor(node)?),
        }
    }

    /// The qid of a directory's entry, from the entry alone; its version is 0, unknown.
    pub fn entry_qid(&self, entry: Identity) -> Qid {
        self.qids.qid(entry, 0)
    }

    /// The `O_PATH` descriptor of a node that the host has.
    fn descriptor(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>, Errno> {
        let mut closed = Vec::new();
        let mut at = node;
        let mut descriptor = loop {
            if let Some(descriptor) = self.open_descriptor(at)? {
                break descriptor;
            }
            closed.push(at);
            at = at.parent();
        };
        while let Some(node) = closed.pop() {
            let entry = node.host_entry().ok_or(Errno::STALE)?;
            let found = host::open_child(&descriptor, entry.name.as_name()).map_err(|errno| match errno {
                Errno::NOENT | Errno::NOTDIR => Errno::STALE,
                errno => errno,
            })?;
            if !same_file(node, &host::metadata(&found)?) {
                return Err(Errno::STALE);
            }
            descriptor = Arc::new(found);
            self.descriptors.keep(node, Arc::clone(&descriptor));
        }
        Ok(descriptor)
    }

    /// The descriptor of a node if it is open. A grant's always is; a file of the host stands below one.
    fn open_descriptor(&self, node: &Node) -> Result<Option<Arc<OwnedFd>>, Errno> {
        match &node.place {
            Place::Host(entry) => Ok(entry.cached.get()),
            Place::Grant(id) => match &self.export.get(*id).backing {
                Backing::Directory(descriptor) | Backing::File(descriptor) => {
                    Ok(Some(Arc::clone(descriptor)))
                }
                Backing::Nothing | Backing::Symlink(_) => Err(Errno::STALE),
            },
        }
    }
}

fn same_file(node: &Node, metadata: &Metadata) -> bool {
    metadata.identity(node.identity.origin.same_region()) == node.identity
}
