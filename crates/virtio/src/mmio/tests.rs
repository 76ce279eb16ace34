use std::io;

use virtio_bindings::virtio_mmio::*;

use crate::{
    Activation, Device, DeviceKind, EventOps, Queue, QueueError, Signal,
    testing::{Buffer, Driver},
};

/// Answers each request with its own bytes.
struct Echo(Vec<Queue>);

impl Device for Echo {
    fn kind(&self) -> DeviceKind {
        DeviceKind(42)
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![16, 16]
    }
    fn config(&self) -> Vec<u8> {
        vec![1, 2, 3]
    }
    fn activate(&mut self, live: Activation, _: &mut EventOps) -> io::Result<()> {
        self.0 = live.queues;
        Ok(())
    }
    fn queue_ready(&mut self, queue: usize, _: &mut EventOps) -> Result<(), QueueError> {
        self.0[queue].drain(|chain| {
            let mut bytes = vec![0; chain.readable()];
            assert!(chain.read_at(0, &mut bytes));
            bytes.truncate(chain.writable());
            assert!(chain.write_at(0, &bytes));
            bytes.len() as u32
        })
    }
    fn reset(&mut self, _: &mut EventOps) {
        self.0.clear();
    }
}

fn echo() -> Driver {
    Driver::start(Echo(Vec::new()))
}

#[test]
fn a_request_is_served_and_interrupts_the_driver() {
    let mut driver = echo();
    for round in 0..100u8 {
        let request =
            [Buffer::Readable(&[round, 2]), Buffer::Readable(&[3]), Buffer::Writable(2), Buffer::Writable(8)];
        let used = driver.request(usize::from(round % 2), &request);
        assert_eq!(used.length, 3);
        assert_eq!(&used.written[..3], [round, 2, 3]);
    }
    assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    driver.set(VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    assert!(driver.transport.interrupt().read().is_ok());
}

#[test]
fn an_interrupt_whose_acknowledgement_never_comes_is_followed_by_others() {
    let mut driver = echo();
    for _ in 0..3 {
        driver.request(0, &[Buffer::Readable(b"a"), Buffer::Writable(1)]);
        assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 1);
        assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 0, "told once");
    }
    driver.publish(0, u16::MAX);
    driver.wait_needs_reset();
    for _ in 0..2 {
        assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS) & 2, 2, "until it is acknowledged");
    }
    driver.set(VIRTIO_MMIO_INTERRUPT_ACK, 2);
    assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn a_reset_device_starts_anew() {
    let mut driver = echo();
    driver.request(0, &[Buffer::Readable(b"a"), Buffer::Writable(1)]);
    driver.initialise(&[8, 4]);
    assert_eq!(driver.request(1, &[Buffer::Readable(b"b"), Buffer::Writable(1)]).written, b"b");
}

#[test]
fn configuration_space_reads_at_every_width_and_ends_in_zeroes() {
    let mut driver = echo();
    let mut wide = [9; 8];
    driver.transport.read(0x100, &mut wide);
    assert_eq!(wide, [1, 2, 3, 0, 0, 0, 0, 0]);
    let mut byte = [9];
    driver.transport.read(0x102, &mut byte);
    assert_eq!(byte, [3]);
    driver.transport.read(u64::MAX, &mut byte);
    assert_eq!(byte, [0]);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let mut driver = echo();
    driver.set(VIRTIO_MMIO_STATUS, 0);
    driver.set(VIRTIO_MMIO_STATUS, 3);
    driver.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    driver.set(VIRTIO_MMIO_DRIVER_FEATURES, u32::MAX);
    driver.set(VIRTIO_MMIO_STATUS, 11);
    assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 3);
}

#[test]
fn a_driver_without_the_modern_interface_is_refused() {
    let mut driver = echo();
    driver.set(VIRTIO_MMIO_STATUS, 0);
    driver.set(VIRTIO_MMIO_STATUS, 11);
    assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 3);
}

#[test]
fn status_bits_are_never_taken_back_one_by_one() {
    let mut driver = echo();
    driver.set(VIRTIO_MMIO_STATUS, 3);
    assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 15);
}

