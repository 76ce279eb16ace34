//! The system calls on the host's files, and the flags that keep them inside an export.
//!
//! Needs Linux 5.6 (`openat2`). The calls, for a filter: `openat`, `openat2`, `statx`, `fstatfs`,
//! `readlinkat`, `pread64`, `lseek`, `getdents64`, `close`.

pub(crate) mod change;
pub(crate) mod lock;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, SeekFrom, StatxFlags, StatxTimestamp, fstatfs,
    makedev, openat, openat2, readlinkat, seek, statx,
};
use rustix::io::Errno;

use crate::identity::{Identity, Origin, Region, qid_version};
use crate::wire::{Attributes, FileSystem, Name, PATH_MAX, Time};

/// How often a lookup that lost a race against a rename on the host is tried.
const LOOKUP_TRIES: usize = 16;

/// `statfs.f_type` of a 9P file system.
pub(crate) const V9FS_MAGIC: u32 = 0x0102_1997;

/// `statfs.f_type` of procfs.
const PROC_SUPER_MAGIC: u32 = 0x9fa0;

/// Opens what a grant names, without the right to read it. Only before the server runs.
pub(crate) fn open_granted(path: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// Opens the directory through which a descriptor is turned into one that can be read.
pub(crate) fn open_descriptor_directory() -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, "/proc/self/fd", flags, Mode::empty())
}

/// The process's umask, which can't be asked for by a system call without changing it. Only before the server
/// runs.
pub(crate) fn umask() -> Result<u32, Errno> {
    let status = std::fs::read("/proc/self/status")
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let value = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Umask:"));
    let value = value.and_then(|value| str::from_utf8(value).ok()).map(str::trim);
    // Linux says it since 4.7.
    value.and_then(|value| u32::from_str_radix(value, 8).ok()).ok_or(Errno::NOSYS)
}

/// Opens an entry of a directory, whatever it is and without touching it.
///
/// One name, so there is no path to resolve; a symbolic link is opened as the link it is; and the kernel
/// itself refuses to leave the directory. Mount points are crossed: the share is what the host's user sees.
pub(crate) fn open_child(directory: impl AsFd, name: Name<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut result = Err(Errno::AGAIN);
    for _ in 0..LOOKUP_TRIES {
        result = beneath(directory.as_fd(), name, flags, Mode::empty());
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    result
}

/// Opens one name of a directory, and nothing that is elsewhere.
fn beneath(directory: BorrowedFd<'_>, name: Name<'_>, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(directory, name.as_bytes(), flags, mode, resolve)
}

/// Opens the regular file or directory behind an `O_PATH` descriptor: `how` is the access, and what of
/// `O_TRUNC`, `O_APPEND` and `O_SYNC` is wanted.
///
/// The caller has seen that it is one of these: opening a FIFO could block, and opening a device act.
pub(crate) fn reopen(
    descriptor_directory: &OwnedFd,
    descriptor: &OwnedFd,
    file_type: FileType,
    how: OFlags,
) -> Result<OwnedFd, Errno> {
    let kind = match file_type {
        FileType::Directory => OFlags::DIRECTORY,
        FileType::RegularFile => OFlags::empty(),
        FileType::Symlink => return Err(Errno::LOOP),
        _ => return Err(Errno::ACCESS),
    };
    let flags = how | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | kind;
    let number = rustix::path::DecInt::from_fd(descriptor);
    openat(descriptor_directory, number.as_c_str(), flags, Mode::empty())
}

/// What `statx` says of an open file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metadata {
    pub file_type: FileType,
    pub device: u64,
    pub inode: u64,
    /// All but the qid's path and kind.
    pub attributes: Attributes,
}

impl Metadata {
    pub fn identity(&self, region: Region) -> Identity {
        let origin = Origin::Host { region, device: self.device };
        Identity { origin, inode: self.inode, file_type: self.file_type }
    }
}

pub(crate) fn metadata(descriptor: impl AsFd) -> Result<Metadata, Errno> {
    let stat = statx(descriptor, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    let mode = u32::from(stat.stx_mode);
    let mut attributes = Attributes {
        mode,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        nlink: stat.stx_nlink.into(),
        rdev: makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        size: stat.stx_size,
        blksize: stat.stx_blksize.into(),
        blocks: stat.stx_blocks,
        atime: time(stat.stx_atime),
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        ..Attributes::default()
    };
    attributes.qid.version = qid_version(attributes.mtime, attributes.ctime);
    Ok(Metadata {
        file_type: FileType::from_raw_mode(mode),
        device: makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        attributes,
    })
}

fn time(time: StatxTimestamp) -> Time {
    Time { sec: time.tv_sec, nsec: time.tv_nsec }
}

/// Reads the symbolic link that a descriptor is.
pub(crate) fn read_link(descriptor: impl AsFd) -> Result<Vec<u8>, Errno> {
    let target = readlinkat(descriptor, "", Vec::with_capacity(PATH_MAX))?.into_bytes();
    if target.len() < PATH_MAX { Ok(target) } else { Err(Errno::NAMETOOLONG) }
}

pub(crate) fn file_system(descriptor: impl AsFd) -> Result<FileSystem, Errno> {
    let stat = fstatfs(descriptor)?;
    Ok(FileSystem {
        // Magic numbers have 32 bits; a wider word holds them sign-extended or not.
        kind: stat.f_type as u32,
        bsize: u32::try_from(stat.f_bsize).unwrap_or(4096),
        blocks: stat.f_blocks,
        bfree: stat.f_bfree,
        bavail: stat.f_bavail,
        files: stat.f_files,
        ffree: stat.f_ffree,
        fsid: 0,
        namelen: u32::try_from(stat.f_namelen).unwrap_or(255),
    })
}

/// Whether a file is one of procfs, whose "regular files" are the memory and secrets of processes: of this
/// one, too.
pub(crate) fn is_proc(descriptor: impl AsFd) -> Result<bool, Errno> {
    // As above, 32 bits.
    Ok(fstatfs(descriptor)?.f_type as u32 == PROC_SUPER_MAGIC)
}

pub(crate) fn seek_to(descriptor: impl AsFd, cookie: u64) -> Result<(), Errno> {
    // lseek takes a signed offset: a client's larger number must not become a negative one.
    i64::try_from(cookie).map_err(|_| Errno::INVAL)?;
    seek(descriptor, SeekFrom::Start(cookie)).map(drop)
}
