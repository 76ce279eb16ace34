//! The server: one session of one client over one export.

mod change;
mod lock;
mod walk;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::budget::Budget;
use crate::counters::Counters;
use crate::directory::Directory;
use crate::export::{Backing, Export};
use crate::fid::{FidState, FidTable, Handle, Open, OpenFile};
use crate::host::{self, Metadata, change as host_change};
use crate::locks::Locks;
use crate::quota::Opened;
use crate::reply::{Data, Reply};
use crate::tree::{Node, Tree};
use crate::wire::{
    Attributes, DATA_HEADER, ERROR_SIZE, Fid, HEADER, Malformed, PATH_MAX, Qid, Request, Response, Tag,
    VERSION, WRITE_HEADER, WriteHead, kind, open_flags,
};

use walk::Walked;

#[cfg(test)]
mod tests;

/// The smallest msize that a client may ask for, in bytes; the Linux client's own minimum.
pub const MIN_MSIZE: u32 = 4096;

/// The largest reply that is encoded in one piece: an Rreadlink.
const LARGEST_ENCODED: usize = HEADER + 2 + PATH_MAX;

/// Fids that are extended attributes at once, each with a value of up to 64 KiB.
const XATTRS: usize = 64;

/// What one client may make the server hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest message in bytes, at least [`MIN_MSIZE`]. The client may ask for less.
    pub msize: u32,
    /// Fids. Each costs some 350 bytes at most, so that the default bounds them to less than 100 MB. The Linux
    /// client holds one for each name that it has cached, and a walk through all of a large `/usr` caches some
    /// hundred thousand; beyond the limit it would see `ENFILE`.
    pub fids: usize,
    /// Opened files and directories, each with a descriptor. [`Server::new`] lowers it to half of the process's
    /// limit (`RLIMIT_NOFILE`).
    pub open_files: usize,
    /// Descriptors kept for fids that are not open, to spare looking them up again. [`Server::new`] lowers it to
    /// a quarter of the process's limit.
    pub descriptors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { msize: 512_000, fids: 1 << 18, open_files: 16_384, descriptors: 4096 }
    }
}

/// A 9P2000.L server for one client.
///
/// It holds no thread and waits for nothing but the host's files. [`serve`](Self::serve) may be called from
/// several threads at once.
pub struct Server {
    tree: Tree,
    fids: FidTable,
    open_files: Budget,
    xattrs: Budget,
    locks: Locks,
    /// `RLIMIT_FSIZE`: a write beyond it would end the process by a signal.
    largest_file: u64,
    limits: Limits,
    /// 0 until a version is agreed on.
    msize: AtomicU32,
    counters: Counters,
}

