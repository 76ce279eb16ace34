use std::io;

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress};

use crate::{
    Activation, Device, DeviceKind, EventOps, Queue, QueueError,
    testing::{Buffer, Driver},
};

const NEXT: u16 = VRING_DESC_F_NEXT as u16;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

/// Answers with the length of each request.
struct Count(Option<Queue>);

impl Device for Count {
    fn kind(&self) -> DeviceKind {
        DeviceKind(42)
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![8]
    }
    fn activate(&mut self, mut live: Activation, _: &mut EventOps) -> io::Result<()> {
        self.0 = live.queues.pop();
        Ok(())
    }
    fn queue_ready(&mut self, _: usize, _: &mut EventOps) -> Result<(), QueueError> {
        let Some(queue) = &mut self.0 else { return Ok(()) };
        queue.drain(|chain| chain.readable() as u32)
    }
    fn reset(&mut self, _: &mut EventOps) {
        self.0 = None;
    }
}

fn count() -> Driver {
    Driver::start(Count(None))
}

/// The device stops, and starts anew when asked: nothing else was hurt.
fn refused(mut driver: Driver) {
    driver.publish(0, 0);
    driver.wait_needs_reset();
    driver.initialise(&[8]);
    assert_eq!(driver.request(0, &[Buffer::Readable(b"12345")]).length, 5);
}

#[test]
fn a_chain_that_loops_is_refused() {
    let mut driver = count();
    driver.write_descriptor(0, 0, 0x80_0000, 1, NEXT, 1);
    driver.write_descriptor(0, 1, 0x80_0000, 1, NEXT, 0);
    refused(driver);
}

#[test]
fn a_descriptor_index_outside_the_table_is_refused() {
    let mut driver = count();
    driver.write_descriptor(0, 0, 0x80_0000, 1, NEXT, 8);
    refused(driver);
}

#[test]
fn a_head_outside_the_table_is_refused() {
    let mut driver = count();
    driver.publish(0, 8);
    driver.wait_needs_reset();
}

#[test]
fn a_buffer_outside_memory_is_refused() {
    for (address, length) in
        [(1 << 40, 1), (u64::MAX, 2), (0x80_0000, u32::MAX), (16 << 20, 1), ((16 << 20) - 1, 2)]
    {
        let mut driver = count();
        driver.write_descriptor(0, 0, address, length, 0, 0);
        refused(driver);
    }
}

#[test]
fn a_readable_buffer_after_a_writable_one_is_refused() {
    let mut driver = count();
    driver.write_descriptor(0, 0, 0x80_0000, 1, NEXT | WRITE, 1);
    driver.write_descriptor(0, 1, 0x80_0000, 1, 0, 0);
    refused(driver);
}

/// Behaves as if another vCPU put a chain in whenever the device takes one.
struct Fed(Option<Queue>);

impl Device for Fed {
    fn kind(&self) -> DeviceKind {
        DeviceKind(42)
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![8]
    }
    fn activate(&mut self, mut live: Activation, _: &mut EventOps) -> io::Result<()> {
        self.0 = live.queues.pop();
        Ok(())
    }
    fn queue_ready(&mut self, _: usize, _: &mut EventOps) -> Result<(), QueueError> {
        let Some(queue) = &mut self.0 else { return Ok(()) };
        let memory = queue.ring.memory().clone();
        queue.drain(|_| {
            let index = GuestAddress(0x1000 + 8 * 16 + 2);
            let now: u16 = memory.read_obj(index).unwrap();
            memory.write_obj(now.wrapping_add(1), index).unwrap();
            0
        })
    }
    fn reset(&mut self, _: &mut EventOps) {
        self.0 = None;
    }
}

#[test]
fn a_driver_that_never_pauses_does_not_hold_up_the_reset() {
    let mut driver = Driver::start(Fed(None));
    driver.write_descriptor(0, 0, 0x80_0000, 1, 0, 0);
    driver.publish(0, 0);
    let used = GuestAddress(0x2000 + 2);
    // Far more than the ring holds: the device goes on by itself.
    while driver.memory.read_obj::<u16>(used).unwrap() < 1000 {
        std::thread::yield_now();
    }
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        driver.set(virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS, 0);
        let _ = done.send(());
    });
    assert!(wait.recv_timeout(std::time::Duration::from_secs(10)).is_ok(), "the reset never returned");
}

#[test]
fn an_available_index_that_jumps_is_refused() {
    let mut driver = count();
    let ring = GuestAddress(0x1000 + 8 * 16 + 2);
    driver.memory.write_obj(100u16, ring).unwrap();
    driver.set(virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    driver.wait_needs_reset();
}

fn indirect(driver: &mut Driver, entries: &[(u64, u32, u16, u16)]) {
    let mut table = Vec::new();
    for &(address, length, flags, next) in entries {
        table.extend(address.to_le_bytes());
        table.extend(length.to_le_bytes());
        table.extend(flags.to_le_bytes());
        table.extend(next.to_le_bytes());
    }
    driver.memory.write_slice(&table, GuestAddress(0x70_0000)).unwrap();
    driver.write_descriptor(0, 0, 0x70_0000, table.len() as u32, INDIRECT, 0);
}

#[test]
fn an_indirect_table_may_be_longer_than_the_ring() {
    let mut driver = count();
    let entries: Vec<_> = (1..=100).map(|i| (0x80_0000, 3, if i < 100 { NEXT } else { 0 }, i)).collect();
    indirect(&mut driver, &entries);
    driver.publish(0, 0);
    assert_eq!(driver.wait_used(0).length, 300);
}

#[test]
fn nested_looping_empty_and_odd_indirect_tables_are_refused() {
    let mut driver = count();
    indirect(&mut driver, &[(0x70_0000, 16, INDIRECT, 0)]);
    refused(driver);

    let mut driver = count();
    indirect(&mut driver, &[(0x80_0000, 1, NEXT, 0)]);
    refused(driver);

    let mut driver = count();
    driver.write_descriptor(0, 0, 0x70_0000, 0, INDIRECT, 0);
    refused(driver);

    let mut driver = count();
    driver.write_descriptor(0, 0, 0x70_0000, 17, INDIRECT, 0);
    refused(driver);

    let mut driver = count();
    driver.write_descriptor(0, 0, 0x70_0000, 16, INDIRECT | NEXT, 1);
    refused(driver);

    let mut driver = count();
    driver.write_descriptor(0, 0, u64::MAX - 8, 32, INDIRECT, 0);
    refused(driver);
}
