//! What answers the guest's accesses outside its memory.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use loader::acpi;
use virtio::{MMIO_SIZE, Transport};

use crate::{Exit, console::SerialPort};

/// The first virtio device's registers, in the hole below 4 GiB.
pub(crate) const MMIO_BASE: u64 = 0xd000_0000;

/// The first PC serial port.
pub(crate) const SERIAL_PORT: u16 = 0x3f8;

/// Where ACPI's sleep control and status registers, and the reset register, are.
pub(crate) const SLEEP_CONTROL_PORT: u16 = 0x600;
pub(crate) const SLEEP_STATUS_PORT: u16 = 0x601;
pub(crate) const RESET_PORT: u16 = 0x602;
pub(crate) const RESET_VALUE: u8 = 1;

/// The keyboard controller's command port, and the command that resets a PC.
const I8042_COMMAND_PORT: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;

/// Where a PC says why there was an NMI.
const NMI_REASON_PORT: u16 = 0x61;

/// QEMU's panic device: bit 0 says that the guest's kernel panicked.
pub(crate) const PANIC_PORT: u16 = 0x505;
const PANICKED: u8 = 1;

/// Everything that a vCPU's exits lead to.
pub(crate) struct Bus {
    serial: Arc<Mutex<SerialPort>>,
    /// The guest's kernel has said so. Once: a guest that says it again and again makes nobody's queue longer.
    panicked: AtomicBool,
    /// One window of [`MMIO_SIZE`] each, from [`MMIO_BASE`].
    devices: Vec<Mutex<Transport>>,
}

impl Bus {
    pub(crate) fn new(serial: Arc<Mutex<SerialPort>>, devices: Vec<Transport>) -> Self {
        Self {
            serial,
            panicked: AtomicBool::new(false),
            devices: devices.into_iter().map(Mutex::new).collect(),
        }
    }

    /// The guest reads from a port; what nothing answers reads as all ones, as on a PC.
    pub(crate) fn read_port(&self, port: u16, data: &mut [u8]) {
        let value = match (port, data.len()) {
            (SERIAL_PORT..=0x3ff, 1) => lock(&self.serial).read((port - SERIAL_PORT) as u8),
            // An output buffer that is empty, an input buffer that takes commands.
            (I8042_COMMAND_PORT | SLEEP_CONTROL_PORT | SLEEP_STATUS_PORT, _) => 0,
            // All ones would be errors of memory and bus.
            (NMI_REASON_PORT, _) => 0,
            (PANIC_PORT, _) => PANICKED,
            _ => {
                data.fill(0xff);
                return;
            }
        };
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = value;
        }
    }

    /// The guest writes to a port; says so when that ends the VM.
    pub(crate) fn write_port(&self, port: u16, data: &[u8]) -> Option<Exit> {
        let &value = data.first()?;
        match port {
            // More than one byte is a string instruction: one after the other, to the same register.
            SERIAL_PORT..=0x3ff => {
                let mut serial = lock(&self.serial);
                data.iter().for_each(|&value| serial.write((port - SERIAL_PORT) as u8, value));
                None
            }
            SLEEP_CONTROL_PORT if value == acpi::POWER_OFF_VALUE => Some(Exit::PowerOff),
            RESET_PORT if value == RESET_VALUE => Some(Exit::Reset),
            I8042_COMMAND_PORT if value == I8042_RESET => Some(Exit::Reset),
            PANIC_PORT if value & PANICKED != 0 => {
                (!self.panicked.swap(true, Ordering::Relaxed)).then_some(Exit::Panic)
            }
            _ => None,
        }
    }

    /// The guest reads where there is no memory.
    pub(crate) fn read_memory(&self, address: u64, data: &mut [u8]) {
        match self.device(address) {
            Some((mut device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// The guest writes where there is no memory.
    pub(crate) fn write_memory(&self, address: u64, data: &[u8]) {
        if let Some((mut device, offset)) = self.device(address) {
            device.write(offset, data);
        }
    }

    fn device(&self, address: u64) -> Option<(MutexGuard<'_, Transport>, u64)> {
        let offset = address.checked_sub(MMIO_BASE)?;
        let device = self.devices.get(usize::try_from(offset / MMIO_SIZE).ok()?)?;
        Some((lock(device), offset % MMIO_SIZE))
    }
}

/// A thread that panicked has ended the VM; what it left behind is still memory.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Console, console::Ring};

    fn bus() -> (Bus, Ring) {
        let ring = Ring::new().unwrap();
        let serial = SerialPort::new(ring.clone(), Console::Ring).unwrap();
        (Bus::new(Arc::new(Mutex::new(serial)), Vec::new()), ring)
    }

    #[test]
    fn power_off_reset_and_panic_are_told_apart() {
        let (bus, _) = bus();
        assert_eq!(bus.write_port(SLEEP_CONTROL_PORT, &[acpi::POWER_OFF_VALUE]), Some(Exit::PowerOff));
        assert_eq!(bus.write_port(RESET_PORT, &[RESET_VALUE]), Some(Exit::Reset));
        assert_eq!(bus.write_port(0x64, &[0xfe]), Some(Exit::Reset));
        assert_eq!(bus.write_port(PANIC_PORT, &[1]), Some(Exit::Panic));
        assert_eq!(bus.write_port(PANIC_PORT, &[1]), None);
        assert_eq!(bus.write_port(SLEEP_CONTROL_PORT, &[0]), None);
        assert_eq!(bus.write_port(0x80, &[]), None);
    }

    #[test]
    fn what_nothing_answers_reads_as_all_ones() {
        let (bus, _) = bus();
        let mut data = [0; 4];
        bus.read_port(0xcf8, &mut data);
        assert_eq!(data, [0xff; 4]);
        for address in [0, MMIO_BASE - 1, MMIO_BASE, u64::MAX] {
            data = [0; 4];
            bus.read_memory(address, &mut data);
            assert_eq!(data, [0xff; 4]);
            bus.write_memory(address, &data);
        }
    }

    #[test]
    fn any_port_access_is_survived() {
        let (bus, ring) = bus();
        let mut data = [0xa5; 8];
        for port in 0..=u16::MAX {
            for width in [0, 1, 2, 4, 8] {
                bus.read_port(port, &mut data[..width]);
                bus.write_port(port, &[0x5a; 8][..width]);
            }
        }
        assert!(ring.contents().len() <= 16);
    }
}
