//! Where everything lies in the guest's physical memory.
//!
//! ```text
//! 0x0000_0500  GDT                        4 entries
//! 0x0000_7000  boot_params                1 page
//! 0x0000_9000  page tables                6 pages: PML4, PDPT, 4 page directories
//! 0x0002_0000  command line               at most 64 KiB
//! 0x0009_fc00  end of conventional memory
//! 0x000e_0000  ACPI tables                128 KiB
//! 0x0010_0000  kernel, initramfs, free RAM
//! 0xc000_0000  hole: virtio-mmio, IOAPIC, local APICs
//! 0x1_0000_0000 the rest of the RAM
//! ```

use vm_memory::GuestAddress;

/// Size of a page of guest memory, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// Address of the global descriptor table for the 64-bit entry.
pub const GDT_ADDRESS: u64 = 0x500;

/// Address of `boot_params`, the kernel's zero page.
pub const BOOT_PARAMS_ADDRESS: u64 = 0x7000;

/// Address of the PML4 table, and so the value of CR3 at entry. The other tables follow it.
pub const PAGE_TABLE_ADDRESS: u64 = 0x9000;

/// Address of the kernel's command line.
pub const COMMAND_LINE_ADDRESS: u64 = 0x2_0000;

/// Room for the command line in bytes, its NUL included.
pub const COMMAND_LINE_ROOM: u64 = 0x1_0000;

/// End of conventional memory: the first KiB of the area where a PC has its extended BIOS data.
pub const LOW_MEMORY_END: u64 = 0x9_fc00;

/// Address of the ACPI tables. The RSDP is the first of them.
pub const ACPI_ADDRESS: u64 = 0xe_0000;

/// Room for the ACPI tables, in bytes.
pub const ACPI_ROOM: u64 = HIGH_MEMORY_START - ACPI_ADDRESS;

/// First address above the PC's first MiB: no image may ask for a place below it.
pub const HIGH_MEMORY_START: u64 = 0x10_0000;

/// Start of the hole in RAM below 4 GiB, which device registers use.
pub const HOLE_START: u64 = 0xc000_0000;

/// End of the hole, where RAM goes on.
pub const HOLE_END: u64 = 0x1_0000_0000;

/// What a range of guest-physical memory is, in the numbers of the e820 map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RangeKind {
    /// RAM that the kernel may use.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
    /// ACPI tables, which the kernel may reclaim once it has read them.
    Acpi = 3,
}

/// One entry of the e820 map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Range {
    /// First address.
    pub start: u64,
    /// Length in bytes, never zero.
    pub size: u64,
    /// What is there.
    pub kind: RangeKind,
}

/// Divides `bytes` of RAM into the regions below and above the hole.
///
/// The result is empty for zero bytes, holds one region up to 3 GiB, and two above that. The
/// sizes add up to `bytes`; a caller that maps them passes a multiple of [`PAGE_SIZE`].
pub fn ram_regions(bytes: u64) -> Vec<(GuestAddress, u64)> {
    let below = bytes.min(HOLE_START);
    let above = bytes - below;
    [(0, below), (HOLE_END, above)]
        .into_iter()
        .filter(|&(_, size)| size > 0)
        .map(|(start, size)| (GuestAddress(start), size))
        .collect()
}

/// The e820 map of a machine with `ram_below` bytes of RAM from address zero and `ram_above`
/// bytes from 4 GiB.
///
/// The ranges are sorted and disjoint. `ram_below` counts up to the hole, what is beyond it is
/// ignored; the first MiB always has its reserved and its ACPI range.
pub fn e820(ram_below: u64, ram_above: u64) -> Vec<E820Range> {
    let ram_below = ram_below.min(HOLE_START);
    let ram_above = ram_above.min(u64::MAX - HOLE_END);
    let ranges = [
        (0, ram_below.min(LOW_MEMORY_END), RangeKind::Ram),
        (LOW_MEMORY_END, ACPI_ADDRESS, RangeKind::Reserved),
        (ACPI_ADDRESS, HIGH_MEMORY_START, RangeKind::Acpi),
        (HIGH_MEMORY_START, ram_below, RangeKind::Ram),
        (HOLE_END, HOLE_END + ram_above, RangeKind::Ram),
    ];
    ranges
        .into_iter()
        .filter(|&(start, end, _)| start < end)
        .map(|(start, end, kind)| E820Range { start, size: end - start, kind })
        .collect()
}

#[cfg(test)]
mod tests;
