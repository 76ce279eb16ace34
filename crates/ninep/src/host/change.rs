//! The system calls that change the host's files. Only writable grants lead here.
//!
//! The calls, for a filter, beside those of the parent module: `openat` for writing, `mkdirat`, `mknodat`,
//! `symlinkat`, `linkat`, `renameat2`, `unlinkat`, `fchmodat`, `fchmod`, `fchownat`, `utimensat`,
//! `ftruncate`, `pwrite64`, `fsync`, `fdatasync`, and `fgetxattr`, `fsetxattr`, `flistxattr`,
//! `fremovexattr`.
//!
//! Each names one entry of an open directory, or an open file: there is no path to lead astray. A file that is
//! an `O_PATH` descriptor is reached through `/proc/self/fd`, as for reopening.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
    XattrFlags, chmodat, chownat, fgetxattr, flistxattr, fremovexattr, fsetxattr, linkat, mkdirat, mknodat,
    renameat_with, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::{LOOKUP_TRIES, beneath};
use crate::wire::{Name, SetAttributes, set_attributes as set};

/// `setuid`. No file gets it from a client: whoever ran it on the host would be the server's user.
const SET_UID: u32 = 0o4000;

/// `setgid`: as [`SET_UID`] on a file; on a directory it only says which group new files have.
const SET_GID: u32 = 0o2000;

const NANOSECONDS: u64 = 1_000_000_000;

/// The permissions that a client may give to a new or an old file.
pub(crate) fn permissions(mode: u32, file_type: FileType) -> u32 {
    let kept = if file_type == FileType::Directory { !SET_UID } else { !(SET_UID | SET_GID) };
    mode & 0o7777 & kept
}

/// Creates a regular file that was not there (`EEXIST`) and opens it.
pub(crate) fn create(directory: impl AsFd, name: Name<'_>, how: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = how | OFlags::CREATE | OFlags::EXCL | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(permissions(mode, FileType::RegularFile));
    let mut result = Err(Errno::AGAIN);
    for _ in 0..LOOKUP_TRIES {
        result = beneath(directory.as_fd(), name, flags, mode);
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    result
}

pub(crate) fn make_directory(directory: impl AsFd, name: Name<'_>, mode: u32) -> Result<(), Errno> {
    mkdirat(directory, name.as_bytes(), Mode::from_raw_mode(permissions(mode, FileType::Directory)))
}

/// Makes an empty regular file, or a FIFO, which nothing here ever opens. `EPERM` for all else.
pub(crate) fn make_node(directory: impl AsFd, name: Name<'_>, mode: u32) -> Result<(), Errno> {
    let file_type = match FileType::from_raw_mode(mode) {
        // Zero means a regular file, as for mknod(2).
        FileType::Unknown if mode & 0o170_000 == 0 => FileType::RegularFile,
        file_type @ (FileType::RegularFile | FileType::Fifo) => file_type,
        _ => return Err(Errno::PERM),
    };
    let mode = Mode::from_raw_mode(permissions(mode, file_type));
    mknodat(directory, name.as_bytes(), file_type, mode, 0)
}

pub(crate) fn make_link(directory: impl AsFd, name: Name<'_>, target: &[u8]) -> Result<(), Errno> {
    symlinkat(target, directory, name.as_bytes())
}

/// Gives an open file one more name.
pub(crate) fn hard_link(
    descriptor_directory: &OwnedFd,
    descriptor: &OwnedFd,
    directory: impl AsFd,
    name: Name<'_>,
) -> Result<(), Errno> {
    let number = DecInt::from_fd(descriptor);
    // The link in /proc is followed to the file itself, which may well be a symbolic link; no further.
    linkat(descriptor_directory, number.as_c_str(), directory, name.as_bytes(), AtFlags::SYMLINK_FOLLOW)
}

pub(crate) fn rename(
    old: impl AsFd,
    old_name: Name<'_>,
    new: impl AsFd,
    new_name: Name<'_>,
) -> Result<(), Errno> {
    renameat_with(old, old_name.as_bytes(), new, new_name.as_bytes(), RenameFlags::empty())
}

pub(crate) fn remove(directory: impl AsFd, name: Name<'_>, is_directory: bool) -> Result<(), Errno> {
    let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    unlinkat(directory, name.as_bytes(), flags)
}

/// Sets the permissions of what an `O_PATH` descriptor is; a symbolic link has none (`EOPNOTSUPP`).
pub(crate) fn set_mode(
    descriptor_directory: &OwnedFd,
    descriptor: impl AsFd,
    mode: u32,
) -> Result<(), Errno> {
    let number = DecInt::from_fd(descriptor);
    chmodat(descriptor_directory, number.as_c_str(), Mode::from_raw_mode(mode), AtFlags::empty())
}

/// Takes set-uid and set-gid off a file that is about to be written.
pub(crate) fn clear_set_id(file: &OwnedFd, mode: u32) -> Result<(), Errno> {
    rustix::fs::fchmod(file, Mode::from_raw_mode(permissions(mode, FileType::RegularFile)))
}

/// Whether writing to a file of this mode must take something off it.
pub(crate) fn has_set_id(mode: u32) -> bool {
    // Set-gid without the group's execution right once meant mandatory locking; no system has it any more.
    mode & (SET_UID | SET_GID) != 0
}

pub(crate) fn set_owner(descriptor: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    // All ones would mean "leave as it is" to the host: nobody's number.
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(Errno::INVAL);
    }
    chownat(descriptor, "", uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::EMPTY_PATH)
}

