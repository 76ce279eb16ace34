//! A disk's content: a raw image, open and locked.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock, fstatfs},
    io::Errno,
};

use crate::request::SECTOR;

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` (linux/magic.h): file systems whose files are in memory.
const IN_MEMORY: &[u64] = &[0x0102_1994, 0x8584_58f6];

/// Why an image can't be a disk.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It could not be opened.
    #[error("open it")]
    Open(#[source] io::Error),
    /// It could not be opened a second time, through `/proc/self/fd`.
    #[error("open it anew through /proc")]
    Reopen(#[source] io::Error),
    /// Its size could not be found out.
    #[error("find its size")]
    Size(#[source] io::Error),
    /// It is empty, or ends within a sector.
    #[error("{0} bytes are not a multiple of 512")]
    Length(u64),
    /// It is neither a regular file nor a block device.
    #[error("it is neither a file nor a block device")]
    Kind,
    /// Another process, or another disk of this one, has it.
    #[error("another virtual machine, or another program, uses it")]
    InUse,
    /// It could not be locked.
    #[error("lock it")]
    Lock(#[source] io::Error),
}

/// An open raw image. While this lives the image is locked (`flock(2)`): shared when read-only, else
/// exclusive, so that no two VMs write one file system.
#[derive(Debug)]
pub struct Image {
    /// For data. io_uring keeps it open for a while after its process was killed.
    file: File,
    /// An open file description of its own, so that the lock ends with this process.
    _lock: File,
    length: u64,
    read_only: bool,
    in_memory: bool,
}

impl Image {
    /// Opens the image at `path`, a regular file or a block device.
    ///
    /// # Errors
    ///
    /// It can't be opened, is in use, or has a size that is no multiple of 512.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, ImageError> {
        let file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(ImageError::Open)?;
        Self::from_file(file, read_only)
    }

    /// An image that is open already, for reading and, unless `read_only`, for writing; it may have no name.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn from_file(file: File, read_only: bool) -> Result<Self, ImageError> {
        use std::os::unix::fs::FileTypeExt;
        let kind = file.metadata().map_err(ImageError::Size)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(ImageError::Kind);
        }
        let operation = if read_only {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        flock(&file, operation).map_err(|e| match e {
            Errno::WOULDBLOCK => ImageError::InUse,
            e => ImageError::Lock(e.into()),
        })?;
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        let (lock, mut file) =
            (file, OpenOptions::new().read(true).write(!read_only).open(again).map_err(ImageError::Reopen)?);
        // A block device has no length but its end.
        let length = file.seek(SeekFrom::End(0)).map_err(ImageError::Size)?;
        if length == 0 || !length.is_multiple_of(SECTOR) {
            return Err(ImageError::Length(length));
        }
        let file_system = fstatfs(&file).map_err(|e| ImageError::Size(e.into()))?.f_type;
        let in_memory = kind.is_file() && IN_MEMORY.contains(&(file_system as u64));
        Ok(Self { file, _lock: lock, length, read_only, in_memory })
    }

    /// The disk's capacity in sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.length / SECTOR
    }

    /// Whether the guest can't write.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Whether no access ever waits for a disk.
    pub(crate) fn in_memory(&self) -> bool {
        self.in_memory
    }
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests;
