//! A device of one's own: a read-only disk of 1 MiB that is nowhere; each sector says which it is.
//!
//! `cargo run --example device -- KERNEL INITRAMFS`: the guest has it as `/dev/vda`.

use std::{env, error::Error, io, path::PathBuf};

use nofear_vmm::{Config, CustomDevice, Initramfs, Policy, ThreadKind, virtio};
use virtio::{Activation, Chain, Device, DeviceKind, EventOps, Queue, QueueError};

const SECTOR: usize = 512;
const SECTORS: u64 = 2048;

/// A block device (virtio 1.2, 5.2).
#[derive(Default)]
struct Sectors(Option<Queue>);

impl Device for Sectors {
    fn kind(&self) -> DeviceKind {
        DeviceKind(2)
    }
    fn features(&self) -> u64 {
        1 << 5 // VIRTIO_BLK_F_RO
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![128]
    }
    fn config(&self) -> Vec<u8> {
        SECTORS.to_le_bytes().into()
    }
    fn activate(&mut self, live: Activation, _: &mut EventOps) -> io::Result<()> {
        self.0 = live.queues.into_iter().next();
        Ok(())
    }
    fn queue_ready(&mut self, _: usize, _: &mut EventOps) -> Result<(), QueueError> {
        self.0.as_mut().map_or(Ok(()), |queue| queue.drain(|chain| answer(chain)))
    }
    fn reset(&mut self, _: &mut EventOps) {
        self.0 = None;
    }
}

/// Writes sectors, then a status: 0, or 1 for an error. Every byte of the request is the guest's choice.
fn answer(chain: &Chain) -> u32 {
    let mut header = [0; 16];
    let Some(room) = chain.writable().checked_sub(1) else { return 0 };
    let is_read = chain.read_at(0, &mut header) && header[..4] == [0; 4];
    let first = header.last_chunk().map_or(0, |sector| u64::from_le_bytes(*sector));
    let count = (room / SECTOR) as u64;
    if !is_read || first.checked_add(count).is_none_or(|end| end > SECTORS) {
        return u32::from(chain.write_at(room, &[1]));
    }
    let written = (0..count).all(|number| {
        let text = format!("{:<511}\n", format!("this is sector {}", first + number));
        chain.write_at(number as usize * SECTOR, text.as_bytes())
    });
    if written && chain.write_at(room, &[0]) { chain.writable() as u32 } else { 0 }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let mut config = Config::new(arguments.next().ok_or("usage: device KERNEL INITRAMFS")?);
    config.initramfs.push(Initramfs::File(arguments.next().ok_or("usage: device KERNEL INITRAMFS")?));
    let device = Box::new(Sectors::default());
    config.devices.push(CustomDevice { name: "sectors".into(), device, thread: ThreadKind::Entropy });
    let vm = config.prepare()?.confine(&Policy::default())?;
    let handle = vm.handle();
    println!("{}", vm.run()?);
    print!("{}", String::from_utf8_lossy(&handle.console()));
    Ok(())
}
