//! A kernel image: opened, unpacked, and loaded into guest memory.

use std::{
    fs::{File, Metadata},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use linux_loader::bootparam::setup_header;
use rustix::fs::{MemfdFlags, Mode, OFlags};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use self::{
    bzimage::{BzImage, Payload, Plain},
    cache::Unpacked,
    elf::{Elf, Segment},
};
use crate::{Error, layout::PAGE_SIZE};

mod bzimage;
pub(crate) mod cache;
mod elf;

/// A kernel whose headers were checked, ready to be loaded. It holds the file open.
#[derive(Debug)]
pub struct KernelImage {
    path: PathBuf,
    header: Option<setup_header>,
    file: File,
    code: Code,
}

#[derive(Debug)]
enum Code {
    Elf(Elf),
    Plain { offset: u64, size: u64, place: Plain },
}

/// A kernel in guest memory.
#[derive(Clone, Copy, Debug)]
pub struct LoadedKernel {
    /// Guest-physical address of its 64-bit entry.
    pub entry: u64,
    /// First page-aligned address above what it takes.
    pub end: u64,
    /// The bzImage's setup header, for `boot_params`; a vmlinux has none.
    pub setup_header: Option<setup_header>,
}

impl KernelImage {
    /// Opens a bzImage or an ELF vmlinux.
    ///
    /// The payload of a bzImage is unpacked into the folder `cache`, and taken from there the
    /// next time; without a cache, or when it can't be written, it is unpacked into memory. A
    /// payload in a compression that is not known is left to the kernel's own decompressor.
    ///
    /// # Errors
    ///
    /// A file that can't be read, is no kernel, is cut, or has a header that lies; the error
    /// names the file and the field.
    pub fn open(path: &Path, cache: Option<&Path>) -> Result<Self, Error> {
        let file = open_file(path).map_err(|source| Error::Open {
            what: "kernel image",
            path: path.into(),
            source,
        })?;
        Self::from_file(path, file, cache)
    }

    /// A kernel image from memory; `name` stands for the path in errors. Nothing is cached.
    ///
    /// # Errors
    ///
    /// As [`KernelImage::open`], and when there is no memory for a copy.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, Error> {
        let file = memory_file().and_then(|mut file| file.write_all(bytes).map(|()| file));
        let file = file.map_err(|source| Error::Open { what: "memory for", path: name.into(), source })?;
        Self::from_file(Path::new(name), file, None)
    }

    fn from_file(path: &Path, file: File, cache: Option<&Path>) -> Result<Self, Error> {
        let read_error = |source| Error::Read { path: path.into(), field: "metadata", source };
        let metadata = file.metadata().map_err(read_error)?;
        if !metadata.is_file() {
            return Err(field(path, "file type", "is not that of a regular file".into()));
        }
        let size = metadata.len();
        let mut start = [0; bzimage::HEADER_SIZE];
        let start = &mut start[..size.min(bzimage::HEADER_SIZE as u64) as usize];
        read_at(path, "header", &file, start, 0)?;
        let image = |header, file, code| KernelImage { path: path.into(), header, file, code };
        if start.starts_with(elf::MAGIC) {
            let elf = Elf::read(path, &file, size)?;
            return Ok(image(None, file, Code::Elf(elf)));
        }
        if !bzimage::is_bzimage(start) {
            return Err(field(path, "header", "is neither a bzImage's (HdrS at 0x202) nor an ELF's".into()));
        }
        let bzimage = BzImage::parse(path, start, size)?;
        let header = Some(bzimage.header);
        if let Some(unpacked) = cache.and_then(|folder| cache::by_image(folder, &metadata)) {
            let elf = Elf::read(path, &unpacked.file, unpacked.size)?;
            return Ok(image(header, unpacked.file, Code::Elf(elf)));
        }
        if let Some(unpacked) = unpack(path, &file, &metadata, &bzimage, cache)? {
            let elf = Elf::read(path, &unpacked.file, unpacked.size)?;
            return Ok(image(header, unpacked.file, Code::Elf(elf)));
        }
        let place = bzimage.plain(path)?;
        Ok(image(header, file, Code::Plain { offset: bzimage.code, size: bzimage.code_size, place }))
    }

    /// Whether the kernel was unpacked on the host, so that the guest need not.
    pub fn is_unpacked(&self) -> bool {
        matches!(self.code, Code::Elf(_))
    }

    /// Loads the kernel where it was linked to be.
    ///
    /// `memory` must be fresh: what an image leaves out (BSS) is not written, since a new
    /// mapping is zero.
    ///
    /// # Errors
    ///
    /// When a segment is not inside of guest memory, or the file can't be read any more.
    pub fn load(&self, memory: &GuestMemoryMmap<()>) -> Result<LoadedKernel, Error> {
        let (entry, end) = match &self.code {
            Code::Elf(elf) => {
                let mut end = 0;
                for segment in &elf.segments {
                    self.load_segment(memory, "p_paddr", segment)?;
                    end = end.max(segment.address + segment.memory_size);
                }
                (elf.entry, end)
            }
            Code::Plain { offset, size, place } => {
                let segment = Segment {
                    offset: *offset,
                    file_size: *size,
                    address: place.load,
                    memory_size: place.room,
                };
                self.load_segment(memory, "pref_address", &segment)?;
                (place.entry, place.load + place.room)
            }
        };
        Ok(LoadedKernel { entry, end: end.next_multiple_of(PAGE_SIZE), setup_header: self.header })
    }

    /// Reads from the file straight into guest memory.
    fn load_segment(
        &self,
        memory: &GuestMemoryMmap<()>,
        name: &'static str,
        segment: &Segment,
    ) -> Result<(), Error> {
        let Segment { offset, file_size, address, memory_size } = *segment;
        if !memory.check_range(GuestAddress(address), memory_size as usize) {
            let reason = format!("puts {memory_size:#x} bytes at {address:#x}, beyond the guest's RAM");
            return Err(field(&self.path, name, reason));
        }
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset)).map_err(|source| Error::Read {
            path: self.path.clone(),
            field: "segment",
            source,
        })?;
        memory
            .read_exact_volatile_from(GuestAddress(address), &mut file, file_size as usize)
            .map_err(|source| Error::Load { path: self.path.clone(), field: "segment", address, source })
    }
}

