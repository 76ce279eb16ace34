//! Lists a directory: the host's entries, the grants inside it, or both.
//!
//! An entry's *cookie* says where to go on after it. Host entries have the host's own (`d_off`). Grants are
//! listed before them, with cookies in a range that host file systems leave alone; in a directory that exists
//! only in the server, the cookies count from 1. A cookie that the server never gave is harmless: the host's
//! kernel seeks within this one directory.
//!
//! An entry's qid comes from the entry itself, without a `stat`: its path is that of the walked file except
//! on a mount point, where the entry has the inode number of the directory below the mount, and its version is
//! 0. v9fs takes the type and the inode number from it, and nothing else.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

use crate::export::Backing;
use crate::host;
use crate::identity::Identity;
use crate::reply::Reply;
use crate::tree::{Node, Tree};
use crate::wire::{DATA_HEADER, NAME_MAX, Overflow, Qid, Writer};

/// Cookies of grants that stand in a directory of the host are this plus their number. ext4 has a hash of the
/// name in the upper half of its cookies and never uses this value, except with all ones below at the end;
/// other file systems use small numbers.
const GRANT_COOKIES: u64 = 0x7fff_ffff_0000_0000;

/// Bytes that `getdents64` fills at a time.
const BATCH: usize = 16 << 10;

/// Bytes of a `linux_dirent64` before its name.
const HOST_ENTRY: usize = 8 + 8 + 2 + 1;

/// The longest `linux_dirent64`: a name, its NUL, padding.
const LONGEST_HOST_ENTRY: usize = HOST_ENTRY + NAME_MAX + 1 + 7;

/// Bytes of an entry in an Rreaddir, without its name.
const ENTRY: usize = 13 + 8 + 1 + 2;

/// An open directory.
pub(crate) struct Directory {
    host: Option<Mutex<Stream>>,
}

/// A directory of the host, and where its file offset stands.
struct Stream {
    file: OwnedFd,
    /// The cookie it stands at, when that is known.
    position: Option<u64>,
}

impl Directory {
    /// A directory that exists only in the server.
    pub fn own() -> Self {
        Self { host: None }
    }

    pub fn host(file: OwnedFd) -> Self {
        Self { host: Some(Mutex::new(Stream { file, position: Some(0) })) }
    }

    /// Writes the directory back to its disk.
    pub fn sync(&self, data_only: bool) -> Result<(), Errno> {
        match &self.host {
            Some(stream) => {
                host::change::sync(&stream.lock().unwrap_or_else(PoisonError::into_inner).file, data_only)
            }
            None => Ok(()),
        }
    }

    /// Puts the entries after the cookie `offset` into `reply`, up to `room` bytes, and returns how many bytes
    /// they take. `EINVAL` when not even one fits, as `getdents64` does.
    pub fn read<R: Reply + ?Sized>(
        &self,
        tree: &Tree,
        node: &Arc<Node>,
        offset: u64,
        room: usize,
        reply: &mut R,
    ) -> Result<usize, Errno> {
        let mut buffer = [0; 4096];
        let mut entries =
            Entries { tree, writer: Writer::new(&mut buffer), flushed: 0, room, full: false, reply };
        let base = if self.host.is_some() { GRANT_COOKIES } else { 0 };
        let grants = tree.grant(node).map_or(0, |grant| grant.children.len());
        let mut from = offset;
        // A host's cookie at the end of a directory may be as large as a cookie can be: only those that were
        // given to grants count as theirs.
        let given = |offset: u64| offset.checked_sub(base).is_some_and(|index| index <= grants as u64);
        if self.host.is_none() || offset == 0 || given(offset) {
            entries.push_own(node, base, offset.saturating_sub(base))?;
            from = 0;
        }
        if let Some(stream) = &self.host
            && !entries.full
        {
            let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            stream.list(node, from, &mut entries)?;
        }
        entries.finish()
    }
}

