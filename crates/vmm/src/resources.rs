//! The first step: checks a configuration and opens everything that it names.

use std::{
    collections::HashMap,
    os::fd::{FromRawFd, IntoRawFd},
};

use kvm_ioctls::{Cap, Kvm};
use loader::{InitramfsSource, KernelImage};
use virtio_balloon::Balloon;
use virtio_blk::{Blk, Image};
use virtio_net::{Net, PasstStream, Tap};
use virtio_vsock as vsock;
use vmm_sys_util::eventfd::EventFd;

use crate::{
    Config, Console, CustomDevice, Disk, DiskImage, Error, Initramfs, Link, MAX_DEVICES, MAX_VCPUS, Network,
    Policy, Share, Vm, VsockListener, command_line::command_line, confine, exit::Ends, memory, share,
};

/// What KVM must have. Each is in Linux 4.20 or before.
const NEEDED: &[(Cap, &str)] = &[
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Open files and sockets, and what to do with them. Nothing is opened by path any more.
pub struct Resources {
    pub(crate) kvm: Kvm,
    pub(crate) kernel: KernelImage,
    pub(crate) initramfs: Vec<InitramfsSource>,
    pub(crate) command_line: String,
    pub(crate) memory: u64,
    pub(crate) vcpus: u8,
    pub(crate) shares: Vec<Share>,
    pub(crate) disks: Vec<Blk>,
    pub(crate) vsock: Option<vsock::Vsock>,
    pub(crate) network: Option<Interface>,
    pub(crate) balloon: Option<Balloon>,
    pub(crate) devices: Vec<CustomDevice>,
    pub(crate) console: Console,
}

/// A network device by its back end.
pub(crate) enum Interface {
    Tap(Net<Tap>),
    Passt(Net<PasstStream>),
}

impl Config {
    /// A VM of 512 MiB and one vCPU, with nothing but a kernel.
    pub fn new(kernel: impl Into<std::path::PathBuf>) -> Self {
        Self {
            kernel: kernel.into(),
            cache: None,
            initramfs: Vec::new(),
            command_line: String::new(),
            memory: 512 << 20,
            vcpus: 1,
            shares: Vec::new(),
            disks: Vec::new(),
            vsock: None,
            network: None,
            balloon: false,
            devices: Vec::new(),
            console: Console::Ring,
        }
    }

    /// Checks every value and opens every file and socket.
    ///
    /// # Errors
    ///
    /// A value out of its range, a file that can't be opened or is not what it should be, a host without
    /// KVM.
    pub fn prepare(self) -> Result<Resources, Error> {
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return Err(Error::Config(format!("{} vCPUs: 1 to {MAX_VCPUS} are possible", self.vcpus)));
        }
        let devices = self.shares.len()
            + self.disks.len()
            + usize::from(self.vsock.is_some())
            + usize::from(self.network.is_some())
            + usize::from(self.balloon)
            + self.devices.len()
            + 1;
        if devices > MAX_DEVICES {
            return Err(Error::Config(format!("{devices} devices: at most {MAX_DEVICES} are possible")));
        }
        if let Some(device) = self.devices.iter().find(|device| device.name.contains('\0')) {
            return Err(Error::Config(format!("the name of the device {:?} holds a NUL", device.name)));
        }
        if self.command_line.contains('\0') {
            return Err(Error::Config("the kernel command line holds a NUL".into()));
        }
        memory::check(self.memory)?;
        let queues = u16::from(self.vcpus);
        Ok(Resources {
            kvm: open_kvm()?,
            kernel: KernelImage::open(&self.kernel, self.cache.as_deref())?,
            initramfs: self.initramfs.into_iter().map(open_initramfs).collect::<Result<_, _>>()?,
            command_line: command_line(self.console, &self.command_line),
            memory: self.memory,
            vcpus: self.vcpus,
            shares: self.shares,
            disks: self.disks.into_iter().map(|disk| open_disk(disk, queues)).collect::<Result<_, _>>()?,
            vsock: self.vsock.map(open_vsock).transpose()?,
            network: self.network.map(open_network).transpose()?,
            balloon: self.balloon.then(open_balloon).transpose()?,
            devices: self.devices,
            console: self.console,
        })
    }
}

