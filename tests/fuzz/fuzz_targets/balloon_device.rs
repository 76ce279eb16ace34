//! A hostile guest's driver on a balloon: pages that are its own, another's or nobody's, in chains cut anywhere.
//!
//! Found here: a panic or a hang of the device's thread, a request that never comes back, and a page that lost its
//! content though nobody gave it away.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use virtio::testing::{Buffer, Driver, MEMORY_SIZE};
use virtio_balloon::Balloon;
use vm_memory::{Bytes, GuestAddress};

const SIZES: [u16; 3] = [128; 3];
const PAGE: usize = 4096;

const PAGES: u32 = (MEMORY_SIZE / PAGE) as u32;

/// Behind the driver's rings and before its buffers: pages that are never given away, and then as many that may be.
const FIRST: u32 = 1024;

#[derive(Arbitrary, Debug)]
enum Action {
    /// Pages by number, relative to the first that may be given, in so many bytes more or less.
    Pages {
        take_back: bool,
        pages: Vec<Page>,
        cut: u8,
        in_two: u8,
    },
    /// Any bytes.
    Raw {
        queue: u8,
        bytes: Vec<u8>,
        room: u8,
    },
    /// Room of a size that is free.
    Report {
        lengths: Vec<u16>,
    },
    Ask(u64),
    Reset,
    /// A chain whose head the ring does not have.
    BreakRing {
        queue: u8,
        head: u16,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Page {
    Own(u16),
    /// Not of the guest's memory.
    Beyond(u32),
    Run {
        first: u16,
        count: u8,
        down: bool,
    },
}

impl Page {
    fn numbers(self) -> Vec<u32> {
        let own = |page: u32| FIRST + 256 + page % 256;
        match self {
            Self::Own(page) => vec![own(page.into())],
            Self::Beyond(page) => vec![page.max(PAGES)],
            Self::Run { first, count, down } => {
                let mut run: Vec<u32> = (0..u32::from(count)).map(|at| own(u32::from(first) + at)).collect();
                if down {
                    run.reverse();
                }
                run
            }
        }
    }
}

/// What lies in pages that are never given away.
const CANARY: [u8; 16] = *b"canary of a page";

fn put_canaries(driver: &Driver) {
    for page in FIRST..FIRST + 256 {
        driver.memory.write_slice(&CANARY, GuestAddress(u64::from(page) * PAGE as u64)).expect("in memory");
    }
}

fn check_canaries(driver: &Driver) {
    for page in FIRST..FIRST + 256 {
        let mut found = [0; 16];
        driver.memory.read_slice(&mut found, GuestAddress(u64::from(page) * PAGE as u64)).expect("in memory");
        assert_eq!(found, CANARY, "page {page} has lost its content");
    }
}

fuzz_target!(|actions: Vec<Action>| {
    let balloon = Balloon::new().expect("a descriptor");
    let size = balloon.size();
    let mut driver = Driver::start(balloon);
    put_canaries(&driver);
    for action in actions.into_iter().take(32) {
        match action {
            Action::Pages { take_back, pages, cut, in_two } => {
                let numbers = pages.into_iter().take(64).flat_map(Page::numbers);
                let mut bytes: Vec<u8> = numbers.take(8192).flat_map(u32::to_le_bytes).collect();
                bytes.truncate(bytes.len().saturating_sub(usize::from(cut % 8)));
                let (one, other) = bytes.split_at(usize::from(in_two).min(bytes.len()));
                driver.request(usize::from(take_back), &[Buffer::Readable(one), Buffer::Readable(other)]);
            }
            Action::Raw { queue, mut bytes, room } => {
                // As numbers they are of no page of the canaries'.
                bytes.truncate(4096);
                for number in bytes.chunks_exact_mut(4) {
                    number[3] |= 0x80;
                }
                driver.request(
                    usize::from(queue % 3),
                    &[Buffer::Readable(&bytes), Buffer::Writable(room.into())],
                );
            }
            Action::Report { lengths } => {
                let buffers: Vec<Buffer> =
                    lengths.iter().take(8).map(|&length| Buffer::Writable(length.into())).collect();
                if !buffers.is_empty() {
                    driver.request(2, &buffers);
                }
            }
            Action::Ask(bytes) => size.ask(bytes),
            Action::Reset => driver.initialise(&SIZES),
            Action::BreakRing { queue, head } => {
                driver.publish(usize::from(queue % 3), head.max(SIZES[0]));
                driver.wait_needs_reset();
                driver.initialise(&SIZES);
            }
        }
        check_canaries(&driver);
        let counts = size.counts();
        assert!(counts.held <= 32 * 8192 * PAGE as u64, "{counts:?}");
    }
});
