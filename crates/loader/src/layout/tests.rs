use proptest::prelude::*;

use super::*;

#[test]
fn four_gibibytes_are_split_around_the_hole() {
    let regions = ram_regions(4 << 30);
    assert_eq!(regions, [(GuestAddress(0), HOLE_START), (GuestAddress(HOLE_END), 1 << 30)]);
}

#[test]
fn the_acpi_tables_are_not_ram() {
    let map = e820(256 << 20, 0);
    let acpi = map.iter().find(|range| range.kind == RangeKind::Acpi).unwrap();
    assert_eq!((acpi.start, acpi.start + acpi.size), (ACPI_ADDRESS, HIGH_MEMORY_START));
}

proptest! {
    #[test]
    fn regions_add_up_and_avoid_the_hole(bytes in 0u64..1 << 46) {
        let regions = ram_regions(bytes);
        prop_assert_eq!(regions.iter().map(|region| region.1).sum::<u64>(), bytes);
        for (start, size) in regions {
            prop_assert!(start.0 + size <= HOLE_START || start.0 >= HOLE_END);
        }
    }

    #[test]
    fn e820_is_sorted_disjoint_and_has_no_ram_that_is_not_there(below: u64, above: u64) {
        let map = e820(below, above);
        for pair in map.windows(2) {
            prop_assert!(pair[0].start + pair[0].size <= pair[1].start);
        }
        let ram = |range: &&E820Range| range.kind == RangeKind::Ram;
        for range in map.iter().filter(ram) {
            let end = range.start + range.size;
            prop_assert!(end <= below.min(HOLE_START) || range.start >= HOLE_END);
        }
    }

    #[test]
    fn e820_gives_all_ram_but_the_top_of_the_first_mebibyte(bytes in 2u64 << 20..1 << 46) {
        let below = bytes.min(HOLE_START);
        let map = e820(below, bytes - below);
        let ram: u64 = map.iter().filter(|r| r.kind == RangeKind::Ram).map(|r| r.size).sum();
        prop_assert_eq!(ram, bytes - (HIGH_MEMORY_START - LOW_MEMORY_END));
    }
}
