use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use virtio::testing::{Buffer, Driver};

use super::*;
use crate::{
    PasstStream,
    filter::{Ends, Journal, Mac, Policy, Query},
};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GUEST: [u8; 4] = [10, 111, 2, 2];
const GATEWAY: [u8; 4] = [10, 111, 2, 1];

fn policy() -> Policy {
    Policy {
        mac: Mac(MAC),
        gateway_mac: Mac(GATEWAY_MAC),
        v4: Some(Ends { guest: GUEST.into(), gateway: GATEWAY.into() }),
        ..Policy::default()
    }
}

/// A device in front of a socket whose other end is the test's.
fn start(resolver: Option<Channel>) -> (Driver, UnixStream) {
    let (ours, passt) = UnixStream::pair().unwrap();
    passt.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    let config = Config { policy: policy(), mtu: 1500, resolver, journal: Journal::default() };
    (Driver::start(Net::new(PasstStream::new(ours), config).unwrap()), passt)
}

/// A UDP datagram between the guest and another address, in its frame.
fn frame(out: bool, other: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    let (to_mac, from_mac) = if out { (GATEWAY_MAC, MAC) } else { (MAC, GATEWAY_MAC) };
    let (from, to) = if out { (GUEST, other) } else { (other, GUEST) };
    let mut frame = [&to_mac[..], &from_mac, &[8, 0, 0x45, 0]].concat();
    frame.extend((28 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(from);
    frame.extend(to);
    frame.extend(4000u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend((8 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

fn read_frame(passt: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    passt.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    passt.read_exact(&mut frame).unwrap();
    frame
}

fn write_frame(passt: &mut UnixStream, frame: &[u8]) {
    passt.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
    passt.write_all(frame).unwrap();
}

#[test]
fn frames_go_out_whole_however_the_driver_cuts_them() {
    let (mut driver, mut passt) = start(None);
    for (length, cut) in [(0, 12), (100, 5), (100, 70), (9000, 3000), (60_000, 130), (1400, 13)] {
        let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let frame = frame(true, [9, 9, 9, 9], 53, &payload);
        let raw = [&[0; HEADER][..], &frame].concat();
        let (first, second) = raw.split_at(cut);
        // The reader takes while the device waits for room.
        let head = driver.add(1, &[Buffer::Readable(first), Buffer::Readable(second)]);
        assert_eq!(read_frame(&mut passt), frame, "{length} {cut}");
        assert_eq!(driver.wait_used(1).head, head);
    }
}

#[test]
fn many_frames_that_nobody_reads_wait_in_order_and_none_is_lost() {
    let (mut driver, mut passt) = start(None);
    let payload = |i: u32| {
        let mut payload = vec![0; if i.is_multiple_of(3) { 8000 } else { 500 }];
        payload[..4].copy_from_slice(&i.to_be_bytes());
        payload
    };
    for i in 0..100 {
        let raw = [&[0; HEADER][..], &frame(true, [9, 9, 9, 9], 1, &payload(i))].concat();
        driver.add(1, &[Buffer::Readable(&raw)]);
    }
    for i in 0..100 {
        assert_eq!(read_frame(&mut passt), frame(true, [9, 9, 9, 9], 1, &payload(i)), "{i}");
    }
    for _ in 0..100 {
        driver.wait_used(1);
    }
}

#[test]
fn a_frame_comes_in_as_many_buffers_as_it_takes() {
    let (mut driver, mut passt) = start(None);
    for (size, length) in [(2048, 100), (2048, 1472), (1000, 9000), (4096, 65_000), (HEADER as u32, 100)] {
        let frame = frame(false, [9, 9, 9, 9], 1, &vec![7; length]);
        let total = HEADER + frame.len();
        let buffers = total.div_ceil(size as usize);
        // All but the last: it waits for room.
        for _ in 1..buffers {
            driver.add(0, &[Buffer::Writable(size)]);
        }
        write_frame(&mut passt, &frame);
        if buffers > 1 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(driver.used(0).is_none(), "a part of a frame");
        }
        driver.add(0, &[Buffer::Writable(size)]);
        let mut got: Vec<u8> = Vec::new();
        for i in 0..buffers {
            let used = driver.wait_used(0);
            assert_eq!(used.length as usize, (total - i * size as usize).min(size as usize));
            got.extend(&used.written[..used.length as usize]);
        }
        assert_eq!(got[10..12], (buffers as u16).to_le_bytes());
        assert!(got[HEADER..] == frame, "{size} {length}");
    }
}

#[test]
fn refused_frames_go_nowhere_and_their_buffers_come_back() {
    let (mut driver, mut passt) = start(None);
    for other in [[127, 0, 0, 1], [10, 0, 0, 1], [224, 0, 0, 1]] {
        let raw = [&[0; HEADER][..], &frame(true, other, 1, b"secret")].concat();
        driver.request(1, &[Buffer::Readable(&raw)]);
    }
    // Offloads that were not offered.
    let mut raw = [&[0; HEADER][..], &frame(true, [9, 9, 9, 9], 1, b"secret")].concat();
    raw[0] = 1;
    driver.request(1, &[Buffer::Readable(&raw)]);
    let raw = [&[0; HEADER][..], &frame(true, [9, 9, 9, 9], 1, b"fine")].concat();
    driver.request(1, &[Buffer::Readable(&raw)]);
    assert!(read_frame(&mut passt).ends_with(b"fine"));
}

#[test]
fn the_guest_finds_its_gateway_and_hears_of_closed_doors() {
    let (mut driver, _passt) = start(None);
    for _ in 0..4 {
        driver.add(0, &[Buffer::Writable(2048)]);
    }
    let arp =
        [&[0xff; 6][..], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &MAC, &GUEST, &[0; 6], &GATEWAY].concat();
    driver.request(1, &[Buffer::Readable(&[&[0; HEADER][..], &arp].concat())]);
    let used = driver.wait_used(0);
    assert_eq!(used.written[HEADER + 22..HEADER + 28], GATEWAY_MAC);
    let raw = [&[0; HEADER][..], &frame(true, [10, 0, 0, 1], 1, b"x")].concat();
    driver.request(1, &[Buffer::Readable(&raw)]);
    let used = driver.wait_used(0);
    assert_eq!(used.written[HEADER + 34..HEADER + 36], [3, 13]);
}

#[test]
fn names_are_asked_and_answered_and_an_address_is_open_before_its_answer() {
    let (ours, mut resolver) = Channel::pair().unwrap();
    let (mut driver, mut passt) = start(Some(ours));
    driver.add(0, &[Buffer::Writable(2048)]);
    let raw = [&[0; HEADER][..], &frame(true, GATEWAY, 53, b"who is it?")].concat();
    driver.request(1, &[Buffer::Readable(&raw)]);
    let end = Instant::now() + std::time::Duration::from_secs(10);
    let question = loop {
        match resolver.receive() {
            Ok(message) => break message,
            Err(_) => assert!(Instant::now() < end, "no question"),
        }
    };
    let query = Query { v6: false, port: 4000 };
    assert_eq!(question, Message::Datagram { query, payload: b"who is it?".to_vec() });
    // From now on, the Internet's one address is this machine's.
    let host = Message::Host { addresses: vec!["9.9.9.9".parse().unwrap()], on_link: Vec::new() };
    resolver.send(&host).unwrap();
    resolver.send(&Message::Datagram { query, payload: b"it is I".to_vec() }).unwrap();
    let used = driver.wait_used(0);
    assert!(used.written[..used.length as usize].ends_with(b"it is I"));
    for (to, payload) in [([9, 9, 9, 9], b"no!"), ([9, 9, 9, 8], b"yes")] {
        let raw = [&[0; HEADER][..], &frame(true, to, 1, payload)].concat();
        driver.request(1, &[Buffer::Readable(&raw)]);
    }
    assert!(read_frame(&mut passt).ends_with(b"yes"));
}

#[test]
fn a_peer_that_goes_away_or_sends_no_frames_stops_nothing_else() {
    for garbage in [&[][..], &[0xff; 100]] {
        let (mut driver, mut passt) = start(None);
        driver.add(0, &[Buffer::Writable(2048)]);
        passt.write_all(garbage).unwrap();
        drop(passt);
        let raw = [&[0; HEADER][..], &frame(true, [9, 9, 9, 9], 1, b"x")].concat();
        for _ in 0..10 {
            driver.request(1, &[Buffer::Readable(&raw)]);
        }
        driver.initialise(&[QUEUE_SIZE; 2]);
        driver.request(1, &[Buffer::Readable(&raw)]);
    }
}

#[test]
fn buffers_of_the_wrong_kind_stop_the_device_alone() {
    for wrong in 0..3 {
        let (mut driver, mut passt) = start(None);
        match wrong {
            0 => driver.add(1, &[Buffer::Readable(&[0; 4])]),
            1 => driver.add(1, &[Buffer::Readable(&[0; 60]), Buffer::Writable(8)]),
            _ => driver.add(0, &[Buffer::Writable(4)]),
        };
        write_frame(&mut passt, &frame(false, [9, 9, 9, 9], 1, b"x"));
        driver.wait_needs_reset();
        driver.initialise(&[QUEUE_SIZE; 2]);
        let raw = [&[0; HEADER][..], &frame(true, [9, 9, 9, 9], 1, b"x")].concat();
        driver.request(1, &[Buffer::Readable(&raw)]);
    }
}

#[test]
fn an_mtu_out_of_range_is_refused() {
    for mtu in [0, MIN_MTU - 1, MAX_MTU + 1] {
        let (ours, _) = UnixStream::pair().unwrap();
        let config = Config { policy: policy(), mtu, resolver: None, journal: Journal::default() };
        assert!(matches!(Net::new(PasstStream::new(ours), config), Err(ConfigError::Mtu(_))));
    }
}

/// A device with two pairs of queues, and a control queue behind them.
fn start_two() -> (Driver, [UnixStream; 2]) {
    let (streams, ends): (Vec<_>, Vec<_>) = (0..2)
        .map(|_| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            theirs.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
            (PasstStream::new(ours), theirs)
        })
        .unzip();
    let config = Config { policy: policy(), mtu: 1500, resolver: None, journal: Journal::default() };
    (Driver::start(Net::with_queues(streams, config).unwrap()), ends.try_into().unwrap())
}

/// What the device says to a command of two bytes with a number.
fn command(driver: &mut Driver, command: &[u8]) -> u8 {
    driver.request(4, &[Buffer::Readable(command), Buffer::Writable(1)]).written[0]
}

#[test]
fn each_pair_has_its_back_end_and_what_comes_goes_to_a_pair_in_use() {
    let (mut driver, mut ends) = start_two();
    for (pair, end) in ends.iter_mut().enumerate() {
        let frame = frame(true, [9, 9, 9, 9], 1, &[pair as u8; 100]);
        driver.request(2 * pair + 1, &[Buffer::Readable(&[&[0; HEADER][..], &frame].concat())]);
        assert_eq!(read_frame(end), frame);
    }
    // One is in use until the driver says so; then the other one's frames come by its own queue.
    for (pairs, queue) in [(1, 0), (2, 2), (1, 0)] {
        assert_eq!(command(&mut driver, &[4, 0, pairs, 0]), ACK_OK);
        driver.add(queue, &[Buffer::Writable(2048)]);
        let frame = frame(false, [9, 9, 9, 9], 1, &[pairs; 50]);
        write_frame(&mut ends[1], &frame);
        let used = driver.wait_used(queue);
        assert_eq!(used.written[HEADER..used.length as usize], frame);
    }
}

#[test]
fn commands_that_make_no_sense_change_nothing() {
    let (mut driver, mut ends) = start_two();
    for wrong in
        [&[4, 0, 0, 0][..], &[4, 0, 3, 0], &[4, 0, 1, 1], &[4, 1, 1, 0], &[0, 0, 1, 0], &[4, 0, 1], &[4]]
    {
        assert_eq!(command(&mut driver, wrong), ACK_ERROR, "{wrong:?}");
    }
    // No room for an answer; nothing but room.
    driver.request(4, &[Buffer::Readable(&[4, 0, 2, 0])]);
    assert_eq!(driver.request(4, &[Buffer::Writable(4)]).written[0], ACK_ERROR);
    let frame = frame(true, [9, 9, 9, 9], 1, b"x");
    driver.request(3, &[Buffer::Readable(&[&[0; HEADER][..], &frame].concat())]);
    assert_eq!(read_frame(&mut ends[1]), frame);
}

#[test]
fn a_driver_may_set_up_fewer_queues_than_there_are() {
    for queues in 2..5 {
        let (mut driver, mut ends) = start_two();
        driver.initialise(&[QUEUE_SIZE; 5][..queues]);
        let frame = frame(true, [9, 9, 9, 9], 1, b"x");
        driver.request(1, &[Buffer::Readable(&[&[0; HEADER][..], &frame].concat())]);
        assert_eq!(read_frame(&mut ends[0]), frame);
    }
}

#[test]
fn the_link_goes_down_with_the_back_end_and_the_driver_is_told() {
    let (mut driver, passt) = start(None);
    // The status is the upper half of the second word of the configuration.
    let up = |driver: &mut Driver| driver.get(0x104) >> 16;
    let generation = driver.get(0xfc);
    assert_eq!((up(&mut driver), driver.get(0x60) & 2), (1, 0));
    drop(passt);
    for _ in 0..1000 {
        if up(&mut driver) == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(up(&mut driver), 0);
    assert_ne!(driver.get(0xfc), generation);
    // The interrupt comes after the change.
    for _ in 0..1000 {
        if driver.get(0x60) & 2 == 2 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(driver.get(0x60) & 2, 2);
    // What is sent goes nowhere, and its buffers come back; a driver that starts anew finds the link as it is.
    let raw = [&[0; HEADER][..], &frame(true, [9, 9, 9, 9], 1, b"x")].concat();
    driver.request(1, &[Buffer::Readable(&raw)]);
    driver.initialise(&[QUEUE_SIZE; 2]);
    assert_eq!(up(&mut driver), 0);
    driver.request(1, &[Buffer::Readable(&raw)]);
}

/// A device in front of what stands in for a tap: its other end sends frames with their headers.
fn start_tap() -> (Driver, std::os::fd::OwnedFd) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None).unwrap();
    sockopt::set_socket_send_buffer_size(&theirs, 4 << 20).unwrap();
    let config = Config { policy: policy(), mtu: 1500, resolver: None, journal: Journal::default() };
    (Driver::start(Net::new(crate::Tap::standing_in(ours), config).unwrap()), theirs)
}

#[test]
fn long_frames_go_straight_into_the_guest_s_buffers_and_refused_ones_are_not_handed_over() {
    for size in [4084_u32, 1526, 20_000, 65_600, 130] {
        let (mut driver, tap) = start_tap();
        let send = |frame: &[u8]| {
            let header = [0, 1, 66, 0, 0, 4, 34, 0, 16, 0, 9, 9];
            rustix::io::write(&tap, &[&header[..], frame].concat()).unwrap();
        };
        let lengths = [60_000, 65_000, 9000, 64_000, 64_001, 10, 200, 63_000, 65_400, 300];
        let payload =
            |length: usize| (0..length).map(|i| (i * 7 + i / 251 + length) as u8).collect::<Vec<_>>();
        let buffers = |length: usize| (HEADER + length).div_ceil(size as usize);
        // More than one frame needs, so that the longest always finds room, but for the shortest buffers.
        let mut free = 0;
        for length in lengths {
            let wanted = frame(false, [9, 9, 9, 9], 1, &payload(length));
            while free < buffers(wanted.len()).max(buffers(66_000).min(40)) && free < 200 {
                driver.add(0, &[Buffer::Writable(size)]);
                free += 1;
            }
            let mut stranger = wanted.clone();
            stranger[5] ^= 1;
            send(&stranger);
            if buffers(wanted.len()) > free {
                continue;
            }
            send(&wanted);
            let (mut got, mut count) = (Vec::new(), 0);
            while got.len() < HEADER + wanted.len() {
                let used = driver.wait_used(0);
                got.extend(&used.written[..used.length as usize]);
                count += 1;
            }
            free -= count;
            assert_eq!(u16::from_le_bytes([got[10], got[11]]), count as u16, "{size} {length}");
            assert_eq!(got[..10], [0, 1, 66, 0, 0, 4, 34, 0, 16, 0], "{size} {length}");
            assert!(got[HEADER..] == wanted, "{size} {length}");
        }
        assert!(driver.used(0).is_none());
    }
}
