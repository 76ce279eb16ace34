//! A KVM virtual machine monitor as a library.
//!
//! A VM is made in three steps, in this order: [`Config::prepare`] checks the configuration and opens
//! every file and socket that it names; [`Resources::confine`] gives up what the process no longer needs
//! and builds the VM; [`Vm::run`] runs it until the guest ends. After `confine` no file is opened by path.
//!
//! ```no_run
//! use nofear_vmm::{self as vmm, Config, Policy};
//!
//! # fn main() -> Result<(), vmm::Error> {
//! let vm = Config::new("/boot/vmlinuz").prepare()?.confine(&Policy::default())?;
//! let handle = vm.handle();
//! let exit = vm.run()?;
//! println!("the guest ended: {exit}");
//! print!("{}", String::from_utf8_lossy(&handle.console()));
//! # Ok(())
//! # }
//! ```
//!
//! No type of KVM or of the guest's memory is in a public signature of this crate. One is behind one: a device of your
//! own ([`CustomDevice`]) is a [`virtio::Device`], and that gets the guest's memory as vm-memory has it, beside queues
//! that read and write chains without it.

mod apart;
mod building;
mod bus;
mod capabilities;
mod command_line;
mod config;
mod confine;
mod console;
mod cpu;
mod devices;
mod error;
mod exit;
mod gate;
mod memory;
mod namespaces;
pub mod probe;
mod reach;
mod resources;
mod seccomp;
mod share;
mod vcpu;
mod vm;

pub use apart::{Process, fork};
pub use config::{
    Config, Console, CustomDevice, Disk, DiskImage, Initramfs, Link, MAX_DEVICES, MAX_VCPUS, MIN_MEMORY,
    Network, Share, Vsock, VsockListener, VsockPort,
};
pub use confine::{Confinement, Policy, ThreadKind, confine_thread, confine_thread_to};
pub use error::Error;
pub use exit::Exit;
pub use gate::{Exits, Registers};
pub use reach::{Reach, Rights, landlock_abi};
pub use resources::Resources;
/// What devices of your own are made of.
pub use virtio;
pub use virtio_balloon::Counts as BalloonCounts;
/// What a network device's policy and its resolver's messages are made of.
pub use virtio_net as net;
pub use virtio_vsock::{Door, Visitors};
pub use vm::{Handle, Vm};
