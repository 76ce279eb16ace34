//! T-messages: everything the Linux client sends.

use super::reader::Reader;
use super::{Fid, HEADER, Malformed, Name, Step, Tag, WRITE_HEADER, kind};

/// The most names in a Twalk (`P9_MAXWELEM`).
pub const MAX_WALK: usize = 16;

/// A request; its names and data borrow from the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields have the specification's names")]
#[allow(clippy::large_enum_variant, reason = "a box would cost each Twalk an allocation")]
pub enum Request<'a> {
    /// Starts a session: negotiates msize, forgets every fid.
    Version { msize: u32, version: &'a [u8] },
    /// Asks for an authentication file.
    Auth { afid: Fid, uname: &'a [u8], aname: &'a [u8], n_uname: u32 },
    /// Makes `fid` the root of the export.
    Attach { fid: Fid, afid: Fid, uname: &'a [u8], aname: &'a [u8], n_uname: u32 },
    /// Abandons a request.
    Flush { old_tag: Tag },
    /// Makes `new_fid` what a path from `fid` leads to.
    Walk { fid: Fid, new_fid: Fid, names: Walk<'a> },
    /// Twalkattr: the same, and the attributes of what it leads to. Laid out as Twalk.
    WalkAttributes { fid: Fid, new_fid: Fid, names: Walk<'a> },
    /// Twalkopen: makes `new_fid` what `fid` is, and opens it.
    WalkOpen { fid: Fid, new_fid: Fid, flags: u32 },
    /// Opens `fid` for reading or writing.
    Lopen { fid: Fid, flags: u32 },
    /// Creates a file in the directory `fid` and makes `fid` that file, open.
    Lcreate { fid: Fid, name: Name<'a>, flags: u32, mode: u32, gid: u32 },
    /// Reads from an open file.
    Read { fid: Fid, offset: u64, count: u32 },
    /// Writes to an open file.
    Write { fid: Fid, offset: u64, data: &'a [u8] },
    /// Lists an open directory from the entry after the cookie `offset`.
    Readdir { fid: Fid, offset: u64, count: u32 },
    /// Reads attributes.
    Getattr { fid: Fid, mask: u64 },
    /// Changes attributes.
    Setattr { fid: Fid, attributes: SetAttributes },
    /// Reads a symbolic link.
    Readlink { fid: Fid },
    /// Reads the file system's figures.
    Statfs { fid: Fid },
    /// Forgets `fid`.
    Clunk { fid: Fid },
    /// Removes the file and forgets `fid`, in any case.
    Remove { fid: Fid },
    /// Writes a file back to its disk.
    Fsync { fid: Fid, data_only: u32 },
    /// Makes `new_fid` an extended attribute, or the list of them.
    Xattrwalk { fid: Fid, new_fid: Fid, name: &'a [u8] },
    /// Prepares `fid` for the value of an extended attribute.
    Xattrcreate { fid: Fid, name: &'a [u8], size: u64, flags: u32 },
    /// Takes or drops a record lock.
    Lock { fid: Fid, kind: LockKind, flags: u32, start: u64, length: u64, proc_id: u32, client_id: &'a [u8] },
    /// Asks who holds a record lock.
    Getlock { fid: Fid, kind: LockKind, start: u64, length: u64, proc_id: u32, client_id: &'a [u8] },
    /// Makes a symbolic link.
    Symlink { directory: Fid, name: Name<'a>, target: &'a [u8], gid: u32 },
    /// Makes a device, FIFO, socket or regular file.
    Mknod { directory: Fid, name: Name<'a>, mode: u32, major: u32, minor: u32, gid: u32 },
    /// Makes a directory.
    Mkdir { directory: Fid, name: Name<'a>, mode: u32, gid: u32 },
    /// Makes a hard link.
    Link { directory: Fid, fid: Fid, name: Name<'a> },
    /// Renames the file `fid`.
    Rename { fid: Fid, directory: Fid, name: Name<'a> },
    /// Renames a directory's entry.
    Renameat { old_directory: Fid, old_name: Name<'a>, new_directory: Fid, new_name: Name<'a> },
    /// Removes a directory's entry.
    Unlinkat { directory: Fid, name: Name<'a>, flags: u32 },
}

/// The type byte of a record lock (`P9_LOCK_TYPE_*`), whatever its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockKind(pub u8);

impl LockKind {
    /// `P9_LOCK_TYPE_RDLCK`.
    pub const READ: Self = Self(0);
    /// `P9_LOCK_TYPE_WRLCK`.
    pub const WRITE: Self = Self(1);
    /// `P9_LOCK_TYPE_UNLCK`.
    pub const UNLOCK: Self = Self(2);
}

/// The fields of Tsetattr after the fid; `valid` says which count (`P9_ATTR_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields have the specification's names")]
pub struct SetAttributes {
    pub valid: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub atime_sec: u64,
    pub atime_nsec: u64,
    pub mtime_sec: u64,
    pub mtime_nsec: u64,
}

/// The elements of a Twalk, at most [`MAX_WALK`].
#[derive(Clone, Copy)]
pub struct Walk<'a> {
    steps: [Step<'a>; MAX_WALK],
    length: usize,
}

impl<'a> Walk<'a> {
    /// A walk of no element, which copies a fid.
    pub const EMPTY: Self = Self { steps: [Step::Here; MAX_WALK], length: 0 };

    /// Appends an element.
    ///
    /// # Errors
    ///
    /// [`Malformed::Walk`] when there are 16 already.
    pub fn push(&mut self, step: Step<'a>) -> Result<(), Malformed> {
        *self.steps.get_mut(self.length).ok_or(Malformed::Walk)? = step;
        self.length += 1;
        Ok(())
    }

    /// The elements in order.
    #[must_use]
    pub fn steps(&self) -> &[Step<'a>] {
        &self.steps[..self.length]
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let mut walk = Self::EMPTY;
        for _ in 0..reader.u16()? {
            walk.push(reader.step()?)?;
        }
        Ok(walk)
    }
}

impl PartialEq for Walk<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.steps() == other.steps()
    }
}

impl Eq for Walk<'_> {}

impl std::fmt::Debug for Walk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.steps()).finish()
    }
}

/// What one message says, as far as it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The message's type, zero when it is too short to have one.
    pub kind: u8,
    /// The tag of the reply: the message's, or [`Tag::NONE`] when it is too short to have one.
    pub tag: Tag,
    /// The request.
    pub request: Result<Request<'a>, Malformed>,
}

impl<'a> Request<'a> {
    /// Decodes a message. It must be complete and alone: its size field equals its length.
    #[must_use]
    pub fn decode(message: &'a [u8]) -> Decoded<'a> {
        let mut reader = Reader::new(message);
        let Ok((size, kind, tag)) = read_header(&mut reader) else {
            return Decoded { kind: 0, tag: Tag::NONE, request: Err(Malformed::Truncated) };
        };
        let request = if usize::try_from(size) == Ok(message.len()) {
            Self::decode_body(kind, reader)
        } else {
            Err(Malformed::Size)
        };
        Decoded { kind, tag, request }
    }

    fn decode_body(kind: u8, mut reader: Reader<'a>) -> Result<Self, Malformed> {
        let r = &mut reader;
        // Rust evaluates the fields of a struct expression in the order written, which is the wire's.
        let request = match kind {
            kind::TVERSION => Self::Version { msize: r.u32()?, version: r.string()? },
            kind::TAUTH => {
                Self::Auth { afid: r.fid()?, uname: r.string()?, aname: r.string()?, n_uname: r.u32()? }
            }
            kind::TATTACH => Self::Attach {
                fid: r.fid()?,
                afid: r.fid()?,
                uname: r.string()?,
                aname: r.string()?,
                n_uname: r.u32()?,
            },
            kind::TFLUSH => Self::Flush { old_tag: Tag(r.u16()?) },
            kind::TWALK => Self::Walk { fid: r.fid()?, new_fid: r.fid()?, names: Walk::read(r)? },
            kind::TWALKATTR => {
                Self::WalkAttributes { fid: r.fid()?, new_fid: r.fid()?, names: Walk::read(r)? }
            }
            kind::TWALKOPEN => Self::WalkOpen { fid: r.fid()?, new_fid: r.fid()?, flags: r.u32()? },
            kind::TLOPEN => Self::Lopen { fid: r.fid()?, flags: r.u32()? },
            kind::TLCREATE => Self::Lcreate {
                fid: r.fid()?,
                name: r.name()?,
                flags: r.u32()?,
                mode: r.u32()?,
                gid: r.u32()?,
            },
            kind::TREAD => Self::Read { fid: r.fid()?, offset: r.u64()?, count: r.u32()? },
            kind::TWRITE => Self::Write { fid: r.fid()?, offset: r.u64()?, data: read_data(r)? },
            kind::TREADDIR => Self::Readdir { fid: r.fid()?, offset: r.u64()?, count: r.u32()? },
            kind::TGETATTR => Self::Getattr { fid: r.fid()?, mask: r.u64()? },
            kind::TSETATTR => Self::Setattr { fid: r.fid()?, attributes: SetAttributes::read(r)? },
            kind::TREADLINK => Self::Readlink { fid: r.fid()? },
            kind::TSTATFS => Self::Statfs { fid: r.fid()? },
            kind::TCLUNK => Self::Clunk { fid: r.fid()? },
            kind::TREMOVE => Self::Remove { fid: r.fid()? },
            // Linux before 3.0 and other clients leave the second field out.
            kind::TFSYNC => Self::Fsync { fid: r.fid()?, data_only: if r.is_empty() { 0 } else { r.u32()? } },
            kind::TXATTRWALK => Self::Xattrwalk { fid: r.fid()?, new_fid: r.fid()?, name: r.string()? },
            kind::TXATTRCREATE => {
                Self::Xattrcreate { fid: r.fid()?, name: r.string()?, size: r.u64()?, flags: r.u32()? }
            }
            kind::TLOCK => Self::Lock {
                fid: r.fid()?,
                kind: LockKind(r.u8()?),
                flags: r.u32()?,
                start: r.u64()?,
                length: r.u64()?,
                proc_id: r.u32()?,
                client_id: r.string()?,
            },
            kind::TGETLOCK => Self::Getlock {
                fid: r.fid()?,
                kind: LockKind(r.u8()?),
                start: r.u64()?,
                length: r.u64()?,
                proc_id: r.u32()?,
                client_id: r.string()?,
            },
            kind::TSYMLINK => {
                Self::Symlink { directory: r.fid()?, name: r.name()?, target: r.string()?, gid: r.u32()? }
            }
            kind::TMKNOD => Self::Mknod {
                directory: r.fid()?,
                name: r.name()?,
                mode: r.u32()?,
                major: r.u32()?,
                minor: r.u32()?,
                gid: r.u32()?,
            },
            kind::TMKDIR => {
                Self::Mkdir { directory: r.fid()?, name: r.name()?, mode: r.u32()?, gid: r.u32()? }
            }
            kind::TLINK => Self::Link { directory: r.fid()?, fid: r.fid()?, name: r.name()? },
            kind::TRENAME => Self::Rename { fid: r.fid()?, directory: r.fid()?, name: r.name()? },
            kind::TRENAMEAT => Self::Renameat {
                old_directory: r.fid()?,
                old_name: r.name()?,
                new_directory: r.fid()?,
                new_name: r.name()?,
            },
            kind::TUNLINKAT => Self::Unlinkat { directory: r.fid()?, name: r.name()?, flags: r.u32()? },
            _ => return Err(Malformed::Type),
        };
        if reader.is_empty() { Ok(request) } else { Err(Malformed::Trailing) }
    }
}

/// A Twrite without its data, which a transport left where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields have the specification's names")]
pub struct WriteHead {
    pub fid: Fid,
    pub offset: u64,
}

impl WriteHead {
    /// Decodes the start of a Twrite that `data` bytes follow; also returns the tag of the reply.
    ///
    /// # Errors
    ///
    /// What [`Request::decode`] would say of the whole message.
    pub fn decode(head: &[u8; WRITE_HEADER], data: usize) -> (Tag, Result<Self, Malformed>) {
        let mut reader = Reader::new(head);
        let Ok((size, kind, tag)) = read_header(&mut reader) else {
            return (Tag::NONE, Err(Malformed::Truncated));
        };
        let total = WRITE_HEADER.checked_add(data).and_then(|total| u32::try_from(total).ok());
        let decoded = match kind {
            _ if Some(size) != total => Err(Malformed::Size),
            kind::TWRITE => Self::read(&mut reader, data),
            _ => Err(Malformed::Type),
        };
        (tag, decoded)
    }

    fn read(r: &mut Reader<'_>, data: usize) -> Result<Self, Malformed> {
        let head = Self { fid: r.fid()?, offset: r.u64()? };
        let count = usize::try_from(r.u32()?).map_err(|_| Malformed::Truncated)?;
        match count.cmp(&data) {
            std::cmp::Ordering::Equal => Ok(head),
            std::cmp::Ordering::Less => Err(Malformed::Trailing),
            std::cmp::Ordering::Greater => Err(Malformed::Truncated),
        }
    }
}

impl SetAttributes {
    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            valid: r.u32()?,
            mode: r.u32()?,
            uid: r.u32()?,
            gid: r.u32()?,
            size: r.u64()?,
            atime_sec: r.u64()?,
            atime_nsec: r.u64()?,
            mtime_sec: r.u64()?,
            mtime_nsec: r.u64()?,
        })
    }
}

fn read_header(reader: &mut Reader<'_>) -> Result<(u32, u8, Tag), Malformed> {
    debug_assert_eq!(HEADER, 4 + 1 + 2);
    Ok((reader.u32()?, reader.u8()?, Tag(reader.u16()?)))
}

fn read_data<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let count = reader.u32()?;
    reader.bytes(usize::try_from(count).map_err(|_| Malformed::Truncated)?)
}
