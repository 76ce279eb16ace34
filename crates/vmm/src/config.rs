//! What a VM is to be: paths and numbers, pure data.

use std::{fmt, fs::File, os::fd::OwnedFd, os::unix::net::UnixStream, path::PathBuf};

use loader::InitramfsSource;
use ninep::Export;
use virtio_net::{
    filter::{Journal, Policy},
    resolver::Channel,
};
use virtio_vsock::Door;

use crate::ThreadKind;

/// The least guest memory, in bytes.
pub const MIN_MEMORY: u64 = 64 << 20;

/// The most vCPUs.
pub const MAX_VCPUS: u8 = 32;

/// The most virtio devices: one interrupt line of the I/O APIC each.
pub const MAX_DEVICES: usize = 19;

/// A VM to be. [`prepare`](Self::prepare) checks it and opens what it names.
#[derive(Debug)]
pub struct Config {
    /// The kernel: a bzImage or an ELF vmlinux.
    pub kernel: PathBuf,
    /// Where unpacked kernels are kept from one run to the next; none: unpacked every time.
    pub cache: Option<PathBuf>,
    /// The parts of the initramfs, one after the other; may be empty.
    pub initramfs: Vec<Initramfs>,
    /// What is added to the kernel command line; no NUL.
    pub command_line: String,
    /// Guest memory in bytes, a multiple of 2 MiB, at least [`MIN_MEMORY`].
    pub memory: u64,
    /// 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Trees that the guest can mount over 9P.
    pub shares: Vec<Share>,
    /// Disks: the guest's `/dev/vda`, `/dev/vdb` and so on, in this order.
    pub disks: Vec<Disk>,
    /// Sockets between guest and host.
    pub vsock: Option<Vsock>,
    /// A network interface; none: the guest has no network.
    pub network: Option<Network>,
    /// A balloon: memory that the guest does not use goes back to the host, by itself and on request.
    pub balloon: bool,
    /// Devices of your own.
    pub devices: Vec<CustomDevice>,
    /// Where the guest's kernel messages go.
    pub console: Console,
}

/// A virtio device that this crate knows nothing of: [`virtio::Device`].
pub struct CustomDevice {
    /// The name of its thread, at most 15 bytes; no NUL.
    pub name: String,
    /// What it does.
    pub device: Box<dyn virtio::Device>,
    /// What its thread is held to, as long as [`Policy::threads`](crate::Policy::threads) says so. It opens no file
    /// whatever the kind is; [`ThreadKind::Entropy`] is the least that any device needs.
    pub thread: ThreadKind,
}

impl fmt::Debug for CustomDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomDevice")
            .field("name", &self.name)
            .field("thread", &self.thread)
            .finish_non_exhaustive()
    }
}

/// A part of the initramfs.
#[derive(Debug)]
pub enum Initramfs {
    /// A file, compressed as the guest's kernel can unpack it, or not.
    File(PathBuf),
    /// A cpio archive in memory.
    Bytes(Vec<u8>),
    /// What the loader made: the modules of a stock kernel.
    Source(InitramfsSource),
}

/// A tree that the guest can mount over 9P.
#[derive(Debug)]
pub struct Share {
    /// The mount tag: 1 to 36 bytes.
    pub tag: String,
    /// What of the host the guest sees.
    pub export: Export,
}

/// A disk whose content is a raw image. [`Config::prepare`] locks it until the VM has ended: shared when
/// read-only, else exclusive, and refuses what is locked already.
#[derive(Debug)]
pub struct Disk {
    /// Its content: a multiple of 512 bytes.
    pub image: DiskImage,
    /// Whether the guest can't write.
    pub read_only: bool,
    /// The serial number that the guest sees: at most 20 printable ASCII characters, no spaces; may be empty.
    pub id: String,
}

/// What a disk's content is.
#[derive(Debug)]
pub enum DiskImage {
    /// A regular file or a block device.
    Path(PathBuf),
    /// One that is open already, for reading and, unless read-only, for writing; it may have no name.
    File(File),
}

/// Sockets between guest and host. The guest connects to Unix sockets only.
#[derive(Debug, Default)]
pub struct Vsock {
    /// The guest's CID, 3 to 2^32 - 2. It is private to this VM.
    pub cid: u32,
    /// Sockets on the host of which each connection becomes one to a guest port.
    pub listen: Vec<VsockListener>,
    /// What the guest may connect to, by host port.
    pub connect: Vec<VsockPort>,
}

/// A socket of the host that stands for a port of the guest.
#[derive(Debug)]
pub struct VsockListener {
    /// The guest's port.
    pub port: u32,
    /// Who connects here talks to it: a Unix or TCP socket that listens.
    pub socket: OwnedFd,
    /// An event descriptor: until it is readable, clients wait in the socket's backlog. Without one they go to the
    /// guest as soon as its driver is ready, and are closed when nobody listens there.
    pub hold: Option<OwnedFd>,
}

/// A port of the host's, and where the guest's connections to it come out.
#[derive(Clone, Debug)]
pub struct VsockPort {
    /// The vsock port.
    pub port: u32,
    /// What it opens onto; the [`Visitors`](crate::Visitors) that were made with it get the connections.
    pub door: Door,
}

/// A network interface. The guest is told its addresses by other means; the device holds it to them.
#[derive(Debug)]
pub struct Network {
    /// What carries the frames.
    pub link: Link,
    /// The guest's addresses, and what it may reach.
    pub policy: Policy,
    /// The longest IP packet on the link in bytes, 1,280 to 65,520.
    pub mtu: u16,
    /// Where the guest's questions for names go; none: they get no answer.
    pub resolver: Option<Channel>,
    /// Where it is written what was refused.
    pub journal: Journal,
}

/// What carries a network interface's frames: descriptors that somebody has opened.
#[derive(Debug)]
pub enum Link {
    /// A tap, made with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR, that is up on the host: a descriptor for each of its
    /// queues, at most 32. More than one need IFF_MULTI_QUEUE.
    Tap(Vec<OwnedFd>),
    /// A connected stream to passt.
    Passt(UnixStream),
}

/// Where the guest's kernel messages go. They are always kept in a ring, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Console {
    /// Only to the ring; the kernel runs quiet.
    #[default]
    Ring,
    /// To the standard error of this process as they come, with all of the kernel's messages.
    Stderr,
}
