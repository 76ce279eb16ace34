//! A hostile guest at a device's registers: any access, in any order and width, with rings anywhere.
//!
//! Found here: a panic or a hang of the transport or of the device's thread, a status that was never written, and a
//! device that does not serve once it was reset.

#![no_main]

use std::sync::mpsc::channel;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use virtio::testing::{Buffer, Driver, memory};
use virtio_rng::Rng;
use vm_memory::{Bytes, GuestAddress};

#[derive(Arbitrary, Debug)]
enum Access {
    Read {
        offset: u16,
        width: u8,
    },
    Write {
        offset: u16,
        bytes: [u8; 8],
        width: u8,
    },
    /// A register of those that there are.
    Register {
        which: u8,
        value: Value,
    },
    /// What a ring or a descriptor may lie on.
    Memory {
        at: u32,
        bytes: Vec<u8>,
    },
    Begin,
    Kick(u8),
}

#[derive(Arbitrary, Debug)]
enum Value {
    Small(u8),
    Page(u16),
    Any(u32),
}

const REGISTERS: [u32; 20] = [
    0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xac, 0xb0,
    0xc0, 0xfc, 0x100,
];
const STATUS: u32 = 0x70;
const NEEDS_RESET: u32 = 0x40;

fuzz_target!(|accesses: Vec<Access>| {
    let (running, ended) = channel::<()>();
    let mut driver = Driver::start_on(Rng::new(), memory(), move |worker| {
        worker.run().expect("a device's worker");
        drop(running);
    });
    for access in accesses.into_iter().take(256) {
        match access {
            Access::Read { offset, width } => {
                let mut bytes = [0xa5; 8];
                driver.transport.read(offset.into(), &mut bytes[..usize::from(width % 9)]);
            }
            Access::Write { offset, bytes, width } => {
                driver.transport.write(offset.into(), &bytes[..usize::from(width % 9)]);
            }
            Access::Register { which, value } => {
                let value = match value {
                    Value::Small(value) => value.into(),
                    Value::Page(page) => u32::from(page) << 12,
                    Value::Any(value) => value,
                };
                driver.set(REGISTERS[usize::from(which) % REGISTERS.len()], value);
            }
            Access::Memory { at, bytes } => {
                // What is not there is not written.
                let _ = driver.memory.write_slice(&bytes, GuestAddress(at.into()));
            }
            Access::Begin => driver.initialise(&[64]),
            Access::Kick(queue) => driver.set(0x50, queue.into()),
        }
        let status = driver.get(STATUS);
        assert_eq!(status & !(1 | 2 | 4 | 8 | 128 | NEEDS_RESET), 0, "{status:#x}");
        assert!(status & 4 == 0 || status & 8 != 0, "in use without an agreement: {status:#x}");
    }
    driver.set(STATUS, 0);
    assert_eq!(driver.get(STATUS), 0);
    driver.initialise(&[64]);
    assert_eq!(driver.request(0, &[Buffer::Writable(100)]).length, 100);
    // What a thread has that is about to end looks like a leak.
    drop(driver);
    let _ = ended.recv();
});