impl Stream {
    /// Lists from a cookie of the host. On return the position is known unless an entry was read in vain.
    fn list<R: Reply + ?Sized>(
        &mut self,
        node: &Arc<Node>,
        from: u64,
        entries: &mut Entries<'_, R>,
    ) -> Result<(), Errno> {
        if self.position.take() != Some(from) {
            host::seek_to(&self.file, from)?;
        }
        let hidden = entries.tree.grant(node).map(|grant| &grant.children);
        let mut position = from;
        let mut batch = [MaybeUninit::uninit(); BATCH];
        let mut used = 0;
        let mut raw = RawDir::new(&self.file, &mut batch);
        loop {
            if raw.is_buffer_empty() {
                // The kernel left room for another entry, so it has most likely none. Asking again is left to
                // the client, which does so in any case.
                if used > 0 && BATCH - used >= LONGEST_HOST_ENTRY && !entries.is_empty() {
                    break;
                }
                used = 0;
            }
            let entry = match raw.next() {
                None => break,
                Some(Ok(entry)) => entry,
                // What was listed is delivered; the client comes back for the error.
                Some(Err(_)) if !entries.is_empty() => return Ok(()),
                Some(Err(errno)) => return Err(errno),
            };
            let name = entry.file_name().to_bytes();
            used = (used + HOST_ENTRY + name.len() + 1).next_multiple_of(8);
            let cookie = entry.next_entry_cookie();
            let identity = match name {
                b"." => node.identity(),
                b".." => node.parent().identity(),
                _ if hidden.is_some_and(|grants| grants.contains_key(name)) => {
                    position = cookie;
                    continue;
                }
                _ => Identity {
                    origin: node.identity().origin,
                    inode: entry.ino(),
                    file_type: entry.file_type(),
                },
            };
            if !entries.push(identity, cookie, name)? {
                return Ok(());
            }
            position = cookie;
        }
        self.position = Some(position);
        Ok(())
    }
}

/// Encodes entries into a reply, through a buffer.
struct Entries<'a, R: Reply + ?Sized> {
    tree: &'a Tree,
    writer: Writer<'a>,
    /// Bytes of entries that are in the reply.
    flushed: usize,
    room: usize,
    /// Whether an entry did not fit.
    full: bool,
    reply: &'a mut R,
}

impl<R: Reply + ?Sized> Entries<'_, R> {
    fn is_empty(&self) -> bool {
        self.flushed + self.writer.written().len() == 0
    }

    /// Adds what stands in the directory without the host, from the entry `first` on.
    fn push_own(&mut self, node: &Arc<Node>, base: u64, first: u64) -> Result<(), Errno> {
        let tree = self.tree;
        let Some(grant) = tree.grant(node) else { return Ok(()) };
        // The host lists `.` and `..` itself.
        let dots: &[(&[u8], Identity)] = match grant.backing {
            Backing::Nothing => &[(b".", node.identity()), (b"..", node.parent().identity())],
            _ => &[],
        };
        let children =
            grant.children.iter().map(|(name, id)| (name.as_name().as_bytes(), tree.granted(*id).identity));
        let entries = dots.iter().copied().chain(children);
        for ((name, identity), index) in entries.zip(1..).skip(usize::try_from(first).unwrap_or(usize::MAX)) {
            if !self.push(identity, base + index, name)? {
                break;
            }
        }
        Ok(())
    }

    /// Adds an entry if it fits.
    fn push(&mut self, identity: Identity, cookie: u64, name: &[u8]) -> Result<bool, Errno> {
        let length = ENTRY + name.len();
        if self.flushed + self.writer.written().len() + length > self.room {
            self.full = true;
            return Ok(false);
        }
        let qid = self.tree.entry_qid(identity);
        if self.encode(qid, identity.file_type, cookie, name).is_err() {
            self.flush()?;
            self.encode(qid, identity.file_type, cookie, name).map_err(|_| Errno::OVERFLOW)?;
        }
        Ok(true)
    }

    fn encode(&mut self, qid: Qid, file_type: FileType, cookie: u64, name: &[u8]) -> Result<(), Overflow> {
        if self.writer.room() < ENTRY + name.len() {
            return Err(Overflow);
        }
        self.writer.qid(qid)?;
        self.writer.u64(cookie)?;
        self.writer.u8(entry_type(file_type))?;
        self.writer.string(name)
    }

    fn flush(&mut self) -> Result<(), Errno> {
        let bytes = self.writer.written();
        self.reply
            .write_at(DATA_HEADER + self.flushed, bytes)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        self.flushed += bytes.len();
        self.writer.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<usize, Errno> {
        if !self.is_empty() {
            self.flush()?;
        } else if self.full {
            return Err(Errno::INVAL);
        }
        Ok(self.flushed)
    }
}

/// `DT_*` of a file type.
fn entry_type(file_type: FileType) -> u8 {
    match file_type {
        FileType::Fifo => 1,
        FileType::CharacterDevice => 2,
        FileType::Directory => 4,
        FileType::BlockDevice => 6,
        FileType::RegularFile => 8,
        FileType::Symlink => 10,
        FileType::Socket => 12,
        FileType::Unknown => 0,
    }
}
