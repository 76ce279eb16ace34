//! The state a 64-bit kernel is entered in: page tables and descriptors.
//!
//! Linux's boot protocol (`Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol") wants long
//! mode with paging on, the kernel, `boot_params` and the command line mapped to themselves,
//! interrupts off, `%rsi` at `boot_params`, and flat code and data segments with selectors 0x10
//! and 0x18.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::layout::{GDT_ADDRESS, HOLE_END, PAGE_TABLE_ADDRESS};

/// Selector of the code segment: present, execute and read, 64-bit, flat.
pub const CODE_SELECTOR: u16 = 0x10;

/// Selector of the data segment: present, read and write, flat.
pub const DATA_SELECTOR: u16 = 0x18;

/// The descriptors of the table at [`GDT_ADDRESS`]; a selector is eight times an index.
pub const GDT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const TABLE_SIZE: u64 = 4096;
const ENTRIES: u64 = 512;
const LARGE_PAGE: u64 = 2 << 20;
const DIRECTORIES: u64 = HOLE_END / (ENTRIES * LARGE_PAGE);

/// A table could not be written.
#[derive(Debug, thiserror::Error)]
#[error("write the {table} at {address:#x} of guest memory")]
pub struct EntryError {
    table: &'static str,
    address: u64,
    source: GuestMemoryError,
}

/// Writes page tables that map the first 4 GiB to themselves, and returns the value for CR3.
///
/// They use pages of 2 MiB, which every processor with long mode has.
///
/// # Errors
///
/// When guest memory ends below the tables.
pub fn write_page_tables(memory: &GuestMemoryMmap<()>) -> Result<u64, EntryError> {
    let directories = PAGE_TABLE_ADDRESS + 2 * TABLE_SIZE;
    let mut tables = Vec::with_capacity(((2 + DIRECTORIES) * TABLE_SIZE) as usize);
    let mut table = |entries: &mut dyn Iterator<Item = u64>| {
        let end = tables.len() + TABLE_SIZE as usize;
        entries.for_each(|entry| tables.extend_from_slice(&entry.to_le_bytes()));
        tables.resize(end, 0);
    };
    table(&mut [(PAGE_TABLE_ADDRESS + TABLE_SIZE) | PRESENT | WRITABLE].into_iter());
    table(&mut (0..DIRECTORIES).map(|index| (directories + index * TABLE_SIZE) | PRESENT | WRITABLE));
    for directory in 0..DIRECTORIES {
        let first = directory * ENTRIES;
        table(&mut (first..first + ENTRIES).map(|page| (page * LARGE_PAGE) | PRESENT | WRITABLE | LARGE));
    }
    write(memory, "page tables", PAGE_TABLE_ADDRESS, &tables)?;
    Ok(PAGE_TABLE_ADDRESS)
}

/// Writes [`GDT`], and returns its base and limit for GDTR.
///
/// # Errors
///
/// When guest memory ends below the table.
pub fn write_gdt(memory: &GuestMemoryMmap<()>) -> Result<(u64, u16), EntryError> {
    let bytes: Vec<u8> = GDT.iter().flat_map(|descriptor| descriptor.to_le_bytes()).collect();
    write(memory, "GDT", GDT_ADDRESS, &bytes)?;
    Ok((GDT_ADDRESS, bytes.len() as u16 - 1))
}

fn write(
    memory: &GuestMemoryMmap<()>,
    table: &'static str,
    address: u64,
    bytes: &[u8],
) -> Result<(), EntryError> {
    memory.write_slice(bytes, GuestAddress(address)).map_err(|source| EntryError { table, address, source })
}

#[cfg(test)]
mod tests;
