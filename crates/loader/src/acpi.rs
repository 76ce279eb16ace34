//! The ACPI tables of a machine without PC hardware.
//!
//! RSDP, XSDT, FADT (hardware-reduced), MADT and DSDT, after the ACPI specification 6.5. The
//! DSDT has one `LNRO0005` device a virtio-mmio window, which is how Linux's `virtio_mmio`
//! driver finds them, and a `PNP0501` node for the serial port: a hardware-reduced machine has
//! no legacy interrupts, so the port's is stated.

use acpi_tables::{
    Aml,
    aml::{Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate},
    fadt::{FADTBuilder, Flags},
    gas::{AccessSize, AddressSpace, GAS},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::layout::{ACPI_ADDRESS, ACPI_ROOM};

/// Address of the I/O APIC's registers, as KVM's in-kernel one has it.
pub const IOAPIC_ADDRESS: u32 = 0xfec0_0000;

/// Address of the local APICs' registers.
pub const LAPIC_ADDRESS: u32 = 0xfee0_0000;

/// What a guest writes to the sleep control register to power off: `SLP_TYP` 5 in bits 2-4 and
/// `SLP_EN` in bit 5 (ACPI 6.5, 4.8.3.7).
pub const POWER_OFF_VALUE: u8 = SLEEP_TYPE_OFF << 2 | 1 << 5;

const SLEEP_TYPE_OFF: u8 = 5;
const OEM_ID: [u8; 6] = *b"NOFEAR";
const OEM_TABLE: [u8; 8] = *b"NOFEARVM";
const OEM_REVISION: u32 = 1;
const TABLE_ALIGNMENT: usize = 64;
const SDT_HEADER: u32 = 36;

/// IA-PC boot architecture flags (ACPI 6.5, table 5.11): no VGA, no CMOS clock. The bits of the
/// legacy devices and of the 8042 are clear, so that the kernel does not probe for them.
const BOOT_ARCHITECTURE: u16 = 1 << 2 | 1 << 5;

/// A virtio-mmio window and its interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioDevice {
    /// Guest-physical address of the registers.
    pub base: u32,
    /// Size of the window in bytes.
    pub size: u32,
    /// Global system interrupt: edge-triggered, active high, exclusive.
    pub gsi: u32,
}

/// A 16550 serial port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialPort {
    /// First of its eight I/O ports.
    pub port: u16,
    /// Global system interrupt: edge-triggered, active high, exclusive.
    pub gsi: u32,
}

/// The I/O ports of ACPI's sleep registers, one byte each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepPorts {
    /// A write of [`POWER_OFF_VALUE`] powers off.
    pub control: u16,
    /// Linux writes its wake bit (0x80) before it sleeps, and reads it back.
    pub status: u16,
}

/// The I/O port and the byte that reset the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetPort {
    /// The port.
    pub port: u16,
    /// The byte to write to it.
    pub value: u8,
}

/// What the tables describe.
#[derive(Clone, Copy, Debug, Default)]
pub struct AcpiConfig<'a> {
    /// Number of vCPUs; the local APIC of each has its index as its id.
    pub vcpus: u8,
    /// Every virtio-mmio window.
    pub devices: &'a [MmioDevice],
    /// The serial port, if there is one.
    pub serial: Option<SerialPort>,
    /// How the guest powers off; without it, it can't.
    pub sleep: Option<SleepPorts>,
    /// How the guest resets the machine; without it, by other means.
    pub reset: Option<ResetPort>,
    /// The I/O port of QEMU's panic device (`QEMU0001`): Linux writes bit 0 to it when it panics, if a read
    /// has that bit.
    pub panic: Option<u16>,
}

/// The tables could not be made or placed.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// More devices than the reserved memory has room for.
    #[error("ACPI tables for {devices} devices take {size} bytes, more than the {ACPI_ROOM} reserved")]
    Room {
        /// Number of devices.
        devices: usize,
        /// Size of the tables in bytes.
        size: usize,
    },
    /// Guest memory ends below the tables.
    #[error("write the ACPI tables at {ACPI_ADDRESS:#x} of guest memory")]
    Write(#[source] GuestMemoryError),
}

/// Writes the tables at [`ACPI_ADDRESS`], and returns the RSDP's address for `boot_params`.
///
/// # Errors
///
/// When there are too many devices, or guest memory ends below the tables.
pub fn write_acpi(memory: &GuestMemoryMmap<()>, config: &AcpiConfig<'_>) -> Result<u64, AcpiError> {
    let tables = acpi_tables(config, ACPI_ADDRESS)?;
    memory.write_slice(&tables, GuestAddress(ACPI_ADDRESS)).map_err(AcpiError::Write)?;
    Ok(ACPI_ADDRESS)
}