#[test]
fn queues_outside_memory_stop_the_device_alone() {
    let mut driver = echo();
    driver.initialise(&[16, 16]);
    driver.set(VIRTIO_MMIO_STATUS, 0);
    driver.set(VIRTIO_MMIO_STATUS, 3);
    driver.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    driver.set(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    driver.set(VIRTIO_MMIO_STATUS, 11);
    for queue in 0..2 {
        driver.set(VIRTIO_MMIO_QUEUE_SEL, queue);
        driver.set(VIRTIO_MMIO_QUEUE_DESC_HIGH, 0xffff_ffff);
        driver.set(VIRTIO_MMIO_QUEUE_READY, 1);
    }
    driver.set(VIRTIO_MMIO_STATUS, 15);
    driver.wait_needs_reset();
    driver.initialise(&[16, 16]);
    assert_eq!(driver.request(0, &[Buffer::Readable(b"x"), Buffer::Writable(1)]).written, b"x");
}

#[test]
fn a_driver_that_is_ready_without_queues_needs_a_reset() {
    let mut driver = echo();
    driver.set(VIRTIO_MMIO_STATUS, 0);
    driver.set(VIRTIO_MMIO_STATUS, 3);
    driver.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    driver.set(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    driver.set(VIRTIO_MMIO_STATUS, 15);
    driver.wait_needs_reset();
}

#[test]
fn any_register_access_is_survived() {
    use proptest::prelude::*;
    let access = (0u64..0x140, any::<u32>(), 0usize..9, any::<bool>());
    proptest!(ProptestConfig::with_cases(64), |(accesses in prop::collection::vec(access, 0..200))| {
        let mut driver = echo();
        for (offset, value, width, write) in accesses {
            let mut data = [0; 8];
            data[..4].copy_from_slice(&value.to_le_bytes());
            if write {
                driver.transport.write(offset, &data[..width]);
            } else {
                driver.transport.read(offset, &mut data[..width]);
            }
        }
        driver.initialise(&[16, 16]);
        prop_assert_eq!(driver.request(0, &[Buffer::Readable(b"x"), Buffer::Writable(1)]).written, b"x");
    });
}

#[test]
fn a_call_takes_the_place_of_the_event_and_says_how() {
    let mut driver = echo();
    let (pulses, pulsed) = std::sync::mpsc::channel();
    assert_eq!(driver.get(super::MESSAGE), 0, "nobody would send it");
    driver.transport.interrupt_by(move |signal| pulses.send(signal).unwrap());
    let interrupted_by = |driver: &mut Driver| {
        driver.request(0, &[Buffer::Readable(b"x"), Buffer::Writable(1)]);
        pulsed.recv_timeout(std::time::Duration::from_secs(10)).unwrap()
    };
    assert_eq!(interrupted_by(&mut driver), Signal::Line);
    assert!(driver.transport.interrupt().read().is_err());

    // By a message once its data was told; the address alone changes nothing.
    assert_eq!(driver.get(super::MESSAGE), 1);
    driver.set(super::MESSAGE_ADDRESS_LOW, 0xfee0_1000);
    driver.set(super::MESSAGE_ADDRESS_HIGH, 0);
    assert_eq!(interrupted_by(&mut driver), Signal::Line);
    driver.set(super::MESSAGE_DATA, 0x41);
    assert_eq!(interrupted_by(&mut driver), Signal::Message { address: 0xfee0_1000, data: 0x41 });
    driver.set(super::MESSAGE_ADDRESS_LOW, 0xfee0_2000);
    assert_eq!(interrupted_by(&mut driver), Signal::Message { address: 0xfee0_1000, data: 0x41 });

    // Where no controller is, and after a reset, it is the line.
    driver.set(super::MESSAGE_ADDRESS_HIGH, 1);
    driver.set(super::MESSAGE_DATA, 0x42);
    assert_eq!(interrupted_by(&mut driver), Signal::Line);
    driver.set(super::MESSAGE_ADDRESS_HIGH, 0);
    driver.set(super::MESSAGE_DATA, 0x42);
    assert_eq!(interrupted_by(&mut driver), Signal::Message { address: 0xfee0_2000, data: 0x42 });
    driver.initialise(&[16, 16]);
    assert_eq!(interrupted_by(&mut driver), Signal::Line);
}

#[test]
fn a_window_reads_as_the_registers_do_whatever_is_written() {
    let mut driver = echo();
    let windows = super::Windows::new(3).unwrap();
    driver.transport.interrupt_by(|_| ());
    assert!(windows.window(3).is_none());
    driver.transport.show(windows.window(1).unwrap());
    let shown = windows.window(1).unwrap();
    let same = |driver: &mut Driver, what: &str| {
        for register in (0..0x110).step_by(4).filter(|&register| register != VIRTIO_MMIO_INTERRUPT_STATUS) {
            let (mut read, mut seen) = ([0; 4], [0; 4]);
            driver.transport.read(register.into(), &mut read);
            shown.read(register as usize, &mut seen);
            assert_eq!(read, seen, "{what}: register {register:#x}");
        }
    };
    same(&mut driver, "running");
    // Every register with values of all kinds, among them those that reset the device and start it.
    let mut random: u32 = 1;
    for round in 0..5000 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let value = if round % 2 == 0 { random >> 28 } else { random };
        let register = (random >> 8) % 0x44 * 4;
        // Memory is the guest's business: an address there would be a ring.
        if register != VIRTIO_MMIO_STATUS || value & 4 == 0 {
            driver.set(register, value);
        }
        same(&mut driver, &format!("{value:#x} written to {register:#x}"));
    }
    driver.initialise(&[16, 16]);
    same(&mut driver, "started again");
    // The device's part of Status, and why it interrupts.
    driver.publish(0, 999);
    driver.wait_needs_reset();
    let mut seen = [0; 4];
    shown.read(VIRTIO_MMIO_INTERRUPT_STATUS as usize, &mut seen);
    assert_eq!(u32::from_le_bytes(seen), 3);
    same(&mut driver, "broken");
    driver.set(VIRTIO_MMIO_INTERRUPT_ACK, 2);
    shown.read(VIRTIO_MMIO_INTERRUPT_STATUS as usize, &mut seen);
    assert_eq!(u32::from_le_bytes(seen), 1);
    driver.initialise(&[16, 16]);
    same(&mut driver, "mended");
    let (mut first, mut last) = ([0xff; 4], [0xff; 4]);
    windows.window(0).unwrap().read(0, &mut first);
    windows.window(2).unwrap().read(0xffc, &mut last);
    assert_eq!((first, last), ([0; 4], [0; 4]), "the neighbours");
}
