//! Fids that stand for an extended attribute: a value that is read, or one that is collected and set at the
//! end.

use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use crate::host::change;
use crate::reply::{Data, Reply};
use crate::wire::DATA_HEADER;

/// The attributes that clients have. Those of `trusted.` and `security.` mean something to the host.
const PREFIX: &[u8] = b"user.";

/// The longest name (`XATTR_NAME_MAX`).
const NAME_MAX: usize = 255;

/// `XATTR_REPLACE`. With no value it is how Linux's client removes an attribute.
const REPLACE: u32 = 2;

/// What a fid that is an extended attribute holds.
pub(crate) enum Xattr {
    /// A value, or the list of names.
    Read(Vec<u8>),
    Write(NewXattr),
}

/// An attribute to be set, once all of its value is there.
pub(crate) struct NewXattr {
    name: Box<[u8]>,
    flags: u32,
    value: Mutex<Value>,
}

struct Value {
    bytes: Vec<u8>,
    /// How many of them the client has written, from the start.
    written: usize,
}

/// What is to be done with an attribute.
pub(crate) enum Setting<'a> {
    Set { name: &'a [u8], value: &'a [u8], flags: u32 },
    Remove { name: &'a [u8] },
}

/// Whether a client may name this attribute: `EOPNOTSUPP` otherwise, as of a file system that has no such.
pub(crate) fn check_name(name: &[u8]) -> Result<(), Errno> {
    match name.strip_prefix(PREFIX) {
        Some(b"") | None => Err(Errno::OPNOTSUPP),
        Some(_) if name.len() > NAME_MAX => Err(Errno::RANGE),
        Some(rest) if rest.contains(&0) => Err(Errno::INVAL),
        Some(_) => Ok(()),
    }
}

/// Of a list of names with a NUL after each, those that a client may know.
pub(crate) fn visible(names: &[u8]) -> Vec<u8> {
    names
        .split_inclusive(|byte| *byte == 0)
        .filter(|name| name.starts_with(PREFIX))
        .flatten()
        .copied()
        .collect()
}

impl Xattr {
    /// Prepares for a value of `size` bytes.
    pub fn new(name: &[u8], size: u64, flags: u32) -> Result<Self, Errno> {
        check_name(name)?;
        let size =
            usize::try_from(size).ok().filter(|size| *size <= change::XATTR_MAX).ok_or(Errno::TOOBIG)?;
        let value = Mutex::new(Value { bytes: vec![0; size], written: 0 });
        Ok(Self::Write(NewXattr { name: name.into(), flags, value }))
    }

    pub fn read<R: Reply + ?Sized>(&self, offset: u64, room: usize, reply: &mut R) -> Result<usize, Errno> {
        let Self::Read(value) = self else { return Err(Errno::BADF) };
        let rest = usize::try_from(offset).ok().and_then(|offset| value.get(offset..)).unwrap_or_default();
        let part = rest.get(..room).unwrap_or(rest);
        reply
            .write_at(DATA_HEADER, part)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(part.len())
    }

    /// Takes the next part of the value.
    pub fn write<D: Data + ?Sized>(&self, offset: u64, data: &D) -> Result<usize, Errno> {
        let Self::Write(new) = self else { return Err(Errno::BADF) };
        let mut value = new.value.lock().unwrap_or_else(PoisonError::into_inner);
        let start =
            usize::try_from(offset).ok().filter(|start| *start == value.written).ok_or(Errno::INVAL)?;
        let end = start.checked_add(data.count()).ok_or(Errno::NOSPC)?;
        let room = value.bytes.get_mut(start..end).ok_or(Errno::NOSPC)?;
        data.copy_to(room).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        value.written = end;
        Ok(data.count())
    }

    /// At the end: hands what is to be done to `act`. `EINVAL` when the value is not all there.
    pub fn finish(&self, act: impl FnOnce(Setting<'_>) -> Result<(), Errno>) -> Result<(), Errno> {
        let Self::Write(new) = self else { return Ok(()) };
        let value = new.value.lock().unwrap_or_else(PoisonError::into_inner);
        if value.written != value.bytes.len() {
            return Err(Errno::INVAL);
        }
        if value.bytes.is_empty() && new.flags == REPLACE {
            return act(Setting::Remove { name: &new.name });
        }
        act(Setting::Set { name: &new.name, value: &value.bytes, flags: new.flags })
    }
}
