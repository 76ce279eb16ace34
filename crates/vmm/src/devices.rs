//! The VM's virtio devices: a transport on the bus, a worker on a thread of its own, events through KVM.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use kvm_bindings::kvm_msi;
use kvm_ioctls::{IoEventAddress, VmFd};
use loader::acpi::MmioDevice;
use virtio::{
    ACKNOWLEDGE, Counters, Device, EventFd, MMIO_SIZE, Memory, NOTIFY_OFFSET, Signal, Transport, Windows,
};
use virtio_balloon::Balloon;
use virtio_blk::Blk;
use virtio_rng::Rng;
use virtio_vsock::Vsock;
use vmm_sys_util::eventfd::EFD_CLOEXEC;

use crate::{
    CustomDevice, Error, Process, Reach, ThreadKind, bus::MMIO_BASE, confine::confine, resources::Interface,
    share::Served,
};

/// The first interrupt line of the I/O APIC that devices get, one each; the serial port has 4.
const FIRST_GSI: u32 = 5;

const STACK: usize = 256 << 10;

/// The devices of a VM while it is made.
pub(crate) struct Devices<'a> {
    vm: &'a Arc<VmFd>,
    memory: &'a Memory,
    /// Whether threads are confined.
    confined: bool,
    /// Takes the guest's acknowledgements of interrupts, for nobody.
    swallow: EventFd,
    /// What the guest reads of the devices' registers.
    windows: Option<Windows>,
    pub transports: Vec<Transport>,
    /// What each does, by its thread's name.
    pub counters: Vec<(String, Arc<Counters>)>,
    pub workers: Workers,
    /// Those that serve shares.
    pub processes: Vec<Process>,
}

/// The threads of the devices. They end when the transports are gone.
#[derive(Default)]
pub(crate) struct Workers(Vec<JoinHandle<()>>);

impl Workers {
    pub(crate) fn join(&mut self) {
        for worker in self.0.drain(..) {
            // A thread that panicked has said so.
            let _ = worker.join();
        }
    }
}

impl<'a> Devices<'a> {
    /// `windows` are those of as many devices as will be added.
    pub(crate) fn new(
        vm: &'a Arc<VmFd>,
        memory: &'a Memory,
        windows: Option<Windows>,
        confined: bool,
    ) -> Result<Self, Error> {
        let swallow = EventFd::new(EFD_CLOEXEC).map_err(Error::system("eventfd for interrupts"))?;
        Ok(Self {
            vm,
            memory,
            confined,
            swallow,
            windows,
            transports: Vec::new(),
            counters: Vec::new(),
            workers: Workers::default(),
            processes: Vec::new(),
        })
    }

    pub(crate) fn add_share(&mut self, served: Served) -> Result<(), Error> {
        let Served { device, name, kind, reach, process } = served;
        self.processes.extend(process);
        self.add_with(device, name, kind, reach)
    }

    pub(crate) fn add_disk(&mut self, mut device: Blk) -> Result<(), Error> {
        let confined = self.confined;
        let enter = move || !confined || confine(ThreadKind::Disk, Reach::nothing());
        device.start_threads(enter).map_err(Error::system("start a disk's threads"))?;
        self.add(device, "disk".into(), ThreadKind::Disk)
    }

    pub(crate) fn add_vsock(&mut self, device: Vsock) -> Result<(), Error> {
        self.add(device, "vsock".into(), ThreadKind::Vsock)
    }

    pub(crate) fn add_network(&mut self, device: Interface) -> Result<(), Error> {
        match device {
            Interface::Tap(device) => self.add(device, "net".into(), ThreadKind::Network),
            Interface::Passt(device) => self.add(device, "net".into(), ThreadKind::Network),
        }
    }

    pub(crate) fn add_balloon(&mut self, device: Balloon) -> Result<(), Error> {
        self.add(device, "balloon".into(), ThreadKind::Balloon)
    }

    pub(crate) fn add_custom(&mut self, custom: CustomDevice) -> Result<(), Error> {
        let CustomDevice { name, device, thread } = custom;
        self.add(device, name, thread)
    }

    pub(crate) fn add_entropy(&mut self) -> Result<(), Error> {
        self.add(Rng::new(), "entropy".into(), ThreadKind::Entropy)
    }

