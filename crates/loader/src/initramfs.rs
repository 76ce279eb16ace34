//! The initramfs: several cpio archives, one after the other, at the end of usable RAM.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{
    Error, LoadedKernel,
    boot::ram_below_hole,
    image::open_file,
    layout::{HOLE_START, PAGE_SIZE},
};

/// The kernel skips zeroes between archives, and wants each at a multiple of this.
const ALIGNMENT: u64 = 4;

/// A part of the initramfs. Linux unpacks one after the other into the same tree.
#[derive(Debug)]
pub enum InitramfsSource {
    /// A file, read straight into guest memory.
    File(InitramfsFile),
    /// A cpio archive in memory.
    Bytes(Vec<u8>),
}

/// An open file that becomes a part of the initramfs.
#[derive(Debug)]
pub struct InitramfsFile {
    path: PathBuf,
    file: File,
    size: u64,
}

/// Where the initramfs lies in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitramfsRange {
    /// Guest-physical address, page-aligned.
    pub address: u32,
    /// Size in bytes.
    pub size: u32,
}

impl InitramfsSource {
    /// Opens a file: a cpio archive, possibly compressed in a way that the guest's kernel knows.
    ///
    /// # Errors
    ///
    /// When it can't be opened or is no regular file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let open_error = |source| Error::Open { what: "initramfs", path: path.into(), source };
        let file = open_file(path).map_err(open_error)?;
        let metadata = file.metadata().map_err(open_error)?;
        if !metadata.is_file() {
            let reason = "is not that of a regular file".into();
            return Err(Error::Field { path: path.into(), field: "file type", reason });
        }
        Ok(InitramfsSource::File(InitramfsFile { path: path.into(), file, size: metadata.len() }))
    }

    fn size(&self) -> u64 {
        match self {
            InitramfsSource::File(file) => file.size,
            InitramfsSource::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

/// Loads all sources, as high as the kernel allows below the 3 GiB hole, and never over the kernel.
///
/// `None` when there are no sources, or none with a byte in it.
///
/// # Errors
///
/// When there is no room, or a file is shorter than it was when it was opened.
pub fn load_initramfs(
    memory: &GuestMemoryMmap<()>,
    kernel: &LoadedKernel,
    sources: Vec<InitramfsSource>,
) -> Result<Option<InitramfsRange>, Error> {
    let padded = |size: u64| size.checked_next_multiple_of(ALIGNMENT);
    let size = sources.iter().try_fold(0u64, |sum, source| sum.checked_add(padded(source.size())?));
    let size = size.unwrap_or(u64::MAX);
    if size == 0 {
        return Ok(None);
    }
    let highest = kernel.setup_header.map_or(HOLE_START, |header| u64::from(header.initrd_addr_max) + 1);
    let top = ram_below_hole(memory).min(highest);
    let room = top.saturating_sub(kernel.end);
    let address = top.checked_sub(size).map(|address| address & !(PAGE_SIZE - 1));
    let Some(address) = address.filter(|address| *address >= kernel.end) else {
        return Err(Error::InitramfsRoom { size, room, top });
    };
    let mut at = address;
    for source in sources {
        let size = source.size();
        load(memory, source, at)?;
        at += size.next_multiple_of(ALIGNMENT);
    }
    // Both are below 3 GiB.
    Ok(Some(InitramfsRange { address: address as u32, size: size as u32 }))
}

fn load(memory: &GuestMemoryMmap<()>, source: InitramfsSource, address: u64) -> Result<(), Error> {
    match source {
        InitramfsSource::File(InitramfsFile { path, mut file, size }) => memory
            .read_exact_volatile_from(GuestAddress(address), &mut file, size as usize)
            .map_err(|source| Error::Load { path, field: "initramfs", address, source }),
        InitramfsSource::Bytes(bytes) => memory
            .write_slice(&bytes, GuestAddress(address))
            .map_err(|source| Error::Write { what: "the initramfs", address, source }),
    }
}

#[cfg(test)]
mod tests;