impl Server {
    /// A server without a session; the client's Tversion starts one. Exports can be shared by servers.
    #[must_use]
    pub fn new(export: impl Into<Arc<Export>>, limits: Limits) -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let limits = Limits {
            msize: limits.msize.max(MIN_MSIZE),
            open_files: limits.open_files.min(files / 2),
            descriptors: limits.descriptors.min(files / 4),
            ..limits
        };
        // A node is a fid or stands above one; the client's own caches make most of them fids.
        let nodes = limits.fids.saturating_mul(2);
        Self {
            tree: Tree::new(export.into(), nodes, limits.descriptors),
            fids: FidTable::new(limits.fids),
            open_files: Budget::new(limits.open_files),
            xattrs: Budget::new(XATTRS),
            locks: Locks::default(),
            largest_file: getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX),
            limits,
            msize: AtomicU32::new(0),
            counters: Counters::new(),
        }
    }

    /// Serves one request, given whole, and returns the number of bytes of the reply.
    ///
    /// Whatever the request holds, the reply is one 9P message. It is 0 bytes long only if `reply` has no room
    /// for an Rlerror ([`ERROR_SIZE`] bytes) or refuses to be written to.
    ///
    /// A transport that serves several requests at once sees to two orders: a Tflush is served after the request
    /// that it names has been answered, so that no answer comes for a tag that the client uses anew; and a Tversion
    /// after everything before it.
    pub fn serve<R: Reply + ?Sized>(&self, request: &[u8], reply: &mut R) -> usize {
        let decoded = Request::decode(request);
        let head = (decoded.kind, decoded.tag, request.len());
        self.answer(head, decoded.request, reply, |request, room, reply| match request {
            Request::Write { fid, offset, data } => self.write(fid, offset, data),
            request => self.handle(request, room, reply),
        })
    }

    /// Serves a Twrite whose data the transport left where the client put it; otherwise as
    /// [`serve`](Self::serve). `head` is the message's start, `data` all that follows.
    pub fn serve_write<D: Data + ?Sized, R: Reply + ?Sized>(
        &self,
        head: &[u8; WRITE_HEADER],
        data: &D,
        reply: &mut R,
    ) -> usize {
        let (tag, request) = WriteHead::decode(head, data.count());
        let length = data.count().saturating_add(WRITE_HEADER);
        self.answer((kind::TWRITE, tag, length), request, reply, |WriteHead { fid, offset }, _, _| {
            self.write(fid, offset, data)
        })
    }

    /// Counts a request, lets `handle` find its response, and puts that into `reply`.
    fn answer<'a, T, R: Reply + ?Sized>(
        &self,
        (kind, tag, length): (u8, Tag, usize),
        request: Result<T, Malformed>,
        reply: &mut R,
        handle: impl FnOnce(T, usize, &mut R) -> Result<Response<'a>, Errno>,
    ) -> usize {
        self.counters.request(kind);
        let msize = match self.msize.load(Ordering::Acquire) {
            0 => self.limits.msize,
            msize => msize,
        } as usize;
        let room = reply.capacity().min(msize);
        if room < ERROR_SIZE {
            return 0;
        }
        let response = if length > msize {
            Err(Errno::MSGSIZE)
        } else {
            request.map_err(Malformed::errno).and_then(|request| handle(request, room, reply))
        };
        self.reply(tag, &response.unwrap_or_else(Response::Error), room, reply)
    }

    /// Ends the session: forgets every fid and closes its files. For a device that is reset.
    pub fn reset(&self) {
        self.msize.store(0, Ordering::Release);
        self.fids.clear();
        self.locks.clear();
    }

    /// What the client is held to: the limits given, with those on descriptors lowered to the process's.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What the server has done so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn reply<R: Reply + ?Sized>(
        &self,
        tag: Tag,
        response: &Response<'_>,
        room: usize,
        reply: &mut R,
    ) -> usize {
        let mut buffer = [0; LARGEST_ENCODED];
        let mut encode = |response: &Response<'_>| {
            let length = response.encode(tag, &mut buffer).ok()?;
            let total = length.checked_add(response.payload()).filter(|total| *total <= room)?;
            reply.write_at(0, &buffer[..length]).ok()?;
            if matches!(response, Response::Error(_)) {
                self.counters.error();
            }
            Some(total)
        };
        encode(response).or_else(|| encode(&Response::Error(Errno::MSGSIZE))).unwrap_or(0)
    }

    fn handle<'a, R: Reply + ?Sized>(
        &self,
        request: Request<'a>,
        room: usize,
        reply: &mut R,
    ) -> Result<Response<'a>, Errno> {
        if let Request::Version { msize, version } = request {
            return self.version(msize, version);
        }
        if self.msize.load(Ordering::Acquire) == 0 {
            return Err(Errno::PROTO);
        }
        match request {
            Request::Version { msize, version } => self.version(msize, version),
            Request::Auth { .. } => Err(Errno::OPNOTSUPP),
            Request::Attach { fid, afid, aname, .. } => self.attach(fid, afid, aname),
            // The transport's business: see `serve`.
            Request::Flush { .. } => Ok(Response::Empty { request: kind::TFLUSH }),
            Request::Walk { fid, new_fid, names } => self
                .walk(fid, new_fid, &names)
                .map(|Walked { qids, count, .. }| Response::Walk { qids, count }),
            Request::WalkAttributes { fid, new_fid, names } => {
                // Before there is a new fid: an error says that there is none.
                let here = names.steps().is_empty().then(|| self.attributes(fid)).transpose()?;
                let Walked { qids, count, attributes } = self.walk(fid, new_fid, &names)?;
                Ok(Response::WalkAttributes { qids, count, attributes: attributes.or(here) })
            }
            Request::WalkOpen { fid, new_fid, flags } => {
                self.walk_open(fid, new_fid, flags).map(Response::WalkOpen)
            }
            Request::Lopen { fid, flags } => {
                let state = self.fids.get(fid)?;
                self.open(&state, flags).map(Response::Lopen)
            }
            Request::Read { fid, offset, count } => self.read(fid, offset, count, room, reply),
            Request::Readdir { fid, offset, count } => self.readdir(fid, offset, count, room, reply),
            Request::Getattr { fid, .. } => self.attributes(fid).map(Response::Getattr),
            Request::Readlink { fid } => self.node(fid, Tree::read_link).map(Response::Readlink),
            Request::Statfs { fid } => self.node(fid, Tree::file_system).map(Response::Statfs),
            Request::Clunk { fid } => self.clunk(fid),
            Request::Fsync { fid, data_only } => self.sync(fid, data_only != 0),
            Request::Lock { fid, kind, start, length, proc_id, client_id, .. } => {
                self.lock(fid, kind, (start, length), (proc_id, client_id))
            }
            Request::Getlock { fid, kind, start, length, proc_id, client_id } => {
                self.get_lock(fid, kind, (start, length), (proc_id, client_id))
            }
            Request::Xattrwalk { fid, new_fid, name } => self.xattr_walk(fid, new_fid, name),
            Request::Xattrcreate { fid, name, size, flags } => self.xattr_create(fid, name, size, flags),
            Request::Lcreate { fid, name, flags, mode, gid } => self.create(fid, name, flags, mode, gid),
            Request::Write { fid, offset, data } => self.write(fid, offset, data),
            Request::Setattr { fid, attributes } => self.set_attributes(fid, &attributes),
            Request::Symlink { directory, name, target, gid } => {
                let qid = self.node(directory, |tree, at| tree.make_link(at, name, target, gid))?;
                Ok(Response::Made { request: kind::TSYMLINK, qid })
            }
            Request::Mknod { directory, name, mode, gid, .. } => {
                let qid = self.node(directory, |tree, at| tree.make_node(at, name, mode, gid))?;
                Ok(Response::Made { request: kind::TMKNOD, qid })
            }
            Request::Mkdir { directory, name, mode, gid } => {
                let qid = self.node(directory, |tree, at| tree.make_directory(at, name, mode, gid))?;
                Ok(Response::Made { request: kind::TMKDIR, qid })
            }
            Request::Link { directory, fid, name } => {
                let (at, state) = (self.fids.get(directory)?, self.fids.get(fid)?);
                self.tree.hard_link(&state.node, &at.node, name)?;
                Ok(Response::Empty { request: kind::TLINK })
            }
            Request::Rename { fid, directory, name } => {
                let (state, at) = (self.fids.get(fid)?, self.fids.get(directory)?);
                self.tree.rename_node(&state.node, &at.node, name)?;
                Ok(Response::Empty { request: kind::TRENAME })
            }
            Request::Renameat { old_directory, old_name, new_directory, new_name } => {
                let (old, new) = (self.fids.get(old_directory)?, self.fids.get(new_directory)?);
                self.tree.rename(&old.node, old_name, &new.node, new_name)?;
                Ok(Response::Empty { request: kind::TRENAMEAT })
            }
            Request::Unlinkat { directory, name, flags } => self.unlink(directory, name, flags),
            // Tremove clunks the fid even when it fails.
            Request::Remove { fid } => {
                let state = self.fids.remove(fid)?;
                self.unlock(&state);
                self.tree.remove_node(&state.node)?;
                Ok(Response::Empty { request: kind::TREMOVE })
            }
        }
    }

    /// Tversion: starts a session anew. msize becomes the smaller of the client's and the server's; less than
    /// [`MIN_MSIZE`] is `EINVAL`. Any version but 9P2000.L is answered with "unknown", and no session starts.
    fn version(&self, msize: u32, version: &[u8]) -> Result<Response<'static>, Errno> {
        self.reset();
        if msize < MIN_MSIZE {
            return Err(Errno::INVAL);
        }
        let msize = msize.min(self.limits.msize);
        if version != VERSION {
            return Ok(Response::Version { msize, version: b"unknown" });
        }
        self.msize.store(msize, Ordering::Release);
        Ok(Response::Version { msize, version: VERSION })
    }

    fn attach(&self, fid: Fid, afid: Fid, aname: &[u8]) -> Result<Response<'static>, Errno> {
        if afid != Fid::NONE {
            return Err(Errno::INVAL);
        }
        // One export, one root: parts of it have no names of their own.
        if !matches!(aname, b"" | b"/") {
            return Err(Errno::NOENT);
        }
        let (root, qid) = self.tree.root()?;
        self.fids.insert(fid, FidState::new(root))?;
        Ok(Response::Attach(qid))
    }

    /// Opens what a fid stands for.
    fn open(&self, state: &FidState, flags: u32) -> Result<Qid, Errno> {
        use open_flags::{ACCESS_MODE, APPEND, CREATE, DIRECTORY, TRUNCATE};
        if state.handle().is_some() {
            return Err(Errno::BADF);
        }
        let node = &state.node;
        if flags & (ACCESS_MODE | CREATE | TRUNCATE | APPEND) != 0 {
            self.tree.writable(node)?;
        }
        if node.is_directory() {
            if flags & (ACCESS_MODE | TRUNCATE) != 0 {
                return Err(Errno::ISDIR);
            }
        } else if flags & DIRECTORY != 0 {
            return Err(Errno::NOTDIR);
        }
        let permit = self.open_files.take().ok_or(Errno::NFILE)?;
        let (handle, qid) = self.open_node(node, flags)?;
        state.open(Open { handle, _permit: permit })?;
        Ok(qid)
    }

    fn open_node(&self, node: &Arc<Node>, flags: u32) -> Result<(Handle, Qid), Errno> {
        let grant = self.tree.grant(node);
        if grant.is_some_and(|grant| matches!(grant.backing, Backing::Nothing)) {
            let qid = self.tree.attributes(node)?.qid;
            return Ok((Handle::Directory(Directory::own()), qid));
        }
        if grant.is_some_and(|grant| matches!(grant.backing, Backing::Symlink(_))) {
            return Err(Errno::LOOP);
        }
        if node.is_directory() {
            let (file, metadata) = self.tree.open_host(node, OFlags::RDONLY)?;
            let qid = self.tree.host_attributes(node, &metadata).qid;
            return Ok((Handle::Directory(Directory::host(file)), qid));
        }
        let how = host_flags(flags)?;
        let open = || self.tree.open_host(node, how);
        let (file, metadata, counted) = match self.tree.quota(node) {
            Some(quota) => {
                let look = || how.contains(OFlags::TRUNC).then(|| self.tree.metadata(node)).transpose();
                let (file, metadata, counted) = quota.open(look, open)?;
                (file, metadata, Some(counted))
            }
            None => {
                let (file, metadata) = open()?;
                (file, metadata, None)
            }
        };
        let qid = self.tree.host_attributes(node, &metadata).qid;
        Ok((Handle::File(opened(file, how, &metadata, counted)), qid))
    }

    /// Tread: from the file into the reply, without a copy or an allocation of ours.
    fn read<R: Reply + ?Sized>(
        &self,
        fid: Fid,
        offset: u64,
        count: u32,
        room: usize,
        reply: &mut R,
    ) -> Result<Response<'static>, Errno> {
        let state = self.fids.get(fid)?;
        let file = match state.handle() {
            Some(Handle::File(open)) => &open.file,
            Some(Handle::Directory(_)) => return Err(Errno::ISDIR),
            Some(Handle::Xattr(xattr)) => {
                let count = xattr.read(offset, data_room(count, room), reply)?;
                return Ok(Response::Data { kind: kind::TREAD + 1, count });
            }
            None => return Err(Errno::BADF),
        };
        // pread takes a signed offset.
        i64::try_from(offset).map_err(|_| Errno::INVAL)?;
        let asked = data_room(count, room);
        let count = reply
            .read_file_at(DATA_HEADER, asked, std::os::fd::AsFd::as_fd(file), offset)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?
            .min(asked);
        self.counters.read(count);
        Ok(Response::Data { kind: kind::TREAD + 1, count })
    }

    fn readdir<R: Reply + ?Sized>(
        &self,
        fid: Fid,
        offset: u64,
        count: u32,
        room: usize,
        reply: &mut R,
    ) -> Result<Response<'static>, Errno> {
        let state = self.fids.get(fid)?;
        let directory = match state.handle() {
            Some(Handle::Directory(directory)) => directory,
            Some(Handle::File(_) | Handle::Xattr(_)) => return Err(Errno::NOTDIR),
            None => return Err(Errno::BADF),
        };
        let count = directory.read(&self.tree, &state.node, offset, data_room(count, room), reply)?;
        Ok(Response::Data { kind: kind::TREADDIR + 1, count })
    }

    fn attributes(&self, fid: Fid) -> Result<Attributes, Errno> {
        let state = self.fids.get(fid)?;
        // A file that was unlinked while it is open still has attributes.
        match state.handle() {
            Some(Handle::File(open)) => {
                Ok(self.tree.host_attributes(&state.node, &host::metadata(&open.file)?))
            }
            _ => self.tree.attributes(&state.node),
        }
    }

    fn node<T>(&self, fid: Fid, ask: impl FnOnce(&Tree, &Arc<Node>) -> Result<T, Errno>) -> Result<T, Errno> {
        ask(&self.tree, &self.fids.get(fid)?.node)
    }
}

