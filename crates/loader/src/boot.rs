//! `boot_params` and the command line: what the kernel is told at its entry.

use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::{
    Error, InitramfsRange, LoadedKernel,
    layout::{BOOT_PARAMS_ADDRESS, COMMAND_LINE_ADDRESS, COMMAND_LINE_ROOM, HOLE_END, HOLE_START, e820},
};

/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// x86's `COMMAND_LINE_SIZE`, its NUL included.
const COMMAND_LINE_SIZE: u32 = 2048;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// Protocol 2.12: the first that has a 64-bit entry.
const VERSION: u16 = 0x020c;
const LOADED_HIGH: u8 = 1;

/// What to boot, all of it in guest memory but the command line.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// The kernel.
    pub kernel: &'a LoadedKernel,
    /// The kernel's command line, without a NUL.
    pub command_line: &'a [u8],
    /// The initramfs, if there is one.
    pub initramfs: Option<InitramfsRange>,
    /// Guest-physical address of the ACPI RSDP.
    pub rsdp: u64,
}

/// What the boot processor's registers hold at the kernel's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootRegisters {
    /// The 64-bit entry.
    pub rip: u64,
    /// The address of `boot_params`.
    pub rsi: u64,
}

/// Writes the command line and `boot_params`, with the e820 map of `memory`.
///
/// # Errors
///
/// When the command line is too long for the kernel or holds a NUL, or guest memory ends below
/// what is written.
pub fn write_boot(memory: &GuestMemoryMmap<()>, boot: &Boot<'_>) -> Result<BootRegisters, Error> {
    let mut params = boot_params { hdr: header(boot), acpi_rsdp_addr: boot.rsdp, ..Default::default() };
    let (below, above) = (ram_below_hole(memory), ram_above_hole(memory));
    let map = e820(below, above);
    for (entry, range) in params.e820_table.iter_mut().zip(&map) {
        *entry = boot_e820_entry { addr: range.start, size: range.size, r#type: range.kind as u32 };
    }
    params.e820_entries = map.len() as u8;
    write_command_line(memory, boot)?;
    memory
        .write_slice(params.as_slice(), GuestAddress(BOOT_PARAMS_ADDRESS))
        .map_err(|source| Error::Write { what: "boot_params", address: BOOT_PARAMS_ADDRESS, source })?;
    Ok(BootRegisters { rip: boot.kernel.entry, rsi: BOOT_PARAMS_ADDRESS })
}

fn header(boot: &Boot<'_>) -> setup_header {
    let mut header = boot.kernel.setup_header.unwrap_or(setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: VERSION,
        loadflags: LOADED_HIGH,
        cmdline_size: COMMAND_LINE_SIZE - 1,
        ..Default::default()
    });
    header.type_of_loader = LOADER_UNDEFINED;
    header.cmd_line_ptr = COMMAND_LINE_ADDRESS as u32;
    // An image has no say in what the guest's memory holds.
    header.setup_data = 0;
    let initramfs = boot.initramfs.unwrap_or(InitramfsRange { address: 0, size: 0 });
    header.ramdisk_image = initramfs.address;
    header.ramdisk_size = initramfs.size;
    header
}

fn write_command_line(memory: &GuestMemoryMmap<()>, boot: &Boot<'_>) -> Result<(), Error> {
    let line = boot.command_line;
    let stated = boot.kernel.setup_header.map_or(COMMAND_LINE_SIZE - 1, |header| header.cmdline_size);
    let max = u64::from(stated).min(COMMAND_LINE_ROOM - 1) as usize;
    if line.len() > max {
        return Err(Error::CommandLineLength { length: line.len(), max });
    }
    if let Some(at) = line.iter().position(|byte| *byte == 0) {
        return Err(Error::CommandLineNul(at));
    }
    memory
        .write_slice(&[line, &[0]].concat(), GuestAddress(COMMAND_LINE_ADDRESS))
        .map_err(|source| Error::Write { what: "the command line", address: COMMAND_LINE_ADDRESS, source })
}

/// End of the RAM that starts at address zero.
pub(crate) fn ram_below_hole(memory: &GuestMemoryMmap<()>) -> u64 {
    let ends = memory.iter().filter(|region| region.start_addr().0 < HOLE_START);
    ends.map(|region| region.start_addr().0 + region.len()).max().unwrap_or(0).min(HOLE_START)
}

fn ram_above_hole(memory: &GuestMemoryMmap<()>) -> u64 {
    let ends = memory.iter().filter(|region| region.start_addr().0 >= HOLE_END);
    ends.map(|region| region.start_addr().0 + region.len() - HOLE_END).max().unwrap_or(0)
}

#[cfg(test)]
mod tests;
