//! Changes to the host's files that a writable grant allows, and what they change of the nodes.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::{Node, Tree};
use crate::host::{self, Metadata, change};
use crate::wire::{Name, OwnedName, Qid, SetAttributes, set_attributes as set};

/// A new entry, whose permissions and group are to become what the client asked for.
struct New {
    mode: u32,
    gid: u32,
}

impl Tree {
    /// `EROFS` unless the node may be changed.
    pub fn writable(&self, node: &Node) -> Result<(), Errno> {
        if self.access(node).writable { Ok(()) } else { Err(Errno::ROFS) }
    }

    /// The descriptor of a directory in which the entry `name` is to be changed; `granted` is the error where
    /// a grant has that name.
    fn changeable(&self, node: &Arc<Node>, name: Name<'_>, granted: Errno) -> Result<Arc<OwnedFd>, Errno> {
        self.writable(node)?;
        if !node.is_directory() {
            return Err(Errno::NOTDIR);
        }
        if self.granted_child(node, name).is_some() {
            return Err(granted);
        }
        self.descriptor(node)
    }

    /// Creates and opens a regular file, or opens the one that is there unless `exclusive`.
    pub fn create(
        &self,
        directory: &Arc<Node>,
        name: Name<'_>,
        how: OFlags,
        exclusive: bool,
        (mode, gid): (u32, u32),
    ) -> Result<(Arc<Node>, OwnedFd, Metadata), Errno> {
        let at = self.changeable(directory, name, Errno::EXIST)?;
        match self.add_name(directory, || change::create(&at, name, how, mode)) {
            Ok(file) => {
                let (node, metadata) = self.made(directory, &at, name, New { mode, gid })?;
                if !super::same_file(&node, &host::metadata(&file)?) {
                    return Err(Errno::STALE);
                }
                Ok((node, file, metadata))
            }
            // Another client of the folder was faster, or this one does not know yet. That there may be no more
            // names is no matter to one that is there.
            Err(errno @ (Errno::EXIST | Errno::DQUOT)) if !exclusive => {
                let found = host::open_child(&at, name);
                let found = found.map_err(|other| if other == Errno::NOENT { errno } else { other })?;
                let (node, _) = self.node_of(directory, name, found)?;
                if node.is_directory() {
                    return Err(Errno::ISDIR);
                }
                let descriptor = self.descriptor(&node)?;
                let file_type = node.identity().file_type;
                let file = host::reopen(self.export.own_descriptors(), &descriptor, file_type, how)?;
                let metadata = host::metadata(&file)?;
                Ok((node, file, metadata))
            }
            Err(errno) => Err(errno),
        }
    }

    pub fn make_directory(
        &self,
        directory: &Arc<Node>,
        name: Name<'_>,
        mode: u32,
        gid: u32,
    ) -> Result<Qid, Errno> {
        let at = self.changeable(directory, name, Errno::EXIST)?;
        self.add_name(directory, || change::make_directory(&at, name, mode))?;
        self.made_qid(directory, &at, name, New { mode, gid })
    }

    pub fn make_node(
        &self,
        directory: &Arc<Node>,
        name: Name<'_>,
        mode: u32,
        gid: u32,
    ) -> Result<Qid, Errno> {
        let at = self.changeable(directory, name, Errno::EXIST)?;
        self.add_name(directory, || change::make_node(&at, name, mode))?;
        self.made_qid(directory, &at, name, New { mode, gid })
    }

    /// Makes a symbolic link. Its text is the client's own affair: nothing here follows it.
    pub fn make_link(
        &self,
        directory: &Arc<Node>,
        name: Name<'_>,
        target: &[u8],
        gid: u32,
    ) -> Result<Qid, Errno> {
        if target.is_empty() || target.contains(&0) {
            return Err(Errno::NOENT);
        }
        let at = self.changeable(directory, name, Errno::EXIST)?;
        self.add_name(directory, || change::make_link(&at, name, target))?;
        self.made_qid(directory, &at, name, New { mode: 0o777, gid })
    }