/// The release of a bzImage, as `uname -r` prints it and as its folder in `/lib/modules` is named.
///
/// # Errors
///
/// A file that is no bzImage, or has no such string.
pub fn kernel_release(path: &Path) -> Result<String, Error> {
    let file =
        open_file(path).map_err(|source| Error::Open { what: "kernel image", path: path.into(), source })?;
    let read_error = |source| Error::Read { path: path.into(), field: "metadata", source };
    let size = file.metadata().map_err(read_error)?.len();
    let mut start = [0; bzimage::HEADER_SIZE];
    let start = &mut start[..size.min(bzimage::HEADER_SIZE as u64) as usize];
    read_at(path, "header", &file, start, 0)?;
    if !bzimage::is_bzimage(start) {
        return Err(field(path, "header", "is no bzImage's (HdrS at 0x202)".into()));
    }
    BzImage::parse(path, start, size)?.release(path, &file)
}

/// Unpacks the payload, by way of the cache if there is one. `None`: the plain protocol it is.
fn unpack(
    path: &Path,
    file: &File,
    metadata: &Metadata,
    bzimage: &BzImage,
    cache: Option<&Path>,
) -> Result<Option<Unpacked>, Error> {
    let Some(payload) = bzimage.payload(path, file)? else {
        log::info!("{}: the payload is not understood, so the kernel unpacks itself", path.display());
        return Ok(None);
    };
    if let Some(unpacked) = cache.and_then(|folder| by_cache(file, metadata, folder, payload)) {
        return Ok(Some(unpacked));
    }
    let unpacked = memory_file().and_then(|mut out| {
        write_unpacked(file, payload, &mut out)?;
        Ok(Unpacked { file: out, size: payload.unpacked })
    });
    match unpacked {
        Ok(unpacked) => Ok(Some(unpacked)),
        // Legal, but more than is taken here.
        Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::OutOfMemory) => {
            log::warn!("{}: {error}, so the kernel unpacks itself", path.display());
            Ok(None)
        }
        Err(source) => Err(Error::Unpack { path: path.into(), format: payload.format, source }),
    }
}

/// The unpacked kernel in the cache, put there if need be. `None` when the cache is of no use or
/// the payload can't be unpacked; unpacking it into memory tells which.
fn by_cache(file: &File, metadata: &Metadata, folder: &Path, payload: Payload) -> Option<Unpacked> {
    let degraded = |error: io::Error| {
        // Errors of a decoder carry no number.
        if error.raw_os_error().is_some() {
            log::warn!("keep the unpacked kernel in {}: {error}", folder.display());
        }
    };
    let hash = cache::hash(packed(file, payload)).map_err(degraded).ok()?;
    let unpacked = match cache::by_payload(folder, &hash) {
        Some(unpacked) => unpacked,
        None => {
            cache::store(folder, &hash, |out| write_unpacked(file, payload, out)).map_err(degraded).ok()?
        }
    };
    let _ = cache::remember(folder, metadata, &hash, &unpacked.file).map_err(degraded);
    Some(unpacked)
}

fn write_unpacked(file: &File, payload: Payload, out: &mut impl Write) -> io::Result<()> {
    let size = payload.format.unpack(packed(file, payload), out, payload.unpacked)?;
    if size != payload.unpacked {
        let reason = format!("it unpacks to {size} bytes, and states {}", payload.unpacked);
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    Ok(())
}

fn packed(file: &File, payload: Payload) -> impl Read {
    BufReader::with_capacity(1 << 18, At { file, position: payload.offset, left: payload.size })
}

/// A part of a file, read without moving the file's own position.
struct At<'a> {
    file: &'a File,
    position: u64,
    left: u64,
}

impl Read for At<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.left.min(bytes.len() as u64) as usize;
        let count = self.file.read_at(&mut bytes[..count], self.position)?;
        self.position += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// Opens what should be a regular file; of a FIFO, without waiting for somebody who writes into it.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// A file that lives in memory, and goes with its descriptor.
fn memory_file() -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create("kernel", MemfdFlags::CLOEXEC)?))
}

fn field(path: &Path, field: &'static str, reason: String) -> Error {
    Error::Field { path: path.into(), field, reason }
}

fn read_at(path: &Path, field: &'static str, file: &File, bytes: &mut [u8], at: u64) -> Result<(), Error> {
    file.read_exact_at(bytes, at).map_err(|source| Error::Read { path: path.into(), field, source })
}

#[cfg(test)]
mod tests;