/// The bytes of all tables, to be placed at the guest-physical `address`. The RSDP comes first.
///
/// # Errors
///
/// When the tables would take more than [`ACPI_ROOM`].
pub fn acpi_tables(config: &AcpiConfig<'_>, address: u64) -> Result<Vec<u8>, AcpiError> {
    let mut tables = vec![0; Rsdp::len()];
    let mut place = |table: &[u8]| {
        tables.resize(tables.len().next_multiple_of(TABLE_ALIGNMENT), 0);
        let at = address + tables.len() as u64;
        tables.extend_from_slice(table);
        at
    };
    let dsdt = place(&dsdt(config));
    let fadt = place(&bytes(&fadt(config, dsdt)));
    let madt = place(&bytes(&madt(config)));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&bytes(&xsdt));
    tables[..Rsdp::len()].copy_from_slice(&bytes(&Rsdp::new(OEM_ID, xsdt)));
    if tables.len() as u64 > ACPI_ROOM {
        return Err(AcpiError::Room { devices: config.devices.len(), size: tables.len() });
    }
    Ok(tables)
}

fn fadt(config: &AcpiConfig<'_>, dsdt: u64) -> impl Aml + use<> {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE, OEM_REVISION).dsdt_64(dsdt).flag(Flags::HwReducedAcpi);
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    if let Some(sleep) = config.sleep {
        fadt.sleep_control_reg = io_register(sleep.control);
        fadt.sleep_status_reg = io_register(sleep.status);
    }
    if let Some(reset) = config.reset {
        fadt = fadt.flag(Flags::ResetRegSup);
        fadt.reset_reg = io_register(reset.port);
        fadt.reset_value = reset.value;
    }
    fadt.finalize()
}

fn io_register(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port))
}

/// The MADT's flags stay zero: PCAT_COMPAT would promise two 8259s (ACPI 6.5, table 5.20).
fn madt(config: &AcpiConfig<'_>) -> MADT {
    let mut madt =
        MADT::new(OEM_ID, OEM_TABLE, OEM_REVISION, LocalInterruptController::Address(LAPIC_ADDRESS));
    for vcpu in 0..config.vcpus {
        madt.add_structure(ProcessorLocalApic::new(vcpu, vcpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IOAPIC_ADDRESS, 0));
    madt
}

fn dsdt(config: &AcpiConfig<'_>) -> Vec<u8> {
    let mut aml = Vec::new();
    for (index, device) in config.devices.iter().enumerate() {
        VirtioDevice { index, device }.to_aml_bytes(&mut aml);
    }
    if let Some(serial) = &config.serial {
        serial.to_aml_bytes(&mut aml);
    }
    if let Some(port) = config.panic {
        PanicDevice(port).to_aml_bytes(&mut aml);
    }
    if config.sleep.is_some() {
        let states: Package<'_> = Package::new(vec![&SLEEP_TYPE_OFF, &0u8]);
        Name::new("\\_S5_".into(), &states).to_aml_bytes(&mut aml);
    }
    // Revision 2: integers have 64 bits.
    let mut table = Sdt::new(*b"DSDT", SDT_HEADER, 2, OEM_ID, OEM_TABLE, OEM_REVISION);
    table.append_slice(&aml);
    table.as_slice().to_vec()
}

struct VirtioDevice<'a> {
    index: usize,
    device: &'a MmioDevice,
}

impl Aml for VirtioDevice<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let registers = Memory32Fixed::new(true, self.device.base, self.device.size);
        let interrupt = Interrupt::new(true, true, false, false, self.device.gsi);
        // A name has four characters. More than 0xfff devices do not fit into `ACPI_ROOM`.
        let path = format!("\\_SB_.V{:03X}", self.index & 0xfff);
        Device::new(
            path.as_str().into(),
            vec![
                &Name::new("_HID".into(), &"LNRO0005"),
                &Name::new("_UID".into(), &self.index),
                &Name::new("_CCA".into(), &1u8),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&registers, &interrupt])),
            ],
        )
        .to_aml_bytes(sink);
    }
}

impl Aml for SerialPort {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let ports = IO::new(self.port, self.port, 1, 8);
        let interrupt = Interrupt::new(true, true, false, false, self.gsi);
        Device::new(
            "\\_SB_.COM1".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0501")),
                &Name::new("_UID".into(), &0u8),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports, &interrupt])),
            ],
        )
        .to_aml_bytes(sink);
    }
}

struct PanicDevice(u16);

impl Aml for PanicDevice {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let port = IO::new(self.0, self.0, 1, 1);
        Device::new(
            "\\_SB_.PEVT".into(),
            vec![
                &Name::new("_HID".into(), &"QEMU0001"),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&port])),
            ],
        )
        .to_aml_bytes(sink);
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests;