    /// Gives a file a second name, within one grant.
    pub fn hard_link(&self, node: &Arc<Node>, directory: &Arc<Node>, name: Name<'_>) -> Result<(), Errno> {
        let at = self.changeable(directory, name, Errno::EXIST)?;
        self.writable(node)?;
        if node.is_directory() {
            return Err(Errno::PERM);
        }
        same_grant(node, directory)?;
        let descriptor = self.descriptor(node)?;
        self.add_name(directory, || change::hard_link(self.export.own_descriptors(), &descriptor, &at, name))
    }

    /// Renames an entry, within one grant.
    pub fn rename(
        &self,
        old: &Arc<Node>,
        old_name: Name<'_>,
        new: &Arc<Node>,
        new_name: Name<'_>,
    ) -> Result<(), Errno> {
        let from = self.changeable(old, old_name, Errno::BUSY)?;
        let to = self.changeable(new, new_name, Errno::BUSY)?;
        same_grant(old, new)?;
        // What loses its name must be at hand before it does.
        let replaced = self.at_hand(new, new_name);
        let _one = self.renames.lock().unwrap_or_else(PoisonError::into_inner);
        self.remove_name(new, &to, new_name, || change::rename(&from, old_name, &to, new_name))?;
        let moved = old.child(old_name.as_bytes());
        if let (Some(moved), Some((replaced, _))) = (&moved, &replaced)
            && (Arc::ptr_eq(moved, replaced) || moved.identity() == replaced.identity())
        {
            // Two names of one file: rename(2) leaves both.
            return Ok(());
        }
        if let Some((replaced, descriptor)) = replaced {
            self.lose_name(&replaced, descriptor);
        }
        if let Some(moved) = moved {
            moved.relink(new, new_name);
        }
        Ok(())
    }

    /// Renames what a fid stands for.
    pub fn rename_node(&self, node: &Arc<Node>, new: &Arc<Node>, new_name: Name<'_>) -> Result<(), Errno> {
        self.writable(node)?;
        let (parent, name) = self.own_name(node)?;
        self.rename(&parent, name.as_name(), new, new_name)
    }

    /// Removes an entry of a directory.
    pub fn remove(&self, directory: &Arc<Node>, name: Name<'_>, is_directory: bool) -> Result<(), Errno> {
        let at = self.changeable(directory, name, Errno::BUSY)?;
        let known = self.at_hand(directory, name);
        self.remove_name(directory, &at, name, || change::remove(&at, name, is_directory))?;
        if let Some((node, descriptor)) = known {
            self.lose_name(&node, descriptor);
        }
        Ok(())
    }

    /// Removes what a fid stands for.
    pub fn remove_node(&self, node: &Arc<Node>) -> Result<(), Errno> {
        self.writable(node)?;
        let (parent, name) = self.own_name(node)?;
        self.remove(&parent, name.as_name(), node.is_directory())
    }

    /// Changes attributes. `file` is the node's, open for writing, if there is one.
    pub fn set_attributes(
        &self,
        node: &Arc<Node>,
        file: Option<&OwnedFd>,
        to: &SetAttributes,
    ) -> Result<(), Errno> {
        self.writable(node)?;
        let descriptor = match file {
            Some(_) => None,
            None => Some(self.descriptor(node)?),
        };
        let target = file.or(descriptor.as_deref()).ok_or(Errno::STALE)?.as_fd();
        let chosen = |bit: u32, value: u32| (to.valid & bit != 0).then_some(value);
        if to.valid & (set::UID | set::GID) != 0 {
            change::set_owner(target, chosen(set::UID, to.uid), chosen(set::GID, to.gid))?;
        }
        if to.valid & set::MODE != 0 {
            let mode = change::permissions(to.mode, node.identity().file_type);
            change::set_mode(self.export.own_descriptors(), target, mode)?;
        }
        if to.valid & set::SIZE != 0 {
            self.set_size(node, file, to.size)?;
        }
        // After the size, which sets the time of modification.
        if to.valid & (set::ATIME | set::MTIME) != 0 {
            change::set_times(target, to)?;
        }
        Ok(())
    }

