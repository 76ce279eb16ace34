use std::process::Command;

use proptest::prelude::*;

use super::*;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table with this signature, found as a kernel finds it: by the RSDP and the XSDT.
fn find<'a>(tables: &'a [u8], base: u64, signature: &[u8; 4]) -> &'a [u8] {
    let table = |address: u64| {
        let start = (address - base) as usize;
        let length = u32_at(tables, start + 4) as usize;
        &tables[start..start + length]
    };
    assert_eq!(&tables[..8], b"RSD PTR ");
    assert_eq!(sum(&tables[..20]), 0);
    assert_eq!(sum(&tables[..u32_at(tables, 20) as usize]), 0);
    let xsdt = table(u64_at(tables, 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    assert_eq!(sum(xsdt), 0);
    let listed = xsdt[36..].chunks(8).map(|entry| table(u64_at(entry, 0)));
    for candidate in listed {
        if &candidate[..4] == signature {
            return candidate;
        }
        if &candidate[..4] == b"FACP" && signature == b"DSDT" {
            return table(u64_at(candidate, 140));
        }
    }
    panic!("no table {signature:?}");
}

fn devices(count: usize) -> Vec<MmioDevice> {
    (0..count as u32)
        .map(|i| MmioDevice { base: 0xd000_0000 + i * 0x1000, size: 0x200, gsi: 5 + i })
        .collect()
}

proptest! {
    #[test]
    fn every_table_sums_to_zero_and_has_its_true_length(
        vcpus in 1u8..=254,
        count in 0usize..64,
        base in (0u64..0xf_0000).prop_map(|page| page << 12),
        serial: bool,
        sleep: bool,
        reset: bool,
        panic: Option<u16>,
    ) {
        let devices = devices(count);
        let config = AcpiConfig {
            vcpus,
            devices: &devices,
            serial: serial.then_some(SerialPort { port: 0x3f8, gsi: 4 }),
            sleep: sleep.then_some(SleepPorts { control: 0x600, status: 0x601 }),
            reset: reset.then_some(ResetPort { port: 0x602, value: 1 }),
            panic,
        };
        let tables = acpi_tables(&config, base).unwrap();
        for signature in [b"FACP", b"APIC", b"DSDT"] {
            prop_assert_eq!(sum(find(&tables, base, signature)), 0);
        }
        let madt = find(&tables, base, b"APIC");
        prop_assert_eq!(madt.len(), 44 + 8 * usize::from(vcpus) + 12);
        prop_assert_eq!(u32_at(madt, 40), 0, "PCAT_COMPAT");
        let fadt = find(&tables, base, b"FACP");
        prop_assert_eq!(fadt.len(), 276);
        let flags = u32_at(fadt, 112);
        prop_assert_eq!(flags, 1 << 20 | u32::from(reset) << 10);
        prop_assert_eq!(u64_at(fadt, 248), if sleep { 0x600 } else { 0 });
        let dsdt = find(&tables, base, b"DSDT");
        let found = dsdt.windows(8).filter(|window| window == b"LNRO0005").count();
        prop_assert_eq!(found, count);
    }
}

#[test]
fn too_many_devices_are_refused() {
    let devices = devices(4000);
    let config = AcpiConfig { vcpus: 1, devices: &devices, ..AcpiConfig::default() };
    assert!(matches!(acpi_tables(&config, 0), Err(AcpiError::Room { devices: 4000, .. })));
}

#[test]
fn intels_disassembler_reads_the_dsdt() {
    let devices = devices(2);
    let config = AcpiConfig {
        vcpus: 1,
        devices: &devices,
        serial: Some(SerialPort { port: 0x3f8, gsi: 4 }),
        sleep: Some(SleepPorts { control: 0x600, status: 0x601 }),
        reset: None,
        panic: Some(0x505),
    };
    let folder = tempfile::tempdir().unwrap();
    let tables = acpi_tables(&config, 0).unwrap();
    std::fs::write(folder.path().join("dsdt.dat"), find(&tables, 0, b"DSDT")).unwrap();
    let Ok(output) = Command::new("iasl").args(["-d", "dsdt.dat"]).current_dir(&folder).output() else {
        eprintln!("SKIPPED: no iasl on this machine");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let source = std::fs::read_to_string(folder.path().join("dsdt.dsl")).unwrap();
    for line in [
        "Device (\\_SB.V001)",
        "0xD0001000,         // Address Base",
        "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, )",
        "Name (\\_S5, Package (0x02)",
        "EisaId (\"PNP0501\")",
    ] {
        assert!(source.contains(line), "{line} not in\n{source}");
    }
}
