//! R-messages: what the server answers.

use rustix::io::Errno;

use super::request::MAX_WALK;
use super::writer::{Overflow, Writer};
use super::{GETATTR_BASIC, LockKind, Qid, Tag, kind};

/// A reply. The data of [`Self::Data`] stands in the reply's buffer already.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields have the specification's names")]
pub enum Response<'a> {
    /// Rlerror.
    Error(Errno),
    /// Rversion.
    Version { msize: u32, version: &'a [u8] },
    /// Rattach.
    Attach(Qid),
    /// Rwalk: one qid for each element that was walked.
    Walk { qids: [Qid; MAX_WALK], count: usize },
    /// Rwalkattr: as Rwalk, and when every element was walked, as Rgetattr behind it.
    WalkAttributes { qids: [Qid; MAX_WALK], count: usize, attributes: Option<Attributes> },
    /// Rlopen. The unit of input and output is left to the client, which takes msize - 24.
    Lopen(Qid),
    /// Rwalkopen, as Rlopen.
    WalkOpen(Qid),
    /// Rlcreate, as Rlopen.
    Lcreate(Qid),
    /// Rmkdir, Rmknod or Rsymlink: the reply to a request of this type.
    Made { request: u8, qid: Qid },
    /// Rwrite: how many bytes were written.
    Write { count: u32 },
    /// Rxattrwalk: the size of the value or of the list of names.
    Xattrwalk { size: u64 },
    /// Rread or Rreaddir, of `count` bytes.
    Data { kind: u8, count: usize },
    /// Rgetattr.
    Getattr(Attributes),
    /// Rreadlink.
    Readlink(Vec<u8>),
    /// Rstatfs.
    Statfs(FileSystem),
    /// Rlock.
    Lock(LockStatus),
    /// Rgetlock: what is in the way, or [`LockKind::UNLOCK`] when nothing is.
    Getlock { kind: LockKind, start: u64, length: u64, proc_id: u32, client_id: &'a [u8] },
    /// A reply without a body, to a request of this type.
    Empty { request: u8 },
}

/// How a Tlock ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LockStatus {
    /// `P9_LOCK_SUCCESS`.
    Success = 0,
    /// `P9_LOCK_BLOCKED`: another holds it; the client may ask again.
    Blocked = 1,
}

/// Seconds and nanoseconds since 1970. Times before it are two's complement, as Linux reads them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "two plain fields")]
pub struct Time {
    pub sec: i64,
    pub nsec: u32,
}

/// What Rgetattr says: `P9_GETATTR_BASIC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields have the names of stat(2)")]
pub struct Attributes {
    pub qid: Qid,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u64,
    pub rdev: u64,
    pub size: u64,
    pub blksize: u64,
    pub blocks: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
}

/// What Rstatfs says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields have the names of statfs(2)")]
pub struct FileSystem {
    pub kind: u32,
    pub bsize: u32,
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
    pub fsid: u64,
    pub namelen: u32,
}

