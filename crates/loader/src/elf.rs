//! An ELF vmlinux: checked headers, segments read straight into guest memory.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::{
    Error,
    layout::{HIGH_MEMORY_START, PAGE_SIZE},
};

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const MACHINE_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;

/// A vmlinux has about five segments.
const MAX_SEGMENTS: u16 = 64;

/// A checked ELF kernel.
#[derive(Debug)]
pub(crate) struct Elf {
    entry: u64,
    /// By address, disjoint.
    segments: Vec<Segment>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    offset: u64,
    address: u64,
    in_file: u64,
    in_memory: u64,
}

impl Elf {
    /// Reads and checks the headers of `file`; `path` is for errors.
    pub(crate) fn parse(file: &File, path: &Path) -> Result<Self, Error> {
        let field = |field, problem: String| Error::Field { path: path.into(), field, problem };
        let length = file.metadata().map_err(Error::read("size", path))?.len();
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(Error::read("ELF header", path))?;
        if header[4] != 2 || header[5] != 1 {
            return Err(field("e_ident", "not 64-bit little-endian".into()));
        }
        let machine = u16_at(&header, 18);
        if machine != MACHINE_X86_64 {
            return Err(field("e_machine", format!("{machine} is not x86-64")));
        }
        let entry = u64_at(&header, 24);
        let table = u64_at(&header, 32);
        let (size, count) = (u16_at(&header, 54), u16_at(&header, 56));
        if usize::from(size) != PROGRAM_HEADER {
            return Err(field("e_phentsize", format!("{size} instead of {PROGRAM_HEADER}")));
        }
        if !(1..=MAX_SEGMENTS).contains(&count) {
            return Err(field(
                "e_phnum",
                format!("{count} program headers, 1 to {MAX_SEGMENTS} are possible"),
            ));
        }
        let mut raw = vec![0; usize::from(count) * PROGRAM_HEADER];
        file.read_exact_at(&mut raw, table).map_err(Error::read("ELF program headers (e_phoff)", path))?;

        let mut segments = Vec::new();
        for header in raw.chunks_exact(PROGRAM_HEADER).filter(|h| u32_at(h, 0) == PT_LOAD) {
            let segment = Segment {
                offset: u64_at(header, 8),
                address: u64_at(header, 24),
                in_file: u64_at(header, 32),
                in_memory: u64_at(header, 40),
            };
            let Segment { offset, address, in_file, in_memory } = segment;
            if in_file > in_memory {
                return Err(field("p_filesz", format!("{in_file:#x}, more than p_memsz {in_memory:#x}")));
            }
            if offset.checked_add(in_file).is_none_or(|end| end > length) {
                return Err(field(
                    "p_offset",
                    format!("{offset:#x} + {in_file:#x} is beyond the file's end"),
                ));
            }
            if address < HIGH_MEMORY_START || address.checked_add(in_memory).is_none() {
                return Err(field("p_paddr", format!("{address:#x} is not above the first MiB")));
            }
            segments.push(segment);
        }
        segments.sort_by_key(|s| s.address);
        if let Some(pair) =
            segments.windows(2).find(|pair| pair[0].address + pair[0].in_memory > pair[1].address)
        {
            return Err(field("p_paddr", format!("{:#x} overlaps another segment", pair[1].address)));
        }
        if !segments.iter().any(|s| (s.address..s.address + s.in_file).contains(&entry)) {
            return Err(field("e_entry", format!("{entry:#x} is in no segment")));
        }
        Ok(Self { entry, segments })
    }

    /// Reads the segments into guest memory that is all zeroes; returns the entry, and the page-aligned end.
    pub(crate) fn load(
        &self,
        file: &mut File,
        path: &Path,
        memory: &GuestMemoryMmap<()>,
    ) -> Result<(u64, u64), Error> {
        let mut end = HIGH_MEMORY_START;
        for segment in &self.segments {
            let room = || Error::Room {
                what: path.display().to_string(),
                size: segment.in_memory,
                problem: "a segment of the kernel lies beyond it; give the VM more memory",
            };
            let size = usize::try_from(segment.in_memory).map_err(|_| room())?;
            if memory.get_slice(GuestAddress(segment.address), size).is_err() {
                return Err(room());
            }
            file.seek(SeekFrom::Start(segment.offset))
                .and_then(|_| {
                    memory
                        .read_exact_volatile_from(
                            GuestAddress(segment.address),
                            file,
                            segment.in_file as usize,
                        )
                        .map_err(io::Error::other)
                })
                .map_err(Error::read("a segment", path))?;
            end = end.max((segment.address + segment.in_memory).next_multiple_of(PAGE_SIZE));
        }
        Ok((self.entry, end))
    }
}

/// Words of headers whose size was checked; what is beyond them reads as zero.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(word(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(word(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(word(bytes, at))
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}
