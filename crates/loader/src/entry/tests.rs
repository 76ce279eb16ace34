use super::*;

fn memory() -> GuestMemoryMmap<()> {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
}

/// Walks the tables as a processor does.
fn translate(memory: &GuestMemoryMmap<()>, cr3: u64, address: u64) -> u64 {
    let entry = |table: u64, shift: u32| -> u64 {
        let index = (address >> shift) & 0x1ff;
        let entry: u64 = memory.read_obj(GuestAddress(table + index * 8)).unwrap();
        assert_eq!(entry & (PRESENT | WRITABLE), PRESENT | WRITABLE);
        entry
    };
    let pdpt = entry(cr3, 39) & !0xfff;
    let directory = entry(pdpt, 30) & !0xfff;
    let page = entry(directory, 21);
    assert_ne!(page & LARGE, 0);
    (page & !0x1f_ffff) | (address & 0x1f_ffff)
}

#[test]
fn every_address_below_four_gibibytes_maps_to_itself() {
    let memory = memory();
    let cr3 = write_page_tables(&memory).unwrap();
    for address in (0..HOLE_END).step_by(0x1f_e123) {
        assert_eq!(translate(&memory, cr3, address), address);
    }
    assert_eq!(translate(&memory, cr3, HOLE_END - 1), HOLE_END - 1);
}

#[test]
fn the_selectors_name_the_segments_of_the_boot_protocol() {
    let memory = memory();
    let (base, limit) = write_gdt(&memory).unwrap();
    let descriptor = |selector: u16| -> u64 {
        assert!(selector < limit);
        memory.read_obj(GuestAddress(base + u64::from(selector))).unwrap()
    };
    let code = descriptor(CODE_SELECTOR);
    assert_eq!((code >> 40) & 0x9f, 0x9b, "present, ring 0, code, readable, accessed");
    assert_eq!((code >> 53) & 1, 1, "64-bit");
    assert_eq!((descriptor(DATA_SELECTOR) >> 40) & 0x9f, 0x93, "present, ring 0, data, writable");
}

#[test]
fn memory_that_is_too_small_is_an_error_that_names_the_table() {
    let memory: GuestMemoryMmap<()> = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
    let error = write_page_tables(&memory).unwrap_err();
    assert_eq!(error.to_string(), "write the page tables at 0x9000 of guest memory");
}
