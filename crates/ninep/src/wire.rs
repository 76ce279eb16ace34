//! The 9P2000.L wire format: a checked decoder that borrows from the request, and a bounded encoder.
//!
//! Integers are little-endian. A message is `size[4] type[1] tag[2]` and a body; a string is `len[2]` and
//! as many bytes. Nothing here touches a file.

mod reader;
mod request;
mod response;
mod writer;

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

pub use reader::Malformed;
#[cfg(any(test, feature = "testing"))]
pub(crate) use reader::Reader;
pub use request::{Decoded, LockKind, MAX_WALK, Request, SetAttributes, Walk, WriteHead};
pub use response::{Attributes, FileSystem, LockStatus, Response, Time};
pub use writer::{Overflow, Writer};

#[cfg(test)]
mod tests;

/// Bytes of `size[4] type[1] tag[2]`, the start of every message.
pub const HEADER: usize = 7;

/// Bytes before the data of an Rread or the entries of an Rreaddir: the header and `count[4]`.
pub const DATA_HEADER: usize = HEADER + 4;

/// Bytes of a Twrite before its data: the header, `fid[4] offset[8] count[4]`.
pub const WRITE_HEADER: usize = HEADER + 4 + 8 + 4;

/// Bytes of an Rlerror, which is the smallest room in which every request can be answered.
pub const ERROR_SIZE: usize = HEADER + 4;

/// The only version this crate speaks.
pub const VERSION: &[u8] = b"9P2000.L";

/// The longest name of a directory entry, in bytes (`NAME_MAX`).
pub const NAME_MAX: usize = 255;

/// The longest symbolic link, in bytes (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;

/// Names a file on the client's side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fid(pub u32);

impl Fid {
    /// `P9_NOFID`: no file. It never names one.
    pub const NONE: Self = Self(u32::MAX);
}

/// Ties a reply to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag(pub u16);

impl Tag {
    /// `P9_NOTAG`: the tag of Tversion, and of replies to messages too short to hold one.
    pub const NONE: Self = Self(u16::MAX);
}

/// A file's identity as the client sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Qid {
    /// Directory, symbolic link or other.
    pub kind: QidKind,
    /// Changes when the file does. v9fs does not cache a file whose version is zero.
    pub version: u32,
    /// Unique among the files of an export.
    pub path: u64,
}

/// The type byte of a qid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum QidKind {
    /// `P9_QTFILE`: a regular file, or a device, FIFO or socket.
    #[default]
    File = 0,
    /// `P9_QTSYMLINK`.
    Symlink = 0x02,
    /// `P9_QTDIR`.
    Directory = 0x80,
}

/// The name of a directory entry: 1 to 255 bytes without `/` and NUL, and neither `.` nor `..`.
///
/// A value of this type can be given to the host's kernel as one path component.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Checks a name.
    ///
    /// # Errors
    ///
    /// [`Malformed::Name`], or [`Malformed::LongName`] beyond 255 bytes.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match Step::new(bytes)? {
            Step::Child(name) => Ok(name),
            Step::Here | Step::Parent => Err(Malformed::Name),
        }
    }

    /// The name's bytes.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// A [`Name`] that owns its bytes; clones share them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnedName(Arc<[u8]>);

impl OwnedName {
    /// The name, borrowed.
    #[must_use]
    pub fn as_name(&self) -> Name<'_> {
        Name(&self.0)
    }
}

impl From<Name<'_>> for OwnedName {
    fn from(name: Name<'_>) -> Self {
        Self(name.0.into())
    }
}

/// So that a map of names can be asked with the bytes of one; both compare as bytes.
impl Borrow<[u8]> for OwnedName {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for OwnedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_name().fmt(f)
    }
}

/// One element of a Twalk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// `.`
    Here,
    /// `..`, which the server resolves in its own tree.
    Parent,
    /// An entry of the directory.
    Child(Name<'a>),
}

