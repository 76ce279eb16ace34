//! A VM: how it is put together, run and ended.

use std::{
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, PoisonError, mpsc::Receiver},
    time::Duration,
};

use kvm_ioctls::VmFd;
use loader::{Boot, acpi, entry};
use virtio::{Counters, Windows};
use virtio_balloon::{Balloon, Counts, Size};

use crate::{
    Confinement, Console, Error, Exit, Policy, Process, Resources, ThreadKind,
    bus::{self, Bus},
    confine_thread,
    console::{Ring, SerialPort},
    cpu::{Cpu, Start},
    devices::{Devices, Workers},
    exit::Ends,
    gate::{Exits, Gate, Registers},
    memory::{self, GuestRam},
    share::Served,
    vcpu::{self, Running, Vcpu},
};

/// Where Intel processors want three pages for a guest's real mode, below the local APICs.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

const SERIAL_GSI: u32 = 4;

/// How long a kernel that has panicked may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// A VM that is ready to run. Dropping it frees all that it has.
pub struct Vm {
    vcpus: Vec<Vcpu>,
    handle: Handle,
    ended: Receiver<Result<Exit, Error>>,
    confine_runner: bool,
    confinement: Confinement,
    // In the order of their end: the last transport ends the workers, then nothing uses the memory.
    bus: Option<Arc<Bus>>,
    workers: Workers,
    processes: Vec<Process>,
    _vm: Arc<VmFd>,
    _windows: Option<Windows>,
    _ram: GuestRam,
}

/// Stops a VM and looks into it, from any thread.
#[derive(Clone)]
pub struct Handle {
    ends: Ends,
    ring: Ring,
    gate: Gate,
    balloon: Option<Size>,
    serial: Arc<Mutex<SerialPort>>,
    devices: Arc<[(String, Arc<Counters>)]>,
}

impl Handle {
    /// Makes [`Vm::run`] return [`Exit::Stopped`], at once, whatever the guest does.
    pub fn stop(&self) {
        self.ends.send(Ok(Exit::Stopped));
    }

    /// The last messages of the guest's kernel, at most 64 KiB, as raw bytes: the guest chose them.
    pub fn console(&self) -> Vec<u8> {
        self.ring.contents()
    }

    /// What came on the guest's serial port behind its first `from` bytes, as far as it is among the last 64 KiB, and
    /// the number for the next time.
    pub fn console_since(&self, from: u64) -> (Vec<u8>, u64) {
        self.ring.since(from)
    }

    /// Whether [`console_changed`](Self::console_changed) is to tell. It costs a guest that talks.
    pub fn watch_console(&self, watched: bool) {
        self.ring.watch(watched);
    }

    /// Readable when the guest has written to its serial port, until [`console_since`](Self::console_since) is called.
    pub fn console_changed(&self) -> BorrowedFd<'_> {
        self.ring.news()
    }

    /// Puts bytes into the guest's serial port, as many as it has room for, and returns how many. Only a guest with
    /// [`Console::Stderr`] is told that there are any.
    pub fn type_to_console(&self, bytes: &[u8]) -> usize {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner).type_in(bytes)
    }

    /// Stops all vCPUs until [`resume`](Self::resume): the guest does not run, and its devices come to rest.
    pub fn pause(&self) {
        self.gate.pause();
    }

    /// Lets the guest go on.
    pub fn resume(&self) {
        self.gate.resume();
    }

    /// Whether it was paused.
    pub fn is_paused(&self) -> bool {
        self.gate.is_paused()
    }

    /// Each vCPU's registers, for which it is stopped for a moment; none: it did not come out of the guest within a
    /// second, or does not run.
    pub fn registers(&self) -> Vec<Option<Registers>> {
        self.gate.registers(None)
    }

    /// The same, and the vCPU of this number is interrupted by an NMI: Linux then says where it was, and panics. None:
    /// there is no such vCPU.
    pub fn interrupt(&self, vcpu: u8) -> Option<Vec<Option<Registers>>> {
        self.gate.has(vcpu).then(|| self.gate.registers(Some(vcpu)))
    }

    /// How often each vCPU came out of the guest to this process.
    pub fn exits(&self) -> Vec<Exits> {
        self.gate.exits()
    }

    /// What each device has done, by its name, in the order in which the guest finds them. That of a share is `9p-` and
    /// its tag, that of a [`CustomDevice`](crate::CustomDevice) its own; the others are `disk`, `vsock`, `net`,
    /// `entropy` and `balloon`.
    pub fn devices(&self) -> Vec<(String, virtio::Counts)> {
        self.devices.iter().map(|(name, counters)| (name.clone(), counters.read())).collect()
    }

    /// The guest is to do without so many bytes of its memory, in whole pages, which the host gets. It may take its
    /// time, or refuse. `false`: the VM has no balloon ([`Config::balloon`](crate::Config::balloon)).
    pub fn set_balloon(&self, bytes: u64) -> bool {
        self.balloon.as_ref().map(|size| size.ask(bytes)).is_some()
    }

    /// What has become of the guest's memory, if the VM has a balloon.
    pub fn balloon(&self) -> Option<Counts> {
        self.balloon.as_ref().map(Size::counts)
    }
}

