//! The setup header of a bzImage (`Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel
//! Header").

use std::{fs::File, path::Path};

use linux_loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::{field, read_at};
use crate::{
    Error,
    decompress::Format,
    layout::{HIGH_MEMORY_START, HOLE_START},
};

/// The bytes at the start of an image that hold every header that is looked at.
pub(super) const HEADER_SIZE: usize = 0x290;

const SETUP_HEADER: usize = 0x1f1;
const MAGIC: &[u8] = b"HdrS";
const MAGIC_AT: usize = 0x202;
const BOOT_FLAG: u16 = 0xaa55;
const SECTOR: u64 = 512;
/// First version with `cmdline_size`.
const VERSION_MIN: u16 = 0x0206;
/// First version with `payload_offset`.
const VERSION_PAYLOAD: u16 = 0x0208;
/// First version with `xloadflags`.
const VERSION_64: u16 = 0x020c;
const XLF_KERNEL_64: u16 = 1;
const ENTRY_64: u64 = 0x200;
/// A kernel unpacks to 3 to 6 times its size; beyond this, the size is a lie or a bomb.
const RATIO_MAX: u64 = 256;
/// The most a payload may unpack to.
const UNPACKED_MAX: u64 = 1 << 30;

/// A checked setup header and what it says about the file.
#[derive(Debug)]
pub(super) struct BzImage {
    pub header: setup_header,
    /// Offset of the protected-mode code in the file.
    pub code: u64,
    /// Size of the protected-mode code.
    pub code_size: u64,
}

/// The compressed kernel inside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload {
    pub format: Format,
    pub offset: u64,
    pub size: u64,
    /// What it unpacks to, as the image states it.
    pub unpacked: u64,
}

/// Where the plain 64-bit protocol loads and enters the protected-mode code.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain {
    pub load: u64,
    pub entry: u64,
    /// Memory that the kernel uses before it looks at the memory map.
    pub room: u64,
}

pub(super) fn is_bzimage(start: &[u8]) -> bool {
    start.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) == Some(MAGIC)
}

impl BzImage {
    pub fn parse(path: &Path, start: &[u8], file_size: u64) -> Result<Self, Error> {
        let mut header = setup_header::default();
        // The jump at 0x200 says where the header ends; what an old one lacks reads as zero.
        let end = MAGIC_AT + usize::from(start.get(0x201).copied().unwrap_or(0));
        let end = end.min(SETUP_HEADER + size_of::<setup_header>()).min(start.len());
        if end < 0x23c {
            return Err(field(path, "jump", format!("ends the setup header at {end:#x}")));
        }
        let bytes = &start[SETUP_HEADER..end];
        header.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        let (flag, version) = (header.boot_flag, header.version);
        if flag != BOOT_FLAG {
            return Err(field(path, "boot_flag", format!("is {flag:#x}, not {BOOT_FLAG:#x}")));
        }
        if version < VERSION_MIN {
            return Err(field(path, "version", format!("is {version:#x}, older than {VERSION_MIN:#x}")));
        }
        let sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
        let code = (sectors + 1) * SECTOR;
        let stated = u64::from(header.syssize) * 16;
        let there = file_size.saturating_sub(code);
        // The size is in paragraphs of 16 bytes, and the last may be cut.
        if stated == 0 || stated >= there + 16 {
            let reason = format!("states {stated} bytes of code, and the file has {there}");
            return Err(field(path, "syssize", reason));
        }
        Ok(BzImage { header, code, code_size: stated.min(there) })
    }

    /// The payload, or `None` when it is in no known compression.
    pub fn payload(&self, path: &Path, file: &File) -> Result<Option<Payload>, Error> {
        if self.header.version < VERSION_PAYLOAD {
            return Ok(None);
        }
        let (offset, size) = (u64::from(self.header.payload_offset), u64::from(self.header.payload_length));
        if size < 16 || offset + size > self.code_size {
            let reason = format!("is {size} at {offset:#x} of {} bytes of code", self.code_size);
            return Err(field(path, "payload_length", reason));
        }
        let offset = self.code + offset;
        let mut magic = [0; 6];
        read_at(path, "payload", file, &mut magic, offset)?;
        let Some(format) = Format::detect(&magic) else { return Ok(None) };
        let mut last = [0; 4];
        read_at(path, "payload", file, &mut last, offset + size - 4)?;
        let unpacked = u64::from(u32::from_le_bytes(last));
        if unpacked > UNPACKED_MAX || unpacked > size * RATIO_MAX {
            let reason = format!("of {size} bytes claims to unpack to {unpacked}");
            return Err(field(path, "payload", reason));
        }
        // The build appends the size, except to gzip, whose own trailer ends with it.
        let size = if format == Format::Gzip { size } else { size - 4 };
        Ok(Some(Payload { format, offset, size, unpacked }))
    }

    pub fn plain(&self, path: &Path) -> Result<Plain, Error> {
        let header = &self.header;
        let (version, flags) = (header.version, header.xloadflags);
        if version < VERSION_64 || flags & XLF_KERNEL_64 == 0 {
            let reason = format!("{flags:#x} (version {version:#x}) has no 64-bit entry");
            return Err(field(path, "xloadflags", reason));
        }
        let load = header.pref_address;
        if load < HIGH_MEMORY_START {
            return Err(field(path, "pref_address", format!("{load:#x} is in the first MiB")));
        }
        let room = u64::from(header.init_size).max(self.code_size);
        if load.checked_add(room).is_none_or(|end| end > HOLE_START) {
            let reason = format!("{load:#x} puts {room:#x} bytes beyond {HOLE_START:#x}");
            return Err(field(path, "pref_address", reason));
        }
        if self.code_size <= ENTRY_64 {
            return Err(field(path, "syssize", format!("{} ends before the 64-bit entry", self.code_size)));
        }
        Ok(Plain { load, entry: load + ENTRY_64, room })
    }

    /// The kernel's release, as `uname -r` prints it.
    pub fn release(&self, path: &Path, file: &File) -> Result<String, Error> {
        let at = u64::from(self.header.kernel_version);
        if at == 0 || at + SECTOR >= self.code {
            return Err(field(
                path,
                "kernel_version",
                format!("points to {at:#x}, outside of the setup code"),
            ));
        }
        let at = at + SECTOR;
        let mut text = vec![0; (self.code - at).min(256) as usize];
        read_at(path, "kernel_version", file, &mut text, at)?;
        let release = text.split(|byte| *byte <= b' ').next().unwrap_or_default();
        // It becomes a folder's name below /lib/modules.
        let safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"._+-~".contains(byte);
        if release.is_empty()
            || release[0] == b'.'
            || release.len() == text.len()
            || !release.iter().all(safe)
        {
            return Err(field(path, "kernel_version", "is no release".into()));
        }
        Ok(String::from_utf8_lossy(release).into_owned())
    }
}
