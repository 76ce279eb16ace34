//! The namespace as the client walks it: the export's grants, and the host's files below them.
//!
//! A [`Node`] knows its parent, so that `..` never asks the host, and its name, so that its descriptor can
//! be closed and opened again: a client may hold many more fids than a process may hold descriptors. Opening
//! again looks the one name up below the parent's descriptor, as the first time, and insists on finding the
//! same inode; otherwise the fid is stale (`ESTALE`). Fids that lead to one file by one name share its node,
//! so that a rename by the client has one place to change, however many fids are at it or below.

mod change;
mod node;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

pub(crate) use node::Node;

use crate::budget::Budget;
use crate::descriptors::DescriptorCache;
use crate::export::{Access, Backing, Export, GrantId, Granted};
use crate::host::{self, Metadata, V9FS_MAGIC};
use crate::identity::{Identity, Origin, QidPaths};
use crate::quota::Quota;
use crate::wire::{Attributes, FileSystem, Name, Qid, Step};

/// The deepest directory that can be walked to. It bounds how many names must be looked up again for one
/// request.
const MAX_DEPTH: usize = 4096;

/// What the server's own files say of their version: they never change.
const SERVER_VERSION: u32 = 1;

/// An export, and what is needed to walk it.
pub(crate) struct Tree {
    export: Arc<Export>,
    root: Mutex<Weak<Node>>,
    qids: QidPaths,
    descriptors: DescriptorCache,
    nodes: Budget,
    /// Of those grants that have caps.
    quotas: HashMap<GrantId, Arc<Quota>>,
    /// Held while nodes are moved, so that none gets below itself.
    renames: Mutex<()>,
}

impl Tree {
    pub fn new(export: Arc<Export>, max_nodes: usize, max_descriptors: usize) -> Self {
        let quotas = export.caps().filter_map(|(id, caps)| Some((id, Quota::new(caps)?))).collect();
        Self {
            export,
            quotas,
            root: Mutex::default(),
            qids: QidPaths::default(),
            descriptors: DescriptorCache::new(max_descriptors),
            nodes: Budget::new(max_nodes),
            renames: Mutex::default(),
        }
    }

    pub fn root(&self) -> Result<(Arc<Node>, Qid), Errno> {
        let root = self.root_node()?;
        let qid = self.attributes(&root)?.qid;
        Ok((root, qid))
    }

    fn root_node(&self) -> Result<Arc<Node>, Errno> {
        let mut known = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = known.upgrade() {
            return Ok(root);
        }
        let permit = self.nodes.take().ok_or(Errno::NFILE)?;
        let root = Node::root(GrantId::ROOT, self.export.get(GrantId::ROOT).identity, permit);
        *known = Arc::downgrade(&root);
        Ok(root)
    }

    /// One element of a walk: where it leads, and what that is.
    pub fn step(&self, from: &Arc<Node>, step: Step<'_>) -> Result<(Arc<Node>, Attributes), Errno> {
        if !from.is_directory() {
            return Err(Errno::NOTDIR);
        }
        let node = match step {
            Step::Here => Arc::clone(from),
            Step::Parent => from.parent(),
            Step::Child(name) => return self.child(from, name),
        };
        let attributes = self.attributes(&node)?;
        Ok((node, attributes))
    }

    fn child(&self, from: &Arc<Node>, name: Name<'_>) -> Result<(Arc<Node>, Attributes), Errno> {
        if let Some(id) = self.granted_child(from, name) {
            let node = self.grant_node(id, from, name)?;
            let attributes = self.attributes(&node)?;
            return Ok((node, attributes));
        }
        let descriptor = host::open_child(self.descriptor_of_directory(from)?, name)?;
        let (node, metadata) = self.node_of(from, name, descriptor)?;
        let attributes = self.host_attributes(&node, &metadata);
        Ok((node, attributes))
    }

    /// The node of an entry of a directory of the host, which `descriptor` is.
    fn node_of(
        &self,
        from: &Arc<Node>,
        name: Name<'_>,
        descriptor: OwnedFd,
    ) -> Result<(Arc<Node>, Metadata), Errno> {
        let metadata = host::metadata(&descriptor)?;
        let identity = metadata.identity(from.identity().origin.same_region());
        // Whoever shares `/` means files. That the kernel keeps processes in the same tree is no wish to have
        // this process's memory read, `/proc/PID/mem` being a regular file.
        if from.identity().origin != identity.origin && host::is_proc(&descriptor)? {
            return Err(Errno::ACCESS);
        }
        let known = from.child(name.as_bytes()).filter(|known| known.identity() == identity);
        let node = match known {
            Some(known) => known,
            None if from.depth() >= MAX_DEPTH => return Err(Errno::NAMETOOLONG),
            None => {
                let permit = self.nodes.take().ok_or(Errno::NFILE)?;
                Node::host(identity, from, name, permit)
            }
        };
        self.descriptors.keep(&node, Arc::new(descriptor));
        Ok((node, metadata))
    }

    fn granted_child(&self, from: &Node, name: Name<'_>) -> Option<GrantId> {
        self.grant(from)?.children.get(name.as_bytes()).copied()
    }

