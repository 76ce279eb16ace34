use std::time::{Duration, Instant};

use virtio::testing::{Buffer, Driver, MEMORY_SIZE};
use vm_memory::Bytes;

use super::*;
use crate::{Counts, pages::PAGE};

/// Pages of the test's memory that hold neither rings nor buffers.
const FREE: u32 = (MEMORY_SIZE / PAGE) as u32 / 4;

fn numbers(pages: impl IntoIterator<Item = u32>) -> Vec<u8> {
    pages.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn started() -> (Driver, Size) {
    let balloon = Balloon::new().unwrap();
    let size = balloon.size();
    (Driver::start(balloon), size)
}

fn byte(driver: &Driver, page: u32) -> u8 {
    driver.memory.read_obj(GuestAddress(u64::from(page) * PAGE as u64 + 5)).unwrap()
}

fn fill(driver: &Driver, pages: std::ops::Range<u32>) {
    for page in pages {
        driver.memory.write_slice(&[7; PAGE], GuestAddress(u64::from(page) * PAGE as u64)).unwrap();
    }
}

#[test]
fn pages_that_are_named_are_gone_and_others_are_not() {
    let (mut driver, size) = started();
    fill(&driver, FREE..FREE + 6);
    let given = numbers([FREE + 1, FREE + 2, FREE + 4]);
    assert_eq!(driver.request(INFLATE, &[Buffer::Readable(&given)]).length, 0);
    let content: Vec<_> = (FREE..FREE + 6).map(|page| byte(&driver, page)).collect();
    assert_eq!(content, [7, 0, 0, 7, 0, 7]);
    assert_eq!(size.counts(), Counts { asked: 0, held: 3 * PAGE as u64, reported: 0 });
    // Taken back, and again, which is a lie.
    for _ in 0..2 {
        driver.request(DEFLATE, &[Buffer::Readable(&given)]);
    }
    assert_eq!(size.counts().held, 0);
}

#[test]
fn what_is_reported_is_gone_whole_pages_only() {
    let (mut driver, size) = started();
    let room = 5 * PAGE as u32;
    let head = driver.prepare(REPORT, &[Buffer::Writable(room)]);
    // The buffer's place is the driver's business: some of its pages had content.
    fill(&driver, (MEMORY_SIZE / PAGE / 2) as u32..(MEMORY_SIZE / PAGE / 2 + 64) as u32);
    driver.publish(REPORT, head);
    let used = driver.wait_used(REPORT);
    assert_eq!(used.length, 0);
    let zeros = used.written.iter().filter(|byte| **byte == 0).count();
    assert_eq!(zeros as u64, size.counts().reported);
    assert!(zeros >= 4 * PAGE && zeros.is_multiple_of(PAGE), "{zeros}");
}

#[test]
fn nonsense_is_no_harm() {
    let (mut driver, size) = started();
    // Beyond the memory, half numbers, nothing, numbers where none are expected.
    for bytes in [numbers([u32::MAX, 0x8000_0000]), vec![1, 2, 3], vec![]] {
        for queue in [INFLATE, DEFLATE] {
            driver.request(queue, &[Buffer::Readable(&bytes), Buffer::Writable(8)]);
        }
    }
    driver.request(REPORT, &[Buffer::Readable(&numbers([FREE]))]);
    driver.request(REPORT, &[Buffer::Writable(1)]);
    assert_eq!(size.counts(), Counts::default());
}

#[test]
fn a_size_that_is_asked_for_is_told_now_or_when_a_driver_comes() {
    let (mut driver, size) = started();
    let wanted = |driver: &mut Driver| driver.get(0x100);
    assert_eq!(wanted(&mut driver), 0);
    size.ask(10 << 20);
    let end = Instant::now() + Duration::from_secs(10);
    while wanted(&mut driver) != 2560 {
        assert!(Instant::now() < end, "the driver is not told");
        std::thread::yield_now();
    }
    assert!(driver.transport.interrupt().read().unwrap() > 0);
    // InterruptStatus says that it is the configuration.
    assert_eq!(driver.get(0x60) & 2, 2);
    driver.request(INFLATE, &[Buffer::Readable(&numbers([FREE]))]);
    driver.initialise(&[128, 128, 128]);
    assert_eq!((wanted(&mut driver), size.counts().held), (2560, 0));
    // More than a guest can have.
    size.ask(u64::MAX);
    assert_eq!(size.counts().asked, u64::from(u32::MAX) * 4096);
}