impl<'a> Step<'a> {
    /// Checks a walk element.
    ///
    /// # Errors
    ///
    /// [`Malformed::Name`] for an empty name or one with `/` or NUL, [`Malformed::LongName`] beyond 255
    /// bytes.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match bytes {
            b"." => Ok(Self::Here),
            b".." => Ok(Self::Parent),
            b"" => Err(Malformed::Name),
            _ if bytes.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(Malformed::Name),
            _ if bytes.len() > NAME_MAX => Err(Malformed::LongName),
            _ => Ok(Self::Child(Name(bytes))),
        }
    }

    /// The element as it was sent.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Here => b".",
            Self::Parent => b"..",
            Self::Child(name) => name.0,
        }
    }
}

/// Message types (`include/net/9p/9p.h`). A reply's type is its request's plus one.
pub mod kind {
    #![allow(missing_docs, reason = "the names are the specification's")]

    pub const RLERROR: u8 = 7;
    pub const TSTATFS: u8 = 8;
    pub const TLOPEN: u8 = 12;
    pub const TLCREATE: u8 = 14;
    pub const TSYMLINK: u8 = 16;
    pub const TMKNOD: u8 = 18;
    pub const TRENAME: u8 = 20;
    pub const TREADLINK: u8 = 22;
    pub const TGETATTR: u8 = 24;
    pub const TSETATTR: u8 = 26;
    pub const TXATTRWALK: u8 = 30;
    pub const TXATTRCREATE: u8 = 32;
    pub const TREADDIR: u8 = 40;
    pub const TFSYNC: u8 = 50;
    pub const TLOCK: u8 = 52;
    pub const TGETLOCK: u8 = 54;
    pub const TLINK: u8 = 70;
    pub const TMKDIR: u8 = 72;
    pub const TRENAMEAT: u8 = 74;
    pub const TUNLINKAT: u8 = 76;
    /// An extension of this server's, of which a client that speaks 9P2000.L alone knows nothing.
    pub const TWALKATTR: u8 = 80;
    /// Another.
    pub const TWALKOPEN: u8 = 82;
    pub const TVERSION: u8 = 100;
    pub const TAUTH: u8 = 102;
    pub const TATTACH: u8 = 104;
    pub const TFLUSH: u8 = 108;
    pub const TWALK: u8 = 110;
    pub const TREAD: u8 = 116;
    pub const TWRITE: u8 = 118;
    pub const TCLUNK: u8 = 120;
    pub const TREMOVE: u8 = 122;
}

/// Flags of Tlopen and Tlcreate (`P9_DOTL_*`), in the numbers of Linux on x86.
pub mod open_flags {
    #![allow(missing_docs, reason = "the names are the specification's")]

    pub const ACCESS_MODE: u32 = 0o3;
    pub const WRITE_ONLY: u32 = 0o1;
    pub const READ_WRITE: u32 = 0o2;
    pub const CREATE: u32 = 0o100;
    pub const EXCLUSIVE: u32 = 0o200;
    pub const TRUNCATE: u32 = 0o1000;
    pub const APPEND: u32 = 0o2000;
    pub const DATA_SYNC: u32 = 0o10_000;
    pub const DIRECTORY: u32 = 0o200_000;
    pub const SYNC: u32 = 0o4_000_000;
}

/// What a Tsetattr changes (`P9_ATTR_*`), bits of [`SetAttributes::valid`].
pub mod set_attributes {
    #![allow(missing_docs, reason = "the names are the specification's")]

    pub const MODE: u32 = 1;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const CTIME: u32 = 1 << 6;
    /// The access time is the one given, not the present.
    pub const ATIME_SET: u32 = 1 << 7;
    /// The modification time is the one given, not the present.
    pub const MTIME_SET: u32 = 1 << 8;
}

/// The flag of a Tunlinkat that removes a directory (`P9_DOTL_AT_REMOVEDIR`).
pub const REMOVE_DIRECTORY: u32 = 0x200;

/// `P9_GETATTR_BASIC`: mode, nlink, uid, gid, rdev, times, inode number, size and blocks.
pub const GETATTR_BASIC: u64 = 0x7ff;
