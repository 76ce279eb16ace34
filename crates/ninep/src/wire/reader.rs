//! Reads the fields of one message, each with its bound checked.

use rustix::io::Errno;

use super::{Fid, Name, Step};

/// Why a message is refused before it reaches the server's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The message ends inside a field.
    #[error("decode a 9P message: it ends inside a field")]
    Truncated,
    /// The size in the header is not the number of bytes received.
    #[error("decode a 9P message: its size field disagrees with its length")]
    Size,
    /// Bytes follow the last field.
    #[error("decode a 9P message: bytes follow its last field")]
    Trailing,
    /// No such message in 9P2000.L, or one that only a server sends.
    #[error("decode a 9P message: unknown type")]
    Type,
    /// A name is empty, or holds `/` or NUL, or is `.` or `..` where an entry is named.
    #[error("decode a 9P message: not a name of a directory entry")]
    Name,
    /// A name has more than 255 bytes.
    #[error("decode a 9P message: a name is longer than 255 bytes")]
    LongName,
    /// A Twalk has more than 16 names.
    #[error("decode a 9P message: more than 16 names in a walk")]
    Walk,
}

impl Malformed {
    /// The error number that the client is told.
    #[must_use]
    pub fn errno(self) -> Errno {
        match self {
            Self::Truncated | Self::Size | Self::Trailing => Errno::PROTO,
            Self::Type => Errno::OPNOTSUPP,
            Self::Name | Self::Walk => Errno::INVAL,
            Self::LongName => Errno::NAMETOOLONG,
        }
    }
}

/// The part of a message that is not read yet.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn fid(&mut self) -> Result<Fid, Malformed> {
        self.u32().map(Fid)
    }

    /// A string of any bytes: Linux names and links need not be UTF-8.
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u16()?;
        self.bytes(length.into())
    }

    pub fn name(&mut self) -> Result<Name<'a>, Malformed> {
        Name::new(self.string()?)
    }

    pub fn step(&mut self) -> Result<Step<'a>, Malformed> {
        Step::new(self.string()?)
    }
}
