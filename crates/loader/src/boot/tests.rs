use proptest::prelude::*;

use super::*;
use crate::layout::RangeKind;

fn memory() -> GuestMemoryMmap<()> {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 16 << 20), (GuestAddress(HOLE_END), 4 << 20)]).unwrap()
}

fn kernel(setup_header: Option<setup_header>) -> LoadedKernel {
    LoadedKernel { entry: 0x100_0200, end: 0x20_0000, setup_header }
}

fn params(memory: &GuestMemoryMmap<()>) -> boot_params {
    memory.read_obj(GuestAddress(BOOT_PARAMS_ADDRESS)).unwrap()
}

proptest! {
    #[test]
    fn the_kernel_reads_what_was_given(
        line in proptest::collection::vec(1u8.., 0..2048),
        initramfs in proptest::option::of((any::<u32>(), any::<u32>())),
        rsdp: u64,
    ) {
        let memory = memory();
        let initramfs = initramfs.map(|(address, size)| InitramfsRange { address, size });
        let kernel = kernel(None);
        let boot = Boot { kernel: &kernel, command_line: &line, initramfs, rsdp };
        let registers = write_boot(&memory, &boot).unwrap();
        prop_assert_eq!(registers, BootRegisters { rip: kernel.entry, rsi: BOOT_PARAMS_ADDRESS });
        let params = params(&memory);
        let header = params.hdr;
        prop_assert_eq!({ params.acpi_rsdp_addr }, rsdp);
        prop_assert_eq!({ header.ramdisk_image }, initramfs.map_or(0, |range| range.address));
        prop_assert_eq!({ header.ramdisk_size }, initramfs.map_or(0, |range| range.size));
        prop_assert_eq!(header.type_of_loader, 0xff);
        let mut read = vec![0; line.len() + 1];
        memory.read_slice(&mut read, GuestAddress(u64::from(header.cmd_line_ptr))).unwrap();
        prop_assert_eq!(read.split_last().unwrap(), (&0, line.as_slice()));
    }

    #[test]
    fn a_header_of_any_content_changes_no_more_than_it_may(bytes in any::<[[u8; 32]; 4]>(), length in 0usize..5000) {
        let mut header = setup_header::default();
        let size = size_of::<setup_header>();
        header.as_mut_slice().copy_from_slice(&bytes.concat()[..size]);
        let max = header.cmdline_size as usize;
        let kernel = kernel(Some(header));
        let boot = Boot { kernel: &kernel, command_line: &vec![b'x'; length], initramfs: None, rsdp: 0 };
        let memory = memory();
        prop_assert_eq!(write_boot(&memory, &boot).is_ok(), length <= max.min(0xffff));
        if length <= max {
            prop_assert_eq!({ params(&memory).hdr.setup_data }, 0);
            prop_assert_eq!({ params(&memory).hdr.cmd_line_ptr }, COMMAND_LINE_ADDRESS as u32);
        }
    }
}

#[test]
fn the_map_is_that_of_the_memory() {
    let memory = memory();
    let boot = Boot { kernel: &kernel(None), command_line: b"", initramfs: None, rsdp: 0 };
    write_boot(&memory, &boot).unwrap();
    let params = params(&memory);
    let table = params.e820_table;
    let map: Vec<_> = table[..usize::from(params.e820_entries)]
        .iter()
        .map(|entry| (entry.addr, entry.size, entry.r#type))
        .collect();
    let expected: Vec<_> =
        e820(16 << 20, 4 << 20).iter().map(|range| (range.start, range.size, range.kind as u32)).collect();
    assert_eq!(map, expected);
    assert!(map.contains(&(HOLE_END, 4 << 20, RangeKind::Ram as u32)));
}

#[test]
fn a_command_line_that_is_too_long_or_holds_a_nul_is_refused() {
    let kernel = kernel(None);
    let line = |line: &[u8]| {
        let boot = Boot { kernel: &kernel, command_line: line, initramfs: None, rsdp: 0 };
        write_boot(&memory(), &boot).map_err(|error| error.to_string())
    };
    assert!(line(&[b'x'; 2047]).is_ok());
    let error = line(&[b'x'; 2048]).unwrap_err();
    assert_eq!(error, "the kernel command line has 2048 bytes, and the kernel takes 2047");
    assert_eq!(line(b"a\0b").unwrap_err(), "the kernel command line holds a NUL at byte 1");
}
