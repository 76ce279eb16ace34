//! The requests that change something, and those about extended attributes.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::{Server, host_flags, opened};
use crate::fid::{FidState, Handle, Open};
use crate::host::change;
use crate::reply::Data;
use crate::tree::Node;
use crate::wire::{Fid, Name, REMOVE_DIRECTORY, Response, SetAttributes, kind, open_flags};
use crate::xattr::{self, Setting, Xattr};

impl Server {
    /// Tlcreate: makes a file in the directory `fid`, which becomes that file, open.
    pub(super) fn create(
        &self,
        fid: Fid,
        name: Name<'_>,
        flags: u32,
        mode: u32,
        gid: u32,
    ) -> Result<Response<'static>, Errno> {
        let state = self.fids.get(fid)?;
        self.tree.writable(&state.node)?;
        if state.handle().is_some() {
            return Err(Errno::BADF);
        }
        let how = host_flags(flags)?;
        let permit = self.open_files.take().ok_or(Errno::NFILE)?;
        let exclusive = flags & open_flags::EXCLUSIVE != 0;
        let (node, file, metadata) = self.tree.create(&state.node, name, how, exclusive, (mode, gid))?;
        let attributes = self.tree.host_attributes(&node, &metadata);
        let counted = self.tree.quota(&node).map(|quota| quota.opened(&file)).transpose()?;
        let handle = Handle::File(opened(file, how, &metadata, counted));
        let created = FidState::opened(node, Open { handle, _permit: permit });
        self.fids.replace(fid, &state, created)?;
        Ok(Response::Lcreate(attributes.qid))
    }

    /// Twrite: from the request into the file, without a copy where the transport can.
    pub(super) fn write<D: Data + ?Sized>(
        &self,
        fid: Fid,
        offset: u64,
        data: &D,
    ) -> Result<Response<'static>, Errno> {
        let state = self.session_fid(fid)?;
        let open = match state.handle() {
            Some(Handle::Xattr(xattr)) => {
                return Ok(Response::Write { count: written(xattr.write(offset, data)?)? });
            }
            Some(Handle::File(open)) if open.writable => open,
            _ => {
                self.tree.writable(&state.node)?;
                return Err(Errno::BADF);
            }
        };
        let end = offset.checked_add(data.count() as u64).ok_or(Errno::FBIG)?;
        i64::try_from(end).map_err(|_| Errno::FBIG)?;
        if end > self.largest_file {
            return Err(Errno::FBIG);
        }
        // The kernel does this for an ordinary user's writes, but not for those of root.
        if open.set_id.swap(false, Ordering::Relaxed) {
            let mode = crate::host::metadata(&open.file)?.attributes.mode;
            if change::has_set_id(mode) {
                change::clear_set_id(&open.file, mode)?;
            }
        }
        let write = || {
            data.write_file_at(open.file.as_fd(), offset)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        };
        let count = match &open.counted {
            // A file that is appended to may grow by all of it.
            Some(counted) => {
                let end = |size: u64| end.max(size.saturating_add(data.count() as u64));
                counted.quota().change(&open.file, end, write)?
            }
            None => write()?,
        };
        let count = count.min(data.count());
        self.counters.written(count);
        Ok(Response::Write { count: written(count)? })
    }

    pub(super) fn set_attributes(
        &self,
        fid: Fid,
        attributes: &SetAttributes,
    ) -> Result<Response<'static>, Errno> {
        let state = self.fids.get(fid)?;
        if attributes.valid & crate::wire::set_attributes::SIZE != 0 && attributes.size > self.largest_file {
            return Err(Errno::FBIG);
        }
        let file = match state.handle() {
            Some(Handle::File(open)) if open.writable => Some(&open.file),
            _ => None,
        };
        self.tree.set_attributes(&state.node, file, attributes)?;
        Ok(Response::Empty { request: kind::TSETATTR })
    }

    pub(super) fn unlink(
        &self,
        directory: Fid,
        name: Name<'_>,
        flags: u32,
    ) -> Result<Response<'static>, Errno> {
        let state = self.fids.get(directory)?;
        self.tree.writable(&state.node)?;
        if flags & !REMOVE_DIRECTORY != 0 {
            return Err(Errno::INVAL);
        }
        self.tree.remove(&state.node, name, flags & REMOVE_DIRECTORY != 0)?;
        Ok(Response::Empty { request: kind::TUNLINKAT })
    }

    /// Tfsync. Where nothing can be changed there is nothing to write back.
    pub(super) fn sync(&self, fid: Fid, data_only: bool) -> Result<Response<'static>, Errno> {
        let state = self.fids.get(fid)?;
        if self.tree.access(&state.node).writable {
            match state.handle() {
                Some(Handle::File(open)) => change::sync(&open.file, data_only)?,
                Some(Handle::Directory(directory)) => directory.sync(data_only)?,
                Some(Handle::Xattr(_)) | None => {}
            }
        }
        Ok(Response::Empty { request: kind::TFSYNC })
    }

    /// Tclunk: forgets the fid in any case. The error is that of an attribute that could not be set.
    pub(super) fn clunk(&self, fid: Fid) -> Result<Response<'static>, Errno> {
        let state = self.fids.remove(fid)?;
        self.unlock(&state);
        if let Some(Handle::Xattr(xattr)) = state.handle() {
            xattr.finish(|setting| {
                let file = self.xattr_file(&state.node)?;
                match setting {
                    Setting::Set { name, value, flags } => change::set_xattr(&file, name, value, flags),
                    Setting::Remove { name } => change::remove_xattr(&file, name),
                }
            })?;
        }
        Ok(Response::Empty { request: kind::TCLUNK })
    }

    /// Txattrwalk: makes `new_fid` the value of an attribute, or for an empty name the list of all.
    pub(super) fn xattr_walk(&self, fid: Fid, new_fid: Fid, name: &[u8]) -> Result<Response<'static>, Errno> {
        let state = self.fids.get(fid)?;
        if !self.tree.access(&state.node).xattrs {
            return Err(Errno::OPNOTSUPP);
        }
        if !name.is_empty() {
            xattr::check_name(name)?;
        }
        let permit = self.xattrs.take().ok_or(Errno::NFILE)?;
        let value = match (self.xattr_file(&state.node), name) {
            (Ok(file), b"") => xattr::visible(&change::xattr_names(&file)?),
            (Ok(file), name) => change::xattr(&file, name)?,
            // What can't be opened has none: links, FIFOs.
            (Err(Errno::LOOP | Errno::PERM), b"") => Vec::new(),
            (Err(Errno::LOOP | Errno::PERM), _) => return Err(Errno::NODATA),
            (Err(errno), _) => return Err(errno),
        };
        let size = value.len() as u64;
        let open = Open { handle: Handle::Xattr(Xattr::Read(value)), _permit: permit };
        self.fids.insert(new_fid, FidState::opened(Arc::clone(&state.node), open))?;
        Ok(Response::Xattrwalk { size })
    }

    /// Txattrcreate: makes `fid` an attribute to be set when it is clunked.
    pub(super) fn xattr_create(
        &self,
        fid: Fid,
        name: &[u8],
        size: u64,
        flags: u32,
    ) -> Result<Response<'static>, Errno> {
        let state = self.fids.get(fid)?;
        self.tree.writable(&state.node)?;
        if !self.tree.access(&state.node).xattrs {
            return Err(Errno::OPNOTSUPP);
        }
        if state.handle().is_some() {
            return Err(Errno::BADF);
        }
        let permit = self.xattrs.take().ok_or(Errno::NFILE)?;
        let handle = Handle::Xattr(Xattr::new(name, size, flags)?);
        state.open(Open { handle, _permit: permit })?;
        Ok(Response::Empty { request: kind::TXATTRCREATE })
    }

    /// Opens a file for its attributes. Only regular files and directories have those of `user.*`: `EPERM`.
    fn xattr_file(&self, node: &Arc<Node>) -> Result<OwnedFd, Errno> {
        match node.identity().file_type {
            FileType::RegularFile | FileType::Directory => {}
            _ => return Err(Errno::PERM),
        }
        match self.tree.open_host(node, OFlags::RDONLY) {
            // A file that its owner may write and not read.
            Err(Errno::ACCESS) if !node.is_directory() && self.tree.access(node).writable => {
                self.tree.open_host(node, OFlags::WRONLY)
            }
            opened => opened,
        }
        .map(|(file, _)| file)
    }

    /// A fid of a session: without one, there are none.
    fn session_fid(&self, fid: Fid) -> Result<Arc<FidState>, Errno> {
        if self.msize.load(Ordering::Acquire) == 0 {
            return Err(Errno::PROTO);
        }
        self.fids.get(fid)
    }
}

fn written(count: usize) -> Result<u32, Errno> {
    u32::try_from(count).map_err(|_| Errno::OVERFLOW)
}
