//! A kernel image of any bytes: opened, unpacked and loaded; an initramfs, a command line and
//! `boot_params` after it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use loader::{Boot, InitramfsSource, KernelImage, acpi, decompress::Format};
use vm_memory::{GuestAddress, GuestMemoryMmap};

const RAM: usize = 32 << 20;
const UNPACKED_MAX: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    if let Some(format) = Format::detect(bytes) {
        let mut out = Vec::new();
        let result = format.unpack(bytes, &mut out, UNPACKED_MAX);
        assert!(out.len() as u64 <= UNPACKED_MAX);
        assert!(result.is_err() || result.is_ok_and(|size| size == out.len() as u64));
    }
    let Ok(image) = KernelImage::from_bytes("fuzz", bytes) else { return };
    let memory: GuestMemoryMmap<()> =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).expect("map guest memory");
    let Ok(kernel) = image.load(&memory) else { return };
    assert!(kernel.entry < kernel.end && kernel.end <= RAM as u64);
    let rsdp = acpi::write_acpi(&memory, &acpi::AcpiConfig { vcpus: 1, ..Default::default() })
        .expect("guest memory reaches beyond the ACPI tables");
    let part = InitramfsSource::Bytes(bytes[..bytes.len().min(4096)].to_vec());
    let initramfs = loader::load_initramfs(&memory, &kernel, vec![part]).ok().flatten();
    if let Some(range) = initramfs {
        assert!(u64::from(range.address) >= kernel.end);
    }
    let command_line = &bytes[..bytes.len().min(64)];
    let _ = loader::write_boot(&memory, &Boot { kernel: &kernel, command_line, initramfs, rsdp });
});