/// Sets the times that a Tsetattr names.
pub(crate) fn set_times(descriptor: impl AsFd, to: &SetAttributes) -> Result<(), Errno> {
    let times = Timestamps {
        last_access: timestamp(to.valid, set::ATIME, set::ATIME_SET, to.atime_sec, to.atime_nsec)?,
        last_modification: timestamp(to.valid, set::MTIME, set::MTIME_SET, to.mtime_sec, to.mtime_nsec)?,
    };
    utimensat(descriptor, "", &times, AtFlags::EMPTY_PATH)
}

fn timestamp(valid: u32, change: u32, given: u32, sec: u64, nsec: u64) -> Result<Timespec, Errno> {
    let special = |tv_nsec| Ok(Timespec { tv_sec: 0, tv_nsec });
    match (valid & change != 0, valid & given != 0) {
        (false, _) => special(UTIME_OMIT),
        (true, false) => special(UTIME_NOW),
        (true, true) if nsec < NANOSECONDS => {
            Ok(Timespec { tv_sec: sec.cast_signed(), tv_nsec: nsec.cast_signed() })
        }
        (true, true) => Err(Errno::INVAL),
    }
}

pub(crate) fn set_size(file: &OwnedFd, size: u64) -> Result<(), Errno> {
    i64::try_from(size).map_err(|_| Errno::INVAL)?;
    rustix::io::retry_on_intr(|| rustix::fs::ftruncate(file, size))
}

pub(crate) fn sync(file: &OwnedFd, data_only: bool) -> Result<(), Errno> {
    rustix::io::retry_on_intr(
        || {
            if data_only { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) }
        },
    )
}

/// The longest value of an extended attribute, and the longest list of their names (`XATTR_SIZE_MAX`).
pub(crate) const XATTR_MAX: usize = 64 << 10;

pub(crate) fn xattr(file: &OwnedFd, name: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut value = Vec::new();
    let length = rustix::fs::fgetxattr_query(file, name)?;
    // Room for what it may have grown by; beyond that the host says ERANGE.
    value.try_reserve_exact(length.saturating_add(64).min(XATTR_MAX)).map_err(|_| Errno::NOMEM)?;
    fgetxattr(file, name, rustix::buffer::spare_capacity(&mut value))?;
    Ok(value)
}

/// The names of all attributes, each with a NUL after it.
pub(crate) fn xattr_names(file: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut names = Vec::new();
    let length = rustix::fs::flistxattr_query(file)?;
    names.try_reserve_exact(length.saturating_add(512).min(XATTR_MAX)).map_err(|_| Errno::NOMEM)?;
    flistxattr(file, rustix::buffer::spare_capacity(&mut names))?;
    Ok(names)
}

pub(crate) fn set_xattr(file: &OwnedFd, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
    fsetxattr(file, name, value, XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?)
}

pub(crate) fn remove_xattr(file: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    fremovexattr(file, name)
}
