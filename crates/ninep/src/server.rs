//! The server: one session of one client over one export.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::budget::Budget;
use crate::counters::Counters;
use crate::directory::Directory;
use crate::export::{Backing, Export};
use crate::fid::{FidState, FidTable, Handle, Open};
use crate::host;
use crate::reply::Reply;
use crate::tree::{Node, Tree};
use crate::wire::{
    Attributes, DATA_HEADER, ERROR_SIZE, Fid, HEADER, MAX_WALK, PATH_MAX, Qid, Request, Response, Tag,
    VERSION, Walk, kind, open_flags,
};

#[cfg(test)]
mod tests;

/// The smallest msize that a client may ask for, in bytes; the Linux client's own minimum.
pub const MIN_MSIZE: u32 = 4096;

/// The largest reply that is encoded in one piece: an Rreadlink.
const LARGEST_ENCODED: usize = HEADER + 2 + PATH_MAX;

/// What one client may make the server hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest message in bytes, at least [`MIN_MSIZE`]. The client may ask for less.
    pub msize: u32,
    /// Fids. Each costs about 300 bytes. The Linux client holds one for each name that it has cached, so
    /// that a walk through all of a large `/usr` needs some hundred thousand.
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
        Self { msize: 512_000, fids: 1 << 19, open_files: 16_384, descriptors: 4096 }
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
    max_msize: u32,
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
        // A node is a fid or stands above one; the client's own caches make most of them fids.
        let nodes = limits.fids.saturating_mul(2);
        Self {
            tree: Tree::new(export.into(), nodes, limits.descriptors.min(files / 4)),
            fids: FidTable::new(limits.fids),
            open_files: Budget::new(limits.open_files.min(files / 2)),
            max_msize: limits.msize.max(MIN_MSIZE),
            msize: AtomicU32::new(0),
            counters: Counters::new(),
        }
    }

    /// Serves one request, given whole, and returns the number of bytes of the reply.
    ///
    /// Whatever the request holds, the reply is one 9P message. It is 0 bytes long only if `reply` has no room
    /// for an Rlerror ([`ERROR_SIZE`] bytes) or refuses to be written to.
    pub fn serve<R: Reply + ?Sized>(&self, request: &[u8], reply: &mut R) -> usize {
        let decoded = Request::decode(request);
        self.counters.request(decoded.kind);
        let room = match self.msize.load(Ordering::Acquire) {
            0 => reply.capacity(),
            msize => reply.capacity().min(msize as usize),
        };
        if room < ERROR_SIZE {
            return 0;
        }
        let response = decoded
            .request
            .map_err(|malformed| malformed.errno())
            .and_then(|request| self.handle(request, room, reply))
            .unwrap_or_else(Response::Error);
        self.reply(decoded.tag, &response, room, reply)
    }

    /// Ends the session: forgets every fid and closes its files. For a device that is reset.
    pub fn reset(&self) {
        self.msize.store(0, Ordering::Release);
        self.fids.clear();
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
            // A request is answered before the next one is looked at, or by another thread: either way the
            // client may take its answer for too late, and this one may come first.
            Request::Flush { .. } => Ok(Response::Empty { request: kind::TFLUSH }),
            Request::Walk { fid, new_fid, names } => self.walk(fid, new_fid, &names),
            Request::Lopen { fid, flags } => self.open(fid, flags),
            Request::Read { fid, offset, count } => self.read(fid, offset, count, room, reply),
            Request::Readdir { fid, offset, count } => self.readdir(fid, offset, count, room, reply),
            Request::Getattr { fid, .. } => self.attributes(fid).map(Response::Getattr),
            Request::Readlink { fid } => self.node(fid, Tree::read_link).map(Response::Readlink),
            Request::Statfs { fid } => self.node(fid, Tree::file_system).map(Response::Statfs),
            Request::Clunk { fid } => {
                self.fids.remove(fid)?;
                Ok(Response::Empty { request: kind::TCLUNK })
            }
            Request::Fsync { fid, .. } => {
                self.fids.get(fid)?;
                Ok(Response::Empty { request: kind::TFSYNC })
            }
            // The locks of the guest's programs among themselves are kept by its kernel. Nobody else can see
            // them, and nobody else's matter: no file here can be written.
            Request::Lock { fid, .. } => {
                self.fids.get(fid)?;
                Ok(Response::Locked)
            }
            Request::Getlock { fid, start, length, proc_id, client_id, .. } => {
                self.fids.get(fid)?;
                Ok(Response::Unlocked { start, length, proc_id, client_id })
            }
            Request::Xattrwalk { fid, .. } => {
                self.fids.get(fid)?;
                Err(Errno::OPNOTSUPP)
            }
            // Tremove clunks the fid even when it fails.
            Request::Remove { fid } => {
                self.fids.remove(fid)?;
                Err(Errno::ROFS)
            }
            Request::Lcreate { fid, .. }
            | Request::Write { fid, .. }
            | Request::Setattr { fid, .. }
            | Request::Xattrcreate { fid, .. } => self.refuse_change([fid]),
            Request::Symlink { directory, .. }
            | Request::Mknod { directory, .. }
            | Request::Mkdir { directory, .. }
            | Request::Unlinkat { directory, .. } => self.refuse_change([directory]),
            Request::Link { directory, fid, .. } | Request::Rename { directory, fid, .. } => {
                self.refuse_change([directory, fid])
            }
            Request::Renameat { old_directory, new_directory, .. } => {
                self.refuse_change([old_directory, new_directory])
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
        let msize = msize.min(self.max_msize);
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

    /// Twalk: as far as it goes. An error at the first name is an error; later, the reply has the qids so far
    /// and the new fid is not made.
    fn walk(&self, fid: Fid, new_fid: Fid, names: &Walk<'_>) -> Result<Response<'static>, Errno> {
        let state = self.fids.get(fid)?;
        // A fid that is open must not become another file; one that is not open may.
        if fid == new_fid && state.handle().is_some() {
            return Err(Errno::INVAL);
        }
        let mut node = Arc::clone(&state.node);
        let mut qids = [Qid::default(); MAX_WALK];
        for (count, (step, slot)) in names.steps().iter().zip(&mut qids).enumerate() {
            match self.tree.step(&node, *step) {
                Ok((next, qid)) => (node, *slot) = (next, qid),
                Err(errno) if count == 0 => return Err(errno),
                Err(_) => return Ok(Response::Walk { qids, count }),
            }
        }
        let walked = FidState::new(node);
        if fid == new_fid {
            self.fids.replace(fid, &state, walked)?;
        } else {
            self.fids.insert(new_fid, walked)?;
        }
        Ok(Response::Walk { qids, count: names.steps().len() })
    }

    fn open(&self, fid: Fid, flags: u32) -> Result<Response<'static>, Errno> {
        use open_flags::{ACCESS_MODE, APPEND, CREATE, DIRECTORY, TRUNCATE};
        let state = self.fids.get(fid)?;
        if state.handle().is_some() {
            return Err(Errno::BADF);
        }
        if flags & (ACCESS_MODE | CREATE | TRUNCATE | APPEND) != 0 {
            return Err(Errno::ROFS);
        }
        let node = &state.node;
        if flags & DIRECTORY != 0 && !node.is_directory() {
            return Err(Errno::NOTDIR);
        }
        let permit = self.open_files.take().ok_or(Errno::NFILE)?;
        let (handle, qid) = self.open_node(node)?;
        state.open(Open { handle, _permit: permit })?;
        Ok(Response::Lopen(qid))
    }

    fn open_node(&self, node: &Arc<Node>) -> Result<(Handle, Qid), Errno> {
        let grant = self.tree.grant(node);
        if grant.is_some_and(|grant| matches!(grant.backing, Backing::Nothing)) {
            let qid = self.tree.attributes(node)?.qid;
            return Ok((Handle::Directory(Directory::own()), qid));
        }
        if grant.is_some_and(|grant| matches!(grant.backing, Backing::Symlink(_))) {
            return Err(Errno::LOOP);
        }
        let (file, qid) = self.tree.open_host(node)?;
        let handle =
            if node.is_directory() { Handle::Directory(Directory::host(file)) } else { Handle::File(file) };
        Ok((handle, qid))
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
            Some(Handle::File(file)) => file,
            Some(Handle::Directory(_)) => return Err(Errno::ISDIR),
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
            Some(Handle::File(_)) => return Err(Errno::NOTDIR),
            None => return Err(Errno::BADF),
        };
        let count = directory.read(&self.tree, &state.node, offset, data_room(count, room), reply)?;
        Ok(Response::Data { kind: kind::TREADDIR + 1, count })
    }

    fn attributes(&self, fid: Fid) -> Result<Attributes, Errno> {
        let state = self.fids.get(fid)?;
        // A file that was unlinked while it is open still has attributes.
        match state.handle() {
            Some(Handle::File(file)) => Ok(self.tree.host_attributes(&state.node, &host::metadata(file)?)),
            _ => self.tree.attributes(&state.node),
        }
    }

    fn node<T>(&self, fid: Fid, ask: impl FnOnce(&Tree, &Arc<Node>) -> Result<T, Errno>) -> Result<T, Errno> {
        ask(&self.tree, &self.fids.get(fid)?.node)
    }

    /// Every grant is read-only, so what would change anything is refused; for fids that do not exist, that is
    /// the first thing wrong.
    fn refuse_change<const N: usize>(&self, fids: [Fid; N]) -> Result<Response<'static>, Errno> {
        fids.iter().try_for_each(|fid| self.fids.get(*fid).map(drop))?;
        Err(Errno::ROFS)
    }
}

/// How many bytes of data to put into an Rread or Rreaddir.
fn data_room(count: u32, room: usize) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX).min(room.saturating_sub(DATA_HEADER))
}
