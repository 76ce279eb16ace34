//! What can go wrong between a file on disk and a kernel that is ready to run.

use std::{io, path::PathBuf};

use vm_memory::GuestMemoryError;

use crate::{acpi::AcpiError, decompress::Format, entry::EntryError};

/// An image, a command line or a table that the loader refuses.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be opened.
    #[error("open {what} {path}")]
    Open {
        /// What it was to be.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A part of a file could not be read; an image that ends too soon is one case.
    #[error("read {field} of {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Which part.
        field: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A field of an image has a value that can't be.
    #[error("{path}: {field} {reason}")]
    Field {
        /// Which file.
        path: PathBuf,
        /// The field, in the words of the image's specification.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A compressed file or payload could not be unpacked.
    #[error("unpack the {format} data of {path}")]
    Unpack {
        /// Which file.
        path: PathBuf,
        /// Its compression.
        format: Format,
        /// Why not.
        source: io::Error,
    },
    /// A part of a file could not be brought into guest memory.
    #[error("load {field} of {path} at {address:#x} of guest memory")]
    Load {
        /// Which file.
        path: PathBuf,
        /// Which part.
        field: &'static str,
        /// Guest-physical address.
        address: u64,
        /// Why not.
        source: GuestMemoryError,
    },
    /// The command line is longer than the kernel takes.
    #[error("the kernel command line has {length} bytes, and the kernel takes {max}")]
    CommandLineLength {
        /// Its length in bytes, without a NUL.
        length: usize,
        /// The most that the kernel takes.
        max: usize,
    },
    /// The command line holds a NUL, where the kernel would cut it.
    #[error("the kernel command line holds a NUL at byte {0}")]
    CommandLineNul(usize),
    /// The initramfs does not fit between the kernel and the end of usable RAM.
    #[error("the initramfs has {size} bytes, and there are {room} between the kernel and {top:#x}")]
    InitramfsRoom {
        /// Size of all sources in bytes.
        size: u64,
        /// Room in bytes.
        room: u64,
        /// The address it must end at.
        top: u64,
    },
    /// Boot data could not be written to guest memory.
    #[error("write {what} at {address:#x} of guest memory")]
    Write {
        /// What.
        what: &'static str,
        /// Guest-physical address.
        address: u64,
        /// Why not.
        source: GuestMemoryError,
    },
    /// The ACPI tables could not be made.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// Page tables or descriptors could not be written.
    #[error(transparent)]
    Entry(#[from] EntryError),
}