    /// A node of a grant; an older one of the same place serves as well.
    fn grant_node(&self, id: GrantId, parent: &Arc<Node>, name: Name<'_>) -> Result<Arc<Node>, Errno> {
        if let Some(known) = parent.child(name.as_bytes()).filter(|known| known.grant_id() == Some(id)) {
            return Ok(known);
        }
        let permit = self.nodes.take().ok_or(Errno::NFILE)?;
        Ok(Node::grant(id, self.export.get(id).identity, parent, name, permit))
    }

    /// The grant that a node is, with what stands below it; nothing for a file of the host.
    pub fn grant<'a>(&'a self, node: &Node) -> Option<&'a Granted> {
        node.grant_id().map(|id| self.export.get(id))
    }

    /// What the client may do to a node.
    pub fn access(&self, node: &Node) -> Access {
        self.export.access(node.identity().origin)
    }

    /// The account of the grant that a node is in, if that has caps.
    pub fn quota(&self, node: &Node) -> Option<&Arc<Quota>> {
        match node.identity().origin {
            Origin::Server => None,
            Origin::Host { region, .. } => self.quotas.get(&region.grant()),
        }
    }

    pub fn granted(&self, id: GrantId) -> &Granted {
        self.export.get(id)
    }

    pub fn attributes(&self, node: &Arc<Node>) -> Result<Attributes, Errno> {
        let own = |mode: FileType, permissions: u32, nlink: usize, size: usize| Attributes {
            qid: self.qids.qid(node.identity(), SERVER_VERSION),
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

    /// What the host says of a file that it has.
    pub fn metadata(&self, node: &Arc<Node>) -> Result<Metadata, Errno> {
        host::metadata(self.descriptor(node)?)
    }

    /// The attributes of a file of the host, from what the host says of one of its descriptors.
    pub fn host_attributes(&self, node: &Node, metadata: &Metadata) -> Attributes {
        let mut attributes = metadata.attributes;
        attributes.qid = self.qids.qid(node.identity(), attributes.qid.version);
        attributes
    }

    /// Opens a regular file or a directory of the host; nothing else ever is opened.
    ///
    /// FIFOs, sockets and devices are `EACCES`, as on a file system mounted `nodev`: a client's kernel opens
    /// its own, and never asks. Symbolic links are `ELOOP`.
    pub fn open_host(&self, node: &Arc<Node>, how: OFlags) -> Result<(OwnedFd, Metadata), Errno> {
        let descriptor = self.descriptor(node)?;
        let file = host::reopen(self.export.own_descriptors(), &descriptor, node.identity().file_type, how)?;
        let metadata = host::metadata(&file)?;
        // `/proc/self/fd` names a process: were it not this one, another file would have been opened.
        if !same_file(node, &metadata) {
            return Err(Errno::STALE);
        }
        Ok((file, metadata))
    }

    pub fn read_link(&self, node: &Arc<Node>) -> Result<Vec<u8>, Errno> {
        if node.identity().file_type != FileType::Symlink {
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

    /// The descriptor of a directory in which the host has entries: `ENOENT` for one of the server's own.
    fn descriptor_of_directory(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>, Errno> {
        match self.grant(node) {
            Some(Granted { backing: Backing::Nothing | Backing::Symlink(_) | Backing::File(_), .. }) => {
                Err(Errno::NOENT)
            }
            _ => self.descriptor(node),
        }
    }

    /// The `O_PATH` descriptor of a node that the host has.
    fn descriptor(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>, Errno> {
        let mut closed = Vec::new();
        let mut at = Arc::clone(node);
        let mut descriptor = loop {
            if let Some(descriptor) = self.open_descriptor(&at)? {
                break descriptor;
            }
            // Renames can make a chain longer than a walk can.
            if closed.len() >= 2 * MAX_DEPTH {
                return Err(Errno::NAMETOOLONG);
            }
            let link = at.host_link().ok_or(Errno::STALE)?;
            let above = Arc::clone(&link.parent);
            closed.push((at, link.name));
            at = above;
        };
        while let Some((node, name)) = closed.pop() {
            let found = host::open_child(&descriptor, name.as_name()).map_err(|errno| match errno {
                Errno::NOENT | Errno::NOTDIR => Errno::STALE,
                errno => errno,
            })?;
            if !same_file(&node, &host::metadata(&found)?) {
                return Err(Errno::STALE);
            }
            descriptor = Arc::new(found);
            self.descriptors.keep(&node, Arc::clone(&descriptor));
        }
        Ok(descriptor)
    }

    /// The descriptor of a node if it is open. A grant's always is; a file of the host stands below one.
    fn open_descriptor(&self, node: &Node) -> Result<Option<Arc<OwnedFd>>, Errno> {
        if let Some(cached) = node.cached() {
            return Ok(cached.get());
        }
        match self.grant(node).map(|grant| &grant.backing) {
            Some(Backing::Directory(descriptor) | Backing::File(descriptor)) => {
                Ok(Some(Arc::clone(descriptor)))
            }
            Some(Backing::Nothing | Backing::Symlink(_)) | None => Err(Errno::STALE),
        }
    }
}

fn same_file(node: &Node, metadata: &Metadata) -> bool {
    metadata.identity(node.identity().origin.same_region()) == node.identity()
}

/// Whether a directory's entry is still this file.
fn is_at(directory: &OwnedFd, name: Name<'_>, file: &Metadata) -> bool {
    let found = host::open_child(directory, name).and_then(host::metadata);
    found.is_ok_and(|found| (found.device, found.inode) == (file.device, file.inode))
}