impl Resources {
    /// Confines the process by `policy`, then builds the VM. The guest does not run yet.
    ///
    /// # Errors
    ///
    /// A confinement that the host refuses, memory that it does not have, a failing KVM call, or an image
    /// that does not fit the guest's memory.
    pub fn confine(mut self, policy: &Policy) -> Result<Vm, Error> {
        confine::confine_process(policy)?;
        let (ends, ended) = Ends::new();
        let Resources { shares, .. } = &mut self;
        // Before there is anything of the guest's.
        let shares = share::serve(std::mem::take(shares), policy, &ends)?;
        let are_apart = policy.processes && shares.iter().all(|share| share.process.is_some());
        let confinement = confine::leave_namespaces(policy, are_apart)?;
        Vm::build(self, shares, policy, confinement, (ends, ended))
    }
}

fn open_kvm() -> Result<Kvm, Error> {
    let kvm = Kvm::new().map_err(|e| Error::OpenKvm(std::io::Error::from_raw_os_error(e.errno())))?;
    if kvm.get_api_version() != 12 {
        return Err(Error::KvmLacks("version 12 of its interface"));
    }
    for &(capability, name) in NEEDED {
        if !kvm.check_extension(capability) {
            return Err(Error::KvmLacks(name));
        }
    }
    Ok(kvm)
}

fn open_initramfs(part: Initramfs) -> Result<InitramfsSource, Error> {
    Ok(match part {
        Initramfs::File(path) => InitramfsSource::open(&path)?,
        Initramfs::Bytes(bytes) => InitramfsSource::Bytes(bytes),
        Initramfs::Source(source) => source,
    })
}

fn open_disk(disk: Disk, queues: u16) -> Result<Blk, Error> {
    let Disk { image, read_only, id } = disk;
    let (name, image) = match image {
        DiskImage::Path(path) => (path.display().to_string(), Image::open(&path, read_only)),
        DiskImage::File(file) => (id.clone(), Image::from_file(file, read_only)),
    };
    let failed = |cause| Error::Disk { name: name.clone(), cause };
    let image = image.map_err(|e| failed(Box::new(e)))?;
    Blk::new(image, &id, queues).map_err(|e| failed(Box::new(e)))
}

fn open_vsock(config: crate::Vsock) -> Result<vsock::Vsock, Error> {
    let listen = config.listen.into_iter().map(|VsockListener { port, socket, hold }| {
        // SAFETY: the descriptor is owned, and its only owner from here on.
        let hold = hold.map(|hold| unsafe { EventFd::from_raw_fd(hold.into_raw_fd()) });
        vsock::Listen { port, socket, hold }
    });
    let listen = listen.collect();
    let connect: HashMap<_, _> = config.connect.into_iter().map(|entry| (entry.port, entry.door)).collect();
    vsock::Vsock::new(vsock::Config { cid: config.cid, listen, connect })
        .map_err(|e| Error::Config(e.to_string()))
}

fn open_balloon() -> Result<Balloon, Error> {
    Balloon::new().map_err(Error::system("eventfd for the balloon"))
}

fn open_network(config: Network) -> Result<Interface, Error> {
    let Network { link, policy, mtu, resolver, journal } = config;
    let config = virtio_net::Config { policy, mtu, resolver, journal };
    let device = match link {
        Link::Tap(queues) => {
            let taps = queues.into_iter().map(Tap::new).collect::<Result<_, _>>();
            let taps = taps.map_err(|e| Error::Device("network".into(), Box::new(e)))?;
            Net::with_queues(taps, config).map(Interface::Tap)
        }
        Link::Passt(stream) => Net::new(PasstStream::new(stream), config).map(Interface::Passt),
    };
    device.map_err(|e| Error::Config(e.to_string()))
}
