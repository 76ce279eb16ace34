//! Boots a kernel with an initramfs, a read-only 9P share, a vsock port and disks, and says how the guest
//! ended.
//!
//! `cargo run --example boot -- KERNEL INITRAMFS [DISK...]`

use std::{env, error::Error, fs::File, os::unix::net::UnixListener, process};

use nofear_vmm::{Config, Policy};
use rustix::fs::{AtFlags, unlinkat};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let kernel = arguments.next().ok_or("usage: boot KERNEL INITRAMFS [DISK...]")?;
    let initramfs = arguments.next().ok_or("usage: boot KERNEL INITRAMFS [DISK...]")?;
    // Who connects to this socket on the host is connected to port 1000 of the guest.
    let (folder, socket) = (env::temp_dir(), format!("nofear-example-{}", process::id()));
    let config = Config::new(kernel)
        .with_memory(256 << 20)
        .with_initramfs(initramfs)
        // In the guest: mount -t 9p -o trans=virtio,version=9p2000.L usr /mnt
        .with_share("usr", "/usr")?
        .with_listener(1000, UnixListener::bind(folder.join(&socket))?);
    // /dev/vda and so on.
    let config = arguments.fold(config, Config::with_disk);

    let folder = File::open(folder)?;
    // From here on this process finds nothing of the host by a path any more.
    let vm = config.prepare()?.confine(&Policy::default())?;
    let handle = vm.handle();
    let exit = vm.run();
    unlinkat(folder, &*socket, AtFlags::empty())?;
    println!("{}", exit?);
    print!("{}", String::from_utf8_lossy(&handle.console()));
    Ok(())
}
