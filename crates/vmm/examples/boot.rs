//! Boots a kernel with an initramfs, a read-only 9P share, a vsock port and disks, and says how the guest
//! ended.
//!
//! `cargo run --example boot -- KERNEL INITRAMFS [DISK...]`

use std::{env, error::Error, os::unix::net::UnixListener, path::PathBuf};

use ninep::ExportBuilder;
use nofear_vmm::{Config, Disk, DiskImage, Initramfs, Policy, Share, Vsock, VsockListener};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let kernel = arguments.next().ok_or("usage: boot KERNEL INITRAMFS [DISK...]")?;
    let initramfs = arguments.next().ok_or("usage: boot KERNEL INITRAMFS [DISK...]")?;
    let directory = env::temp_dir().join(format!("nofear-example-{}", std::process::id()));
    std::fs::create_dir(&directory)?;

    let mut config = Config::new(kernel);
    config.memory = 256 << 20;
    config.initramfs.push(Initramfs::File(initramfs));
    // In the guest: mount -t 9p -o trans=virtio,version=9p2000.L usr /mnt
    let export = ExportBuilder::new().directory("/", "/usr")?.open()?;
    config.shares.push(Share { tag: "usr".into(), export });
    // /dev/vda and so on.
    for (index, path) in arguments.enumerate() {
        let (image, id) = (DiskImage::Path(path), format!("disk-{index}"));
        config.disks.push(Disk { image, read_only: false, id });
    }
    // Who connects to this socket on the host is connected to port 1000 of the guest.
    let socket = UnixListener::bind(directory.join("port-1000"))?;
    let listen = vec![VsockListener { port: 1000, socket: socket.into(), hold: None }];
    config.vsock = Some(Vsock { cid: 3, listen, connect: Vec::new() });

    let vm = config.prepare()?.confine(&Policy::default())?;
    let handle = vm.handle();
    let exit = vm.run();
    std::fs::remove_dir_all(&directory)?;
    println!("{}", exit?);
    print!("{}", String::from_utf8_lossy(&handle.console()));
    Ok(())
}
