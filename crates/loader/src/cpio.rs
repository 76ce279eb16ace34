//! A writer of cpio archives in the "newc" format, which Linux unpacks as its initramfs.
//!
//! The format is in `Documentation/driver-api/early-userspace/buffer-format.rst`: a header of
//! thirteen 8-digit hexadecimal numbers, the NUL-ended name, the data, each padded to 4 bytes.

use std::io::{self, Write};

const MAGIC: &[u8] = b"070701";
const TRAILER: &[u8] = b"TRAILER!!!";

/// The longest name that Linux takes, in bytes without its NUL (`PATH_MAX` less one).
pub const NAME_MAX: usize = 4095;

/// A cpio archive that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CpioError {
    /// The name is empty, longer than [`NAME_MAX`], absolute, holds a NUL or is the trailer's.
    #[error("cpio: the name {name:?} is {reason}")]
    Name {
        /// The name in question, cut to its first 64 bytes.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The header has room for sizes below 4 GiB.
    #[error("cpio: {name:?} has {size} bytes, more than the format can say")]
    Size {
        /// The entry's name.
        name: String,
        /// Its size in bytes.
        size: u64,
    },
    /// The underlying writer failed.
    #[error("write the cpio archive")]
    Write(#[source] io::Error),
}

/// Writes entries one after the other; [`Writer::finish`] ends the archive.
///
/// Names are relative to the root, without a leading slash. Parents come before children: the
/// kernel makes no directory on its own. Everything belongs to root and has time zero, so equal
/// contents give equal archives.
///
/// ```
/// use nofear_loader::cpio::Writer;
///
/// let mut archive = Writer::new(Vec::new());
/// archive.directory("dev", 0o755)?;
/// archive.character_device("dev/console", 0o600, 5, 1)?;
/// archive.file("init", 0o755, b"#!/bin/sh\n")?;
/// let bytes = archive.finish()?;
/// assert_eq!(bytes.len() % 4, 0);
/// # Ok::<(), nofear_loader::cpio::CpioError>(())
/// ```
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    entries: u32,
}

struct Entry<'a> {
    name: &'a [u8],
    mode: u32,
    links: u32,
    device: (u32, u32),
    data: &'a [u8],
}

impl<W: Write> Writer<W> {
    /// Starts an archive on `out`.
    pub fn new(out: W) -> Self {
        Writer { out, entries: 0 }
    }

    /// Adds a directory with the permission bits of `mode`.
    ///
    /// # Errors
    ///
    /// A name the format or the kernel refuses, or a failing writer.
    pub fn directory(&mut self, name: impl AsRef<[u8]>, mode: u32) -> Result<(), CpioError> {
        self.entry(name.as_ref(), 0o040_000, mode, (0, 0), &[])
    }

    /// Adds a regular file.
    ///
    /// # Errors
    ///
    /// A name the format or the kernel refuses, 4 GiB of data or more, or a failing writer.
    pub fn file(&mut self, name: impl AsRef<[u8]>, mode: u32, data: &[u8]) -> Result<(), CpioError> {
        self.entry(name.as_ref(), 0o100_000, mode, (0, 0), data)
    }

    /// Adds a symbolic link to `target`.
    ///
    /// # Errors
    ///
    /// A name or a target the format or the kernel refuses, or a failing writer.
    pub fn symlink(&mut self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Result<(), CpioError> {
        let target = target.as_ref();
        if target.is_empty() || target.len() > NAME_MAX || target.contains(&0) {
            return Err(refused(target, "no target of a symbolic link"));
        }
        self.entry(name.as_ref(), 0o120_000, 0o777, (0, 0), target)
    }

    /// Adds the node of a character device.
    ///
    /// # Errors
    ///
    /// A name the format or the kernel refuses, or a failing writer.
    pub fn character_device(
        &mut self,
        name: impl AsRef<[u8]>,
        mode: u32,
        major: u32,
        minor: u32,
    ) -> Result<(), CpioError> {
        self.entry(name.as_ref(), 0o020_000, mode, (major, minor), &[])
    }

    /// Ends the archive and gives the writer back.
    ///
    /// # Errors
    ///
    /// A failing writer.
    pub fn finish(mut self) -> Result<W, CpioError> {
        self.raw(Entry { name: TRAILER, mode: 0, links: 1, device: (0, 0), data: &[] })?;
        self.out.flush().map_err(CpioError::Write)?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        name: &[u8],
        kind: u32,
        mode: u32,
        device: (u32, u32),
        data: &[u8],
    ) -> Result<(), CpioError> {
        check_name(name)?;
        let links = if kind == 0o040_000 { 2 } else { 1 };
        self.raw(Entry { name, mode: kind | (mode & 0o7777), links, device, data })
    }

    fn raw(&mut self, entry: Entry<'_>) -> Result<(), CpioError> {
        let size = u32::try_from(entry.data.len())
            .map_err(|_| CpioError::Size { name: lossy(entry.name), size: entry.data.len() as u64 })?;
        // Distinct inode numbers: entries with equal ones and several links would be hard links.
        let inode = self.entries;
        self.entries = self.entries.wrapping_add(1);
        let name_size = entry.name.len() as u32 + 1;
        let fields = [
            inode,
            entry.mode,
            0,
            0,
            entry.links,
            0,
            size,
            0,
            0,
            entry.device.0,
            entry.device.1,
            name_size,
            0,
        ];
        let mut header = Vec::with_capacity(110 + entry.name.len() + 4);
        header.extend_from_slice(MAGIC);
        for field in fields {
            header.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        header.extend_from_slice(entry.name);
        header.push(0);
        header.resize(header.len().next_multiple_of(4), 0);
        let padding = entry.data.len().next_multiple_of(4) - entry.data.len();
        self.out.write_all(&header).map_err(CpioError::Write)?;
        self.out.write_all(entry.data).map_err(CpioError::Write)?;
        self.out.write_all(&[0; 3][..padding]).map_err(CpioError::Write)
    }
}

fn check_name(name: &[u8]) -> Result<(), CpioError> {
    let reason = match name {
        [] => "empty",
        [b'/', ..] => "absolute",
        _ if name.len() > NAME_MAX => "longer than 4095 bytes",
        _ if name.contains(&0) => "no name, since it holds a NUL",
        _ if name == TRAILER => "the end mark of an archive",
        _ => return Ok(()),
    };
    Err(refused(name, reason))
}

fn refused(name: &[u8], reason: &'static str) -> CpioError {
    CpioError::Name { name: lossy(name), reason }
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(64)]).into_owned()
}

#[cfg(test)]
mod tests;
