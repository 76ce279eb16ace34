use virtio::testing::{Buffer, Driver};

use super::*;

#[test]
fn a_request_is_filled_with_bytes_that_differ_each_time() {
    let mut driver = Driver::start(Rng::new());
    let first = driver.request(0, &[Buffer::Writable(64)]);
    let second = driver.request(0, &[Buffer::Writable(64)]);
    assert_eq!((first.length, second.length), (64, 64));
    assert_ne!(first.written, second.written);
    assert_ne!(first.written, [0; 64]);
}

#[test]
fn buffers_of_any_cut_are_filled_to_the_end() {
    let mut driver = Driver::start(Rng::new());
    let cut = [1, 255, 300, 1, 4096].map(Buffer::Writable);
    let used = driver.request(0, &cut);
    assert_eq!(used.length, 4653);
    // All zeroes in the last 32 bytes: once in 2^256.
    assert_ne!(used.written[4653 - 32..], [0; 32]);
}

#[test]
fn a_request_gets_no_more_than_its_cap() {
    let mut driver = Driver::start(Rng::new());
    let used = driver.request(0, &[Buffer::Writable(1 << 20)]);
    assert_eq!(used.length as usize, MAX_REQUEST);
    assert!(used.written[MAX_REQUEST..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_request_without_room_comes_back_empty() {
    let mut driver = Driver::start(Rng::new());
    assert_eq!(driver.request(0, &[Buffer::Readable(b"seed")]).length, 0);
    assert_eq!(driver.request(0, &[Buffer::Writable(8)]).length, 8);
}

#[test]
fn many_requests_in_flight_and_a_reset_are_served() {
    let mut driver = Driver::start(Rng::new());
    for _ in 0..3 {
        for _ in 0..64 {
            driver.add(0, &[Buffer::Writable(16)]);
        }
        for _ in 0..64 {
            assert_eq!(driver.wait_used(0).length, 16);
        }
        driver.initialise(&[64]);
    }
}