impl Vm {
    /// Puts the VM together. From here on it reads top to bottom.
    pub(crate) fn build(
        resources: Resources,
        shares: Vec<Served>,
        policy: &Policy,
        confinement: Confinement,
        (ends, ended): (Ends, Receiver<Result<Exit, Error>>),
    ) -> Result<Self, Error> {
        let Resources {
            kvm,
            kernel,
            initramfs,
            command_line,
            memory,
            vcpus,
            shares: _,
            disks,
            vsock,
            network,
            balloon,
            devices: custom,
            console,
        } = resources;
        vcpu::handle_kicks()?;

        let ram = GuestRam::new(memory)?;
        let vm = Arc::new(kvm.create_vm().map_err(Error::kvm("KVM_CREATE_VM"))?);
        vm.set_tss_address(TSS_ADDRESS).map_err(Error::kvm("KVM_SET_TSS_ADDR"))?;
        vm.set_identity_map_address(IDENTITY_MAP_ADDRESS).map_err(Error::kvm("KVM_SET_IDENTITY_MAP_ADDR"))?;
        ram.register(&vm)?;
        vm.create_irq_chip().map_err(Error::kvm("KVM_CREATE_IRQCHIP"))?;

        let ring = Ring::new()?;
        let serial = SerialPort::new(ring.clone(), console)?;
        vm.register_irqfd(serial.interrupt(), SERIAL_GSI).map_err(Error::kvm("KVM_IRQFD"))?;
        let serial = Arc::new(Mutex::new(serial));

        // Beside those that were asked for: entropy.
        let count = shares.len()
            + disks.len()
            + usize::from(vsock.is_some())
            + usize::from(network.is_some())
            + usize::from(balloon.is_some())
            + custom.len()
            + 1;
        let windows = memory::show_windows(&vm, ram.slots(), count)?;
        let mut devices = Devices::new(&vm, ram.memory(), windows.clone(), policy.threads)?;
        shares.into_iter().try_for_each(|share| devices.add_share(share))?;
        disks.into_iter().try_for_each(|disk| devices.add_disk(disk))?;
        if let Some(vsock) = vsock {
            devices.add_vsock(vsock)?;
        }
        if let Some(network) = network {
            devices.add_network(network)?;
        }
        custom.into_iter().try_for_each(|custom| devices.add_custom(custom))?;
        devices.add_entropy()?;
        let balloon_size = balloon.as_ref().map(Balloon::size);
        if let Some(balloon) = balloon {
            devices.add_balloon(balloon)?;
        }

        let rsdp = acpi::write_acpi(
            ram.memory(),
            &acpi::AcpiConfig {
                vcpus,
                devices: &devices.places(),
                serial: (console == Console::Stderr)
                    .then_some(acpi::SerialPort { port: bus::SERIAL_PORT, gsi: SERIAL_GSI }),
                sleep: Some(acpi::SleepPorts {
                    control: bus::SLEEP_CONTROL_PORT,
                    status: bus::SLEEP_STATUS_PORT,
                }),
                reset: Some(acpi::ResetPort { port: bus::RESET_PORT, value: bus::RESET_VALUE }),
                panic: Some(bus::PANIC_PORT),
            },
        )
        .map_err(loader::Error::from)?;
        let Devices { transports, counters, workers, processes, .. } = devices;
        let bus = Arc::new(Bus::new(serial.clone(), transports));

        let kernel = kernel.load(ram.memory())?;
        let initramfs = loader::load_initramfs(ram.memory(), &kernel, initramfs)?;
        let registers = loader::write_boot(
            ram.memory(),
            &Boot { kernel: &kernel, command_line: command_line.as_bytes(), initramfs, rsdp },
        )?;
        let start = Start {
            registers,
            page_tables: entry::write_page_tables(ram.memory()).map_err(loader::Error::from)?,
            gdt: entry::write_gdt(ram.memory()).map_err(loader::Error::from)?,
        };

        let gate = Gate::new(vcpus);
        let cpu = Cpu::new(&kvm, vcpus)?;
        let mut all = Vec::new();
        for id in 0..vcpus {
            all.push(Vcpu {
                fd: vm.create_vcpu(u64::from(id)).map_err(Error::kvm("KVM_CREATE_VCPU"))?,
                id,
                cpu: cpu.clone(),
                start: (id == 0).then_some(start),
                bus: bus.clone(),
                gate: gate.clone(),
                ends: ends.clone(),
                confined: policy.threads,
            });
        }
        Ok(Self {
            vcpus: all,
            handle: Handle { ends, ring, gate, balloon: balloon_size, serial, devices: counters.into() },
            ended,
            confine_runner: policy.confine_runner,
            confinement,
            bus: Some(bus),
            workers,
            processes,
            _vm: vm,
            _windows: windows,
            _ram: ram,
        })
    }

    /// What was achieved of its [`Policy`].
    pub fn confinement(&self) -> &Confinement {
        &self.confinement
    }

    /// What stops this VM and looks into it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs the guest until it ends, or [`Handle::stop`] is called. All of the VM's threads have ended when
    /// this returns.
    ///
    /// # Errors
    ///
    /// A thread that can't start, or a KVM that can't go on with this guest.
    pub fn run(mut self) -> Result<Exit, Error> {
        let mut running = Vec::new();
        let started = self.vcpus.drain(..).try_for_each(|vcpu| {
            running.push(vcpu.start()?);
            Ok(())
        });
        let started = match (started, self.confine_runner) {
            (Ok(()), true) => confine_thread(ThreadKind::Control),
            (started, _) => started,
        };
        // The channel lives as long as `self.handle`; the first end counts.
        let end = started.and_then(|()| self.ended.recv().unwrap_or(Ok(Exit::Stopped)));
        if matches!(end, Ok(Exit::Panic)) {
            // Linux says that it has panicked before all of its words are out; then it asks for a reset.
            let _ = self.ended.recv_timeout(LAST_WORDS);
        }
        self.handle.gate.end();
        // The guest has had all answers that it waited for. What a vCPU or a device still waits for may never come: a
        // host's file system may hang.
        self.processes.clear();
        running.into_iter().for_each(Running::join);
        end
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // vCPUs that never ran hold the bus too.
        self.vcpus.clear();
        self.processes.clear();
        self.bus = None;
        self.workers.join();
    }
}