impl Response<'_> {
    /// The message's type.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Self::Error(_) => kind::RLERROR,
            Self::Version { .. } => kind::TVERSION + 1,
            Self::Attach(_) => kind::TATTACH + 1,
            Self::Walk { .. } => kind::TWALK + 1,
            Self::WalkAttributes { .. } => kind::TWALKATTR + 1,
            Self::Lopen(_) => kind::TLOPEN + 1,
            Self::WalkOpen(_) => kind::TWALKOPEN + 1,
            Self::Lcreate(_) => kind::TLCREATE + 1,
            Self::Made { request, .. } => request.wrapping_add(1),
            Self::Write { .. } => kind::TWRITE + 1,
            Self::Xattrwalk { .. } => kind::TXATTRWALK + 1,
            Self::Data { kind, .. } => *kind,
            Self::Getattr(_) => kind::TGETATTR + 1,
            Self::Readlink(_) => kind::TREADLINK + 1,
            Self::Statfs(_) => kind::TSTATFS + 1,
            Self::Lock(_) => kind::TLOCK + 1,
            Self::Getlock { .. } => kind::TGETLOCK + 1,
            Self::Empty { request } => request.wrapping_add(1),
        }
    }

    /// Bytes of the message that stand in the reply's buffer already.
    #[must_use]
    pub fn payload(&self) -> usize {
        match self {
            Self::Data { count, .. } => *count,
            _ => 0,
        }
    }

    /// Encodes the message but for its payload, and returns the number of bytes.
    ///
    /// # Errors
    ///
    /// [`Overflow`] when `buffer` is too small.
    pub fn encode(&self, tag: Tag, buffer: &mut [u8]) -> Result<usize, Overflow> {
        let mut writer = Writer::new(buffer);
        writer.header()?;
        self.encode_body(&mut writer)?;
        writer.finish(self.kind(), tag, self.payload())
    }

    fn encode_body(&self, w: &mut Writer<'_>) -> Result<(), Overflow> {
        match self {
            Self::Error(errno) => w.u32(errno.raw_os_error().unsigned_abs()),
            Self::Version { msize, version } => {
                w.u32(*msize)?;
                w.string(version)
            }
            Self::Attach(qid) | Self::Made { qid, .. } => w.qid(*qid),
            Self::Write { count } => w.u32(*count),
            Self::Xattrwalk { size } => w.u64(*size),
            Self::Walk { qids, count } => encode_walk(w, qids, *count),
            Self::WalkAttributes { qids, count, attributes } => {
                encode_walk(w, qids, *count)?;
                attributes.iter().try_for_each(|attributes| attributes.encode(w))
            }
            Self::Lopen(qid) | Self::WalkOpen(qid) | Self::Lcreate(qid) => {
                w.qid(*qid)?;
                w.u32(0)
            }
            Self::Data { count, .. } => w.u32(u32::try_from(*count).map_err(|_| Overflow)?),
            Self::Getattr(attributes) => attributes.encode(w),
            Self::Readlink(target) => w.string(target),
            Self::Statfs(file_system) => file_system.encode(w),
            Self::Lock(status) => w.u8(*status as u8),
            Self::Getlock { kind, start, length, proc_id, client_id } => {
                w.u8(kind.0)?;
                w.u64(*start)?;
                w.u64(*length)?;
                w.u32(*proc_id)?;
                w.string(client_id)
            }
            Self::Empty { .. } => Ok(()),
        }
    }
}

fn encode_walk(w: &mut Writer<'_>, qids: &[Qid], count: usize) -> Result<(), Overflow> {
    w.u16(u16::try_from(count).map_err(|_| Overflow)?)?;
    qids.get(..count).ok_or(Overflow)?.iter().try_for_each(|qid| w.qid(*qid))
}

impl Attributes {
    fn encode(&self, w: &mut Writer<'_>) -> Result<(), Overflow> {
        w.u64(GETATTR_BASIC)?;
        w.qid(self.qid)?;
        w.u32(self.mode)?;
        w.u32(self.uid)?;
        w.u32(self.gid)?;
        for value in [self.nlink, self.rdev, self.size, self.blksize, self.blocks] {
            w.u64(value)?;
        }
        for time in [self.atime, self.mtime, self.ctime] {
            w.u64(time.sec.cast_unsigned())?;
            w.u64(time.nsec.into())?;
        }
        // btime (two fields), gen and data_version are not among the basic attributes.
        w.bytes(&[0; 4 * 8])
    }
}

impl FileSystem {
    fn encode(&self, w: &mut Writer<'_>) -> Result<(), Overflow> {
        w.u32(self.kind)?;
        w.u32(self.bsize)?;
        for value in [self.blocks, self.bfree, self.bavail, self.files, self.ffree, self.fsid] {
            w.u64(value)?;
        }
        w.u32(self.namelen)
    }
}
