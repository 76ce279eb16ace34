//! A hostile guest's driver on the entropy device: buffers of any kind and size, in any number.
//!
//! Found here: a panic or a hang of the device's thread, a request that never comes back, and a length that is more
//! than there was room for, or than a request gets.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use virtio::testing::{Buffer, Driver};
use virtio_rng::{MAX_REQUEST, Rng};

#[derive(Arbitrary, Debug)]
enum Action {
    Request(Vec<Piece>),
    /// Requests without waiting for an answer.
    Burst(u8),
    Reset,
    BreakRing(u16),
}

#[derive(Arbitrary, Debug)]
enum Piece {
    Room(u16),
    Much(u8),
    Readable(u8),
}

fuzz_target!(|actions: Vec<Action>| {
    let mut driver = Driver::start(Rng::new());
    for action in actions.into_iter().take(32) {
        match action {
            Action::Request(pieces) => {
                let bytes = [7; 256];
                // What the device reads comes first in a chain.
                let (readable, writable): (Vec<_>, Vec<_>) =
                    pieces.iter().take(16).partition(|piece| matches!(piece, Piece::Readable(_)));
                let buffers: Vec<Buffer> = readable
                    .into_iter()
                    .chain(writable)
                    .map(|piece| match piece {
                        Piece::Readable(length) => Buffer::Readable(&bytes[..usize::from(*length)]),
                        Piece::Room(length) => Buffer::Writable((*length).into()),
                        Piece::Much(length) => Buffer::Writable(u32::from(*length) << 12),
                    })
                    .collect();
                if !buffers.is_empty() {
                    let used = driver.request(0, &buffers);
                    let room = used.written.len().min(MAX_REQUEST);
                    assert_eq!(used.length as usize, room, "{buffers:?}");
                }
            }
            Action::Burst(count) => {
                let count = count % 64;
                for _ in 0..count {
                    driver.add(0, &[Buffer::Writable(32)]);
                }
                for _ in 0..count {
                    assert_eq!(driver.wait_used(0).length, 32);
                }
            }
            Action::Reset => driver.initialise(&[64]),
            Action::BreakRing(head) => {
                driver.publish(0, head);
                if head >= 64 {
                    driver.wait_needs_reset();
                }
                driver.initialise(&[64]);
            }
        }
    }
});