    /// Where the guest finds each device, for its ACPI tables.
    pub(crate) fn places(&self) -> Vec<MmioDevice> {
        (0..self.transports.len() as u32)
            .map(|i| MmioDevice {
                base: (MMIO_BASE + u64::from(i) * MMIO_SIZE) as u32,
                size: MMIO_SIZE as u32,
                gsi: FIRST_GSI + i,
            })
            .collect()
    }

    /// A device that opens no files.
    fn add<D: Device + 'static>(&mut self, device: D, name: String, kind: ThreadKind) -> Result<(), Error> {
        self.add_with(device, name, kind, Reach::nothing()?)
    }

    fn add_with<D: Device + 'static>(
        &mut self,
        device: D,
        name: String,
        kind: ThreadKind,
        reach: Reach,
    ) -> Result<(), Error> {
        let index = self.transports.len();
        let (mut transport, worker) =
            virtio::connect(device, self.memory.clone()).map_err(Error::system("eventfd for a device"))?;
        if let Some(window) = self.windows.as_ref().and_then(|windows| windows.window(index)) {
            transport.show(window);
        }
        // An irqfd would have a thread of the kernel do it: it can't change the I/O APIC where it is signalled.
        let (vm, line) = (self.vm.clone(), FIRST_GSI + index as u32);
        // One pulse at a time: where a vCPU's met the device's, the second would be no edge of its own.
        let pulse = Mutex::new(());
        transport.interrupt_by(move |signal| match signal {
            Signal::Line => {
                let _alone = pulse.lock().unwrap_or_else(PoisonError::into_inner);
                // Fails only for a line that no interrupt controller has.
                let _ = vm.set_irq_line(line, true).and_then(|()| vm.set_irq_line(line, false));
            }
            // Fails where the guest chose a message that no CPU of it takes: its own loss.
            Signal::Message { address, data } if is_interrupt(address, data) => {
                let _ = vm.signal_msi(kvm_msi { address_lo: address, data, ..kvm_msi::default() });
            }
            Signal::Message { .. } => {}
        });
        let base = MMIO_BASE + index as u64 * MMIO_SIZE;
        let (acknowledge, used) = ACKNOWLEDGE;
        self.vm
            .register_ioevent(&self.swallow, &IoEventAddress::Mmio(base + acknowledge), used)
            .map_err(Error::kvm("KVM_IOEVENTFD"))?;
        let notify = IoEventAddress::Mmio(base + NOTIFY_OFFSET);
        for (queue, kick) in (0u32..).zip(transport.kicks()) {
            self.vm.register_ioevent(kick, &notify, queue).map_err(Error::kvm("KVM_IOEVENTFD"))?;
        }
        self.counters.push((name.clone(), transport.counters().clone()));
        let confined = self.confined;
        let thread = thread::Builder::new().name(name).stack_size(STACK).spawn(move || {
            if confined && !confine(kind, Ok(reach)) {
                return;
            }
            if let Err(e) = worker.run() {
                log::error!("a device's thread ended: {e}");
            }
        });
        self.workers.0.push(thread.map_err(Error::system("start a device's thread"))?);
        self.transports.push(transport);
        Ok(())
    }
}

/// Whether a message is a plain interrupt of a CPU: to a local APIC, of fixed delivery and an edge, and with a vector
/// that is no exception's. It could be an NMI, an SMI or an INIT as well, which no device has a use for.
fn is_interrupt(address: u32, data: u32) -> bool {
    address >> 20 == 0xfee && (32..=255).contains(&data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_an_interrupt_and_nothing_else() {
        assert!(is_interrupt(0xfee0_0000, 32) && is_interrupt(0xfeef_f00c, 255));
        // No local APIC; an exception's vector; SMI, NMI and INIT; a level.
        for (address, data) in [
            (0, 0x41),
            (0xfed0_0000, 0x41),
            (0xfee0_0000, 8),
            (0xfee0_0000, 0x241),
            (0xfee0_0000, 0x441),
            (0xfee0_0000, 0x541),
            (0xfee0_0000, 0x8041),
            (0xfee0_0000, u32::MAX),
        ] {
            assert!(!is_interrupt(address, data), "{address:#x} {data:#x}");
        }
    }
}
