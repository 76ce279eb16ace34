//! The VM's virtio devices: a transport on the bus, a worker on a thread of its own, events through KVM.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use kvm_bindings::kvm_msi;
use kvm_ioctls::{IoEventAddress, VmFd};
use loader::acpi::MmioDevice;
use ninep::{Export, Limits, Server};
use rustix::process::{Resource, getrlimit};
use virtio::{
    ACKNOWLEDGE, Counters, Device, EventFd, MMIO_SIZE, Memory, NOTIFY_OFFSET, Signal, Transport, Windows,
};
use virtio_9p::{NewError, NineP};
use virtio_balloon::Balloon;
use virtio_blk::Blk;
use virtio_rng::Rng;
use virtio_vsock::Vsock;
use vmm_sys_util::eventfd::EFD_CLOEXEC;

use crate::{
    CustomDevice, Error, Reach, Rights, Share, ThreadKind, bus::MMIO_BASE, confine_thread_to,
    resources::Interface,
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
        })
    }

    pub(crate) fn add_shares(&mut self, shares: Vec<Share>) -> Result<(), Error> {
        let limits = limits(shares.len());
        shares.into_iter().try_for_each(|share| self.add_share(share, limits))
    }

    fn add_share(&mut self, share: Share, limits: Limits) -> Result<(), Error> {
        let Share { tag, export } = share;
        let kind = if export.is_writable() { ThreadKind::WritableNineP } else { ThreadKind::NineP };
        let reach = reach(&export)?;
        let name = format!("9p-{tag}");
        let mut device = NineP::new(&tag, Server::new(export, limits)).map_err(|e| match e {
            NewError::Descriptor(e) => Error::system("eventfd for a share's threads")(e),
            e => Error::Config(e.to_string()),
        })?;
        let (confined, pool) = (self.confined, reach.clone());
        let enter = move || !confined || confine(kind, Ok(pool.clone()));
        device.start_threads(&name, enter).map_err(Error::system("start a share's threads"))?;
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

/// The granted trees, and nothing else.
fn reach(export: &Export) -> Result<Reach, Error> {
    export.grants().try_fold(Reach::nothing()?, |reach, (grant, writable)| {
        reach.and(grant, if writable { Rights::Change } else { Rights::Read })
    })
}

/// Whether this thread of a device is confined now, and may go on.
fn confine(kind: ThreadKind, reach: Result<Reach, Error>) -> bool {
    reach
        .and_then(|reach| confine_thread_to(kind, reach))
        .inspect_err(|e| log::error!("a device's thread can't be confined, so it does not start: {e}"))
        .is_ok()
}

/// Descriptors that are not for files of shares: KVM's, sockets, events.
const RESERVED_DESCRIPTORS: usize = 1024;

/// What each of so many 9P servers may hold, so that together they leave descriptors for the rest.
fn limits(servers: usize) -> Limits {
    let all = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let share =
        usize::try_from(all).unwrap_or(usize::MAX).saturating_sub(RESERVED_DESCRIPTORS) / servers.max(1);
    let default = Limits::default();
    Limits {
        open_files: default.open_files.min(share / 2),
        descriptors: default.descriptors.min(share / 4),
        ..default
    }
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
