//! A device of one's own: a read-only disk of 1 MiB that is nowhere; each sector says which it is.
//!
//! `cargo run --example device -- KERNEL INITRAMFS`: the guest has it as `/dev/vda`.

use std::{env, error::Error};

use nofear_vmm::{Config, Policy, virtio};
use virtio::{Answering, Chain, DeviceKind, Requests};

const SECTOR: usize = 512;
const SECTORS: u64 = 2048;

/// A block device (virtio 1.2, 5.2).
struct Sectors;

impl Requests for Sectors {
    fn kind(&self) -> DeviceKind {
        DeviceKind(2)
    }
    fn features(&self) -> u64 {
        1 << 5 // VIRTIO_BLK_F_RO
    }
    fn config(&self) -> Vec<u8> {
        SECTORS.to_le_bytes().into()
    }
    /// Writes sectors, then a status: 0, or 1 for an error. Every byte of the request is the guest's choice.
    fn answer(&mut self, _queue: usize, request: &Chain) -> u32 {
        let mut header = [0; 16];
        let Some(room) = request.writable().checked_sub(1) else { return 0 };
        let is_read = request.read_at(0, &mut header) && header[..4] == [0; 4];
        let first = header.last_chunk().map_or(0, |sector| u64::from_le_bytes(*sector));
        let count = (room / SECTOR) as u64;
        if !is_read || first.checked_add(count).is_none_or(|end| end > SECTORS) {
            return u32::from(request.write_at(room, &[1]));
        }
        let written = (0..count).all(|number| {
            let text = format!("{:<511}\n", format!("this is sector {}", first + number));
            request.write_at(number as usize * SECTOR, text.as_bytes())
        });
        if written && request.write_at(room, &[0]) { request.writable() as u32 } else { 0 }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let kernel = arguments.next().ok_or("usage: device KERNEL INITRAMFS")?;
    let initramfs = arguments.next().ok_or("usage: device KERNEL INITRAMFS")?;
    let config =
        Config::new(kernel).with_initramfs(initramfs).with_device("sectors", Answering::new(Sectors));
    let vm = config.prepare()?.confine(&Policy::default())?;
    let handle = vm.handle();
    println!("{}", vm.run()?);
    print!("{}", String::from_utf8_lossy(&handle.console()));
    Ok(())
}