    fn set_size(&self, node: &Arc<Node>, file: Option<&OwnedFd>, size: u64) -> Result<(), Errno> {
        let opened = match (file, node.identity().file_type) {
            (Some(_), _) => None,
            (None, FileType::RegularFile) => Some(self.open_host(node, OFlags::WRONLY)?),
            (None, FileType::Directory) => return Err(Errno::ISDIR),
            (None, _) => return Err(Errno::INVAL),
        };
        let file = file.or(opened.as_ref().map(|(file, _)| file)).ok_or(Errno::INVAL)?;
        let mode = host::metadata(file)?.attributes.mode;
        if change::has_set_id(mode) {
            change::clear_set_id(file, mode)?;
        }
        match self.quota(node) {
            Some(quota) => quota.change(file, |_| size, || change::set_size(file, size)),
            None => change::set_size(file, size),
        }
    }

    /// Makes a name, if the directory's grant has room for one more.
    fn add_name<T>(&self, directory: &Node, make: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        match self.quota(directory) {
            Some(quota) => quota.add_name(make),
            None => make(),
        }
    }

    /// Makes a change by which what has this name may lose it.
    fn remove_name(
        &self,
        directory: &Node,
        at: &OwnedFd,
        name: Name<'_>,
        change: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let look = || host::open_child(at, name).and_then(host::metadata).ok();
        match self.quota(directory) {
            Some(quota) => quota.remove_name(look, change, |was| !super::is_at(at, name, was)),
            None => change(),
        }
    }

    /// The qid of an entry just made.
    fn made_qid(&self, directory: &Arc<Node>, at: &OwnedFd, name: Name<'_>, new: New) -> Result<Qid, Errno> {
        let (node, metadata) = self.made(directory, at, name, new)?;
        Ok(self.host_attributes(&node, &metadata).qid)
    }

    /// The node of an entry just made, after its permissions and group are what the client asked for.
    fn made(
        &self,
        directory: &Arc<Node>,
        at: &OwnedFd,
        name: Name<'_>,
        new: New,
    ) -> Result<(Arc<Node>, Metadata), Errno> {
        let descriptor = host::open_child(at, name)?;
        let (node, mut metadata) = self.node_of(directory, name, descriptor)?;
        let descriptor = self.descriptor(&node)?;
        if metadata.attributes.gid != new.gid {
            // A guest's user is a member of groups that this process's is not.
            match change::set_owner(&*descriptor, None, Some(new.gid)) {
                Ok(()) => metadata.attributes.gid = new.gid,
                Err(Errno::PERM | Errno::INVAL) => {}
                Err(errno) => return Err(errno),
            }
        }
        // The client's own umask is in the mode already; this process's took away what it shouldn't.
        let missing = new.mode & self.export.umask() & !metadata.attributes.mode;
        if missing & 0o777 != 0 && node.identity().file_type != FileType::Symlink {
            let mode = metadata.attributes.mode | missing & 0o777;
            let mode = change::permissions(mode, node.identity().file_type);
            change::set_mode(self.export.own_descriptors(), &*descriptor, mode)?;
            metadata.attributes.mode = metadata.attributes.mode & !0o7777 | mode;
        }
        Ok((node, metadata))
    }

    /// The node that has a name, if a fid leads there, and its descriptor, while that can still be had.
    fn at_hand(&self, directory: &Arc<Node>, name: Name<'_>) -> Option<(Arc<Node>, Option<Arc<OwnedFd>>)> {
        let node = directory.child(name.as_bytes())?;
        let descriptor = self.descriptor(&node).ok();
        Some((node, descriptor))
    }

    fn lose_name(&self, node: &Node, descriptor: Option<Arc<OwnedFd>>) {
        if let Some(descriptor) = descriptor {
            self.descriptors.keep_for_good(node, descriptor);
        }
        node.unlink();
    }

    /// The directory and the name that a fid of the host was walked to by, if that still leads to its file.
    fn own_name(&self, node: &Arc<Node>) -> Result<(Arc<Node>, OwnedName), Errno> {
        if node.grant_id().is_some() {
            return Err(Errno::BUSY);
        }
        let link = node.host_link().ok_or(Errno::NOENT)?;
        let found = host::open_child(self.descriptor(&link.parent)?, link.name.as_name())?;
        if !super::same_file(node, &host::metadata(&found)?) {
            return Err(Errno::STALE);
        }
        Ok((link.parent, link.name))
    }
}

fn same_grant(one: &Node, other: &Node) -> Result<(), Errno> {
    if one.identity().origin.same_region() == other.identity().origin.same_region() {
        Ok(())
    } else {
        Err(Errno::XDEV)
    }
}
