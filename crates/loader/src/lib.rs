//! Linux boot.
pub mod acpi;
pub mod cpio;
pub mod entry;
pub mod layout;
