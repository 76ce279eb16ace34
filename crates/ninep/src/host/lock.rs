//! Record locks on the host's files that belong to an open file, not to this process (`fcntl(2)`, open file
//! description locks). For a filter: `fcntl`.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::io::Errno;

use crate::wire::LockKind;

/// Bytes of a file from `start` to `end`, both among them; `u64::MAX` is the end of every file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub start: u64,
    pub end: u64,
}

impl Range {
    /// Zero bytes mean all up to the end. `EINVAL` for what no file can have.
    pub fn new(start: u64, length: u64) -> Result<Self, Errno> {
        i64::try_from(start).map_err(|_| Errno::INVAL)?;
        let end = match length {
            0 => return Ok(Self { start, end: u64::MAX }),
            length => start.checked_add(length - 1).ok_or(Errno::INVAL)?,
        };
        // What reaches the last offset that there is means the same as no end at all.
        Ok(Self { start, end: if end >= i64::MAX as u64 { u64::MAX } else { end } })
    }

    /// In the terms of a message: zero bytes for no end.
    pub fn length(self) -> u64 {
        if self.end == u64::MAX { 0 } else { self.end - self.start + 1 }
    }
}

/// Sets a lock of `file`, or takes it off, without waiting: false when another holds it.
pub(crate) fn set(file: &OwnedFd, kind: LockKind, range: Range) -> Result<bool, Errno> {
    match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&flock(kind, range)?)) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(false),
        Err(errno) => Err(Errno::from_raw_os_error(errno as i32)),
    }
}

/// A lock of another that would be in the way: its kind, range and process, if it has one.
pub(crate) fn conflict(
    file: &OwnedFd,
    kind: LockKind,
    range: Range,
) -> Result<Option<(LockKind, Range, u32)>, Errno> {
    let mut lock = flock(kind, range)?;
    fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut lock))
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
    let kind = match i32::from(lock.l_type) {
        libc::F_RDLCK => LockKind::READ,
        libc::F_WRLCK => LockKind::WRITE,
        _ => return Ok(None),
    };
    let range = Range::new(lock.l_start.cast_unsigned(), lock.l_len.cast_unsigned())?;
    Ok(Some((kind, range, lock.l_pid.cast_unsigned())))
}

fn flock(kind: LockKind, range: Range) -> Result<libc::flock, Errno> {
    let l_type = match kind {
        LockKind::READ => libc::F_RDLCK,
        LockKind::WRITE => libc::F_WRLCK,
        LockKind::UNLOCK => libc::F_UNLCK,
        _ => return Err(Errno::INVAL),
    };
    Ok(libc::flock {
        l_type: l_type as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: i64::try_from(range.start).map_err(|_| Errno::INVAL)?,
        l_len: i64::try_from(range.length()).map_err(|_| Errno::INVAL)?,
        // Must be zero for locks of this kind.
        l_pid: 0,
    })
}