/// A file just opened.
fn opened(file: OwnedFd, how: OFlags, metadata: &Metadata, counted: Option<Opened>) -> OpenFile {
    let writable = how.intersects(OFlags::WRONLY | OFlags::RDWR);
    let set_id = AtomicBool::new(writable && host_change::has_set_id(metadata.attributes.mode));
    OpenFile { file, writable, set_id, counted }
}

/// What of a client's open flags the host is told.
///
/// `O_APPEND` goes with `O_WRONLY` only. A Twrite has its own offset, which the host then ignores: right for
/// a client without a cache, which has just asked where the end is. A client with a write-back cache opens
/// for reading, too, and may write a page for the second time.
fn host_flags(flags: u32) -> Result<OFlags, Errno> {
    use open_flags::{ACCESS_MODE, APPEND, DATA_SYNC, READ_WRITE, SYNC, TRUNCATE, WRITE_ONLY};
    let access = match flags & ACCESS_MODE {
        0 => OFlags::RDONLY,
        WRITE_ONLY => OFlags::WRONLY,
        READ_WRITE => OFlags::RDWR,
        _ => return Err(Errno::INVAL),
    };
    let given = |bit: u32, flag: OFlags| if flags & bit != 0 { flag } else { OFlags::empty() };
    let append = if access == OFlags::WRONLY { given(APPEND, OFlags::APPEND) } else { OFlags::empty() };
    // A file is never both: the bit of O_DSYNC is a part of O_SYNC.
    Ok(access
        | append
        | given(TRUNCATE, OFlags::TRUNC)
        | given(DATA_SYNC, OFlags::DSYNC)
        | given(SYNC, OFlags::SYNC))
}

/// How many bytes of data to put into an Rread or Rreaddir.
fn data_room(count: u32, room: usize) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX).min(room.saturating_sub(DATA_HEADER))
}
