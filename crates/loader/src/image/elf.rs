//! The headers of an ELF vmlinux, every field checked.

use std::{fs::File, path::Path};

use super::{field, read_at};
use crate::{
    Error,
    layout::{HIGH_MEMORY_START, HOLE_START},
};

pub(super) const MAGIC: &[u8] = b"\x7fELF";

const HEADER_SIZE: usize = 64;
const SEGMENT_SIZE: usize = 56;
/// A vmlinux has 4 to 6.
const SEGMENTS_MAX: u16 = 64;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const EXECUTABLE: u16 = 2;
const X86_64: u16 = 62;
const LOAD: u32 = 1;

/// A loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub offset: u64,
    pub file_size: u64,
    pub address: u64,
    /// At least `file_size`; the difference is zeroes.
    pub memory_size: u64,
}

/// What an ELF kernel says about itself.
#[derive(Debug)]
pub(super) struct Elf {
    pub entry: u64,
    /// Sorted by address, disjoint, inside of the file, from 1 MiB to the hole.
    pub segments: Vec<Segment>,
}

impl Elf {
    /// Reads the headers; `size` is that of the ELF image in the file.
    pub fn read(path: &Path, file: &File, size: u64) -> Result<Self, Error> {
        // One read gets the headers of every vmlinux; lying ones take a second.
        let mut start = [0; HEADER_SIZE + 8 * SEGMENT_SIZE];
        let start = &mut start[..size.min(HEADER_SIZE as u64 + 8 * SEGMENT_SIZE as u64) as usize];
        read_at(path, "ELF header", file, start, 0)?;
        if start.len() < HEADER_SIZE {
            return Err(field(path, "ELF header", format!("is cut: the file has {size} bytes")));
        }
        check(path, "e_ident[EI_MAG]", start[..4] == *MAGIC, "is no ELF's")?;
        check(path, "e_ident[EI_CLASS]", start[4] == CLASS_64, "is not 64-bit")?;
        check(path, "e_ident[EI_DATA]", start[5] == LITTLE_ENDIAN, "is not little-endian")?;
        check(path, "e_type", u16_at(start, 16) == EXECUTABLE, "is not ET_EXEC")?;
        check(path, "e_machine", u16_at(start, 18) == X86_64, "is not x86-64")?;
        let entry = u64_at(start, 24);
        let table = u64_at(start, 32);
        check(path, "e_phentsize", usize::from(u16_at(start, 54)) == SEGMENT_SIZE, "is not 56")?;
        let count = u16_at(start, 56);
        if count == 0 || count > SEGMENTS_MAX {
            return Err(field(path, "e_phnum", format!("is {count}, not 1 to {SEGMENTS_MAX}")));
        }
        let table_size = usize::from(count) * SEGMENT_SIZE;
        let inside = table.checked_add(table_size as u64).is_some_and(|end| end <= size);
        check(path, "e_phoff", inside, &format!("puts {count} entries at {table:#x}, beyond the file"))?;
        let headers = match start.get(table as usize..table as usize + table_size) {
            Some(headers) => headers.to_vec(),
            None => {
                let mut headers = vec![0; table_size];
                read_at(path, "program headers", file, &mut headers, table)?;
                headers
            }
        };
        let mut segments = Vec::new();
        for header in headers.chunks_exact(SEGMENT_SIZE) {
            if u32_at(header, 0) == LOAD {
                segments.extend(segment(path, header, size)?);
            }
        }
        segments.sort_by_key(|segment| segment.address);
        for pair in segments.windows(2) {
            if pair[0].address + pair[0].memory_size > pair[1].address {
                let reason = format!("{:#x} is inside of another segment", pair[1].address);
                return Err(field(path, "p_paddr", reason));
            }
        }
        let entered = |s: &Segment| (s.address..s.address + s.file_size).contains(&entry);
        check(path, "e_entry", segments.iter().any(entered), &format!("{entry:#x} is in no segment"))?;
        Ok(Elf { entry, segments })
    }
}

fn segment(path: &Path, header: &[u8], size: u64) -> Result<Option<Segment>, Error> {
    let segment = Segment {
        offset: u64_at(header, 8),
        file_size: u64_at(header, 32),
        address: u64_at(header, 24),
        memory_size: u64_at(header, 40),
    };
    let Segment { offset, file_size, address, memory_size } = segment;
    if offset.checked_add(file_size).is_none_or(|end| end > size) {
        let reason = format!("states {file_size:#x} bytes at {offset:#x}, and the file has {size:#x}");
        return Err(field(path, "p_filesz", reason));
    }
    if file_size > memory_size {
        return Err(field(path, "p_filesz", format!("{file_size:#x} is above p_memsz {memory_size:#x}")));
    }
    if memory_size == 0 {
        return Ok(None);
    }
    if address < HIGH_MEMORY_START {
        return Err(field(path, "p_paddr", format!("{address:#x} is in the first MiB")));
    }
    if address.checked_add(memory_size).is_none_or(|end| end > HOLE_START) {
        let reason = format!("puts {memory_size:#x} bytes at {address:#x}, beyond {HOLE_START:#x}");
        return Err(field(path, "p_memsz", reason));
    }
    Ok(Some(segment))
}

fn check(path: &Path, name: &'static str, holds: bool, otherwise: &str) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(field(path, name, otherwise.into())) }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
