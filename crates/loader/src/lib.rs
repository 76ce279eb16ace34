//! Linux boot: bzImage and ELF kernels, `boot_params`, ACPI tables, command line, initramfs.
//!
//! This crate fills guest memory so that a vCPU can enter the kernel at its 64-bit entry. It
//! knows no KVM. A bzImage is unpacked on the host, once, and kept in a cache; the guest spends
//! no time on it. Every image is untrusted: what is cut, oversized or lies in its headers gives
//! an error that names the file and the field.
//!
//! ```no_run
//! use nofear_loader as loader;
//! use loader::{Boot, InitramfsSource, KernelImage, acpi, entry, layout};
//! use vm_memory::GuestMemoryMmap;
//!
//! let regions: Vec<_> =
//!     layout::ram_regions(256 << 20).into_iter().map(|(at, size)| (at, size as usize)).collect();
//! let memory: GuestMemoryMmap<()> = GuestMemoryMmap::from_ranges(&regions)?;
//!
//! let kernel = KernelImage::open("/boot/vmlinuz".as_ref(), Some("/tmp/cache".as_ref()))?;
//! let kernel = kernel.load(&memory)?;
//! let sources = vec![InitramfsSource::open("/boot/initrd.img".as_ref())?];
//! let initramfs = loader::load_initramfs(&memory, &kernel, sources)?;
//! let rsdp = acpi::write_acpi(&memory, &acpi::AcpiConfig { vcpus: 1, ..Default::default() })?;
//! let cr3 = entry::write_page_tables(&memory)?;
//! let (gdt_base, gdt_limit) = entry::write_gdt(&memory)?;
//! let boot = Boot { kernel: &kernel, command_line: b"quiet", initramfs, rsdp };
//! let registers = loader::write_boot(&memory, &boot)?;
//! println!("enter at {:#x} with rsi {:#x} and cr3 {cr3:#x}", registers.rip, registers.rsi);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

pub mod acpi;
mod boot;
pub mod cpio;
pub mod decompress;
pub mod entry;
mod error;
mod image;
mod initramfs;
pub mod layout;
pub mod stock;

pub use boot::{Boot, BootRegisters, write_boot};
pub use error::Error;
pub use image::{KernelImage, LoadedKernel, kernel_release};
pub use initramfs::{InitramfsFile, InitramfsRange, InitramfsSource, load_initramfs};
