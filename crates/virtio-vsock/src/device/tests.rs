use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    thread,
    time::Duration,
};

use tempfile::TempDir;

use super::*;
use crate::{MAX_CONNECTIONS, Visitors, packet::*};
use guest::{Guest, eventually, header};

mod guest;

/// Guest port 1000 is a socket of the host's, and host port 2000 is one of the host's programs.
struct Host {
    directory: TempDir,
    service: Visitors,
}

const LISTENED: u32 = 1000;
const SERVICE: u32 = 2000;

impl Host {
    fn new() -> (Self, Config) {
        let directory = tempfile::tempdir().unwrap();
        let (door, service) = Door::new().unwrap();
        let (nobody, _) = Door::new().unwrap();
        let listener = UnixListener::bind(directory.path().join("guest")).unwrap();
        let connect = HashMap::from([(SERVICE, door), (SERVICE + 1, nobody)]);
        (
            Self { directory, service },
            Config { cid: 3, listen: vec![Listen::new(LISTENED, listener)], connect },
        )
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.directory.path().join("guest")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    fn accept(&self) -> UnixStream {
        let stream = self.service.accept().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }
}

fn start() -> (Host, Guest) {
    let (host, config) = Host::new();
    (host, Guest::start(config))
}

/// A guest's socket and the program it is connected to.
fn pair(host: &Host, guest: &mut Guest) -> (guest::Socket, UnixStream) {
    let socket = guest.connect(5, SERVICE);
    (socket, host.accept())
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect()
}

fn read_all(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn config_space_is_the_context_id() {
    let (_host, mut guest) = start();
    assert_eq!((guest.driver.get(0x100), guest.driver.get(0x104)), (3, 0));
}

#[test]
fn a_host_program_reaches_a_guest_port() {
    let (host, mut guest) = start();
    let mut stream = host.connect();
    stream.write_all(b"early").unwrap();
    let mut socket = guest.accept(LISTENED);
    assert_eq!(guest.receive(&mut socket, 5), b"early");
    guest.transmit(&mut socket, b"answer");
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
}

#[test]
fn a_guest_program_reaches_an_allowed_host_socket() {
    let (host, mut guest) = start();
    let (mut socket, mut stream) = pair(&host, &mut guest);
    guest.transmit(&mut socket, b"question");
    let mut question = [0; 8];
    stream.read_exact(&mut question).unwrap();
    stream.write_all(b"answer").unwrap();
    assert_eq!(guest.receive(&mut socket, 6), b"answer");
}

#[test]
fn clients_before_the_driver_wait_in_the_backlog() {
    let (host, config) = Host::new();
    let mut streams: Vec<_> = (0..20).map(|_| host.connect()).collect();
    let mut guest = Guest::start(config);
    for stream in &mut streams {
        stream.write_all(b"!").unwrap();
        let mut socket = guest.accept(LISTENED);
        guest.receive(&mut socket, 1);
    }
}

#[test]
fn ports_and_addresses_that_are_not_allowed_are_refused() {
    let (_host, mut guest) = start();
    let request = Header { op: Op::Request as u16, ..header(5, SERVICE) };
    for refused in [
        Header { destination_port: 1, ..request },
        Header { destination_port: LISTENED, ..request },
        // Allowed, but nobody is there.
        Header { destination_port: SERVICE + 1, ..request },
        Header { destination_cid: 1, ..request },
        Header { destination_cid: 1 << 32 | 2, ..request },
        // A sequential packet socket, and nothing at all.
        Header { kind: 2, ..request },
        Header { kind: 0, ..request },
    ] {
        guest.send(refused, b"");
        let reset = guest.expect(5, Op::Reset);
        assert_eq!(reset, refused.refusal());
    }
    // Not from this guest: there is nobody to answer.
    guest.send(Header { source_cid: 4, ..request }, b"");
    assert!(guest.is_quiet());
}

#[test]
fn a_reset_is_never_answered_with_a_reset() {
    let (_host, mut guest) = start();
    let reset = Header { op: Op::Reset as u16, ..header(5, SERVICE) };
    for stray in [reset, Header { kind: 9, ..reset }, Header { destination_cid: 77, ..reset }] {
        guest.send(stray, b"");
    }
    assert!(guest.is_quiet());
}

#[test]
fn a_refusing_guest_closes_the_host_program_s_socket() {
    let (host, mut guest) = start();
    let mut stream = host.connect();
    let request = guest.expect(LISTENED, Op::Request);
    guest.send(Header { op: Op::Reset as u16, ..header(LISTENED, request.source_port) }, b"");
    assert_eq!(read_all(&mut stream), b"");
    assert!(guest.is_quiet());
}

#[test]
fn ten_megabytes_reach_a_slow_reader_on_the_host() {
    let (host, mut guest) = start();
    let (mut socket, mut stream) = pair(&host, &mut guest);
    let bytes = pattern(10_000_000);
    let reader = thread::spawn(move || {
        let mut all: Vec<u8> = Vec::new();
        let mut piece = vec![0; 100_000];
        loop {
            let length = stream.read(&mut piece).unwrap();
            all.extend(&piece[..length]);
            if length == 0 {
                return all;
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
    guest.transmit(&mut socket, &bytes);
    guest.shut(&socket, SHUTDOWN_RECEIVE | SHUTDOWN_SEND);
    assert!(reader.join().unwrap() == bytes);
    eventually("the reset", || {
        let (header, _) = guest.packet(5);
        (header.op == Op::Reset as u16).then_some(())
    });
}

#[test]
fn ten_megabytes_reach_a_guest_that_gives_little_credit() {
    let (host, mut guest) = start();
    let (mut socket, mut stream) = pair(&host, &mut guest);
    let bytes = pattern(10_000_000);
    let copy = bytes.clone();
    let writer = thread::spawn(move || stream.write_all(&copy));
    let got = guest.receive(&mut socket, bytes.len());
    assert!(got == bytes);
    writer.join().unwrap().unwrap();
    // The program has closed its socket.
    assert_eq!(guest.receive(&mut socket, 1), b"");
    assert_eq!(socket.ended, SHUTDOWN_RECEIVE | SHUTDOWN_SEND);
    guest.expect(5, Op::Reset);
}

#[test]
fn both_directions_at_once_do_not_stop_each_other() {
    let (host, mut guest) = start();
    let (mut socket, mut stream) = pair(&host, &mut guest);
    let bytes = pattern(2_000_000);
    let echo = thread::spawn(move || {
        let mut piece = vec![0; 30_000];
        loop {
            match stream.read(&mut piece).unwrap() {
                0 => return,
                length => stream.write_all(&piece[..length]).unwrap(),
            }
        }
    });
    let mut got = Vec::new();
    for piece in bytes.chunks(50_000) {
        guest.transmit(&mut socket, piece);
        got.extend(guest.receive(&mut socket, piece.len()));
    }
    assert!(got == bytes);
    guest.shut(&socket, SHUTDOWN_SEND);
    echo.join().unwrap();
}

#[test]
fn many_connections_at_once_each_get_their_own_bytes() {
    let (host, mut guest) = start();
    let mut sockets = Vec::new();
    let mut echoes = Vec::new();
    // Some with much credit, some with little.
    for port in 0..40 {
        sockets.push(guest.connect(port, SERVICE));
        let mut stream = host.accept();
        echoes.push(thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap()));
    }
    let bytes = pattern(10 * 40 * 5000);
    for round in bytes.chunks(40 * 5000) {
        for (socket, piece) in sockets.iter_mut().zip(round.chunks(5000)) {
            guest.transmit(socket, piece);
        }
        for (socket, piece) in sockets.iter_mut().zip(round.chunks(5000)) {
            assert!(guest.receive(socket, 5000) == piece);
        }
    }
    for socket in &sockets {
        guest.shut(socket, SHUTDOWN_SEND);
    }
    for echo in echoes {
        assert_eq!(echo.join().unwrap(), 50_000);
    }
}

#[test]
fn a_host_program_that_ends_its_side_still_reads() {
    let (host, mut guest) = start();
    let (mut socket, mut stream) = pair(&host, &mut guest);
    stream.write_all(b"request").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.receive(&mut socket, 100), b"request");
    assert_eq!(socket.ended, SHUTDOWN_SEND);
    guest.transmit(&mut socket, b"response");
    guest.shut(&socket, SHUTDOWN_SEND);
    assert_eq!(read_all(&mut stream), b"response");
    guest.expect(5, Op::Reset);
    assert!(guest.is_quiet());
}

#[test]
fn a_guest_that_ends_its_side_still_reads() {
    let (host, mut guest) = start();
    let (mut socket, mut stream) = pair(&host, &mut guest);
    guest.transmit(&mut socket, b"request");
    guest.shut(&socket, SHUTDOWN_SEND);
    assert_eq!(read_all(&mut stream), b"request");
    stream.write_all(b"response").unwrap();
    assert_eq!(guest.receive(&mut socket, 8), b"response");
    drop(stream);
    assert_eq!(guest.expect(5, Op::Shutdown).flags, SHUTDOWN_SEND);
    guest.expect(5, Op::Reset);
}

#[test]
fn a_guest_that_receives_no_more_fails_the_program_s_writes() {
    let (host, mut guest) = start();
    let (socket, mut stream) = pair(&host, &mut guest);
    guest.shut(&socket, SHUTDOWN_RECEIVE);
    eventually("a broken pipe", || stream.write_all(b"x").err());
}

#[test]
fn what_a_program_wrote_before_it_closed_arrives() {
    let (host, mut guest) = start();
    let (mut socket, mut stream) = pair(&host, &mut guest);
    let bytes = pattern(150_000);
    stream.write_all(&bytes).unwrap();
    drop(stream);
    let got = guest.receive(&mut socket, bytes.len() + 1);
    assert_eq!(socket.ended, SHUTDOWN_RECEIVE | SHUTDOWN_SEND);
    assert!(got == bytes);
    guest.expect(5, Op::Reset);
}

#[test]
fn a_program_that_came_and_went_before_the_guest_answered_is_heard() {
    let (host, mut guest) = start();
    host.connect().write_all(b"hello").unwrap();
    let mut socket = guest.accept(LISTENED);
    assert_eq!(guest.receive(&mut socket, 100), b"hello");
    assert_eq!(socket.ended, SHUTDOWN_RECEIVE | SHUTDOWN_SEND);
    guest.expect(LISTENED, Op::Reset);
}

#[test]
fn a_closed_connection_is_flushed_even_after_the_guest_s_reset() {
    let (host, mut guest) = start();
    let (mut socket, mut stream) = pair(&host, &mut guest);
    // More than the socket takes, so that the rest waits in the device.
    let bytes = pattern(socket.credit() as usize);
    guest.transmit(&mut socket, &bytes);
    let more = pattern(100_000);
    guest.transmit(&mut socket, &more);
    guest.shut(&socket, SHUTDOWN_RECEIVE | SHUTDOWN_SEND);
    guest.send(socket.header(Op::Reset), b"");
    // Its name is free at once.
    let again = guest.connect(5, SERVICE);
    assert_eq!(again.guest, 5);
    assert_eq!(read_all(&mut stream), [bytes, more].concat());
}

#[test]
fn more_than_the_credit_is_a_reset() {
    let (host, mut guest) = start();
    let (mut socket, mut stream) = pair(&host, &mut guest);
    let piece = vec![0; MAX_PAYLOAD];
    // The socket takes some, then the room some more; nobody reads.
    eventually("the reset", || {
        guest.send(Header { length: MAX_PAYLOAD as u32, ..socket.header(Op::Data) }, &piece);
        socket.sent = socket.sent.wrapping_add(MAX_PAYLOAD as u32);
        let packet = guest.try_packet(5)?;
        (packet.0.op == Op::Reset as u16).then_some(())
    });
    // What fits into the transmit queue meanwhile, and little more.
    assert!(socket.sent < 4 << 20);
    eventually("the end", || matches!(stream.read(&mut [0; 65536]), Ok(0) | Err(_)).then_some(()));
}

#[test]
fn a_question_for_credit_is_answered() {
    let (host, mut guest) = start();
    let (mut socket, _stream) = pair(&host, &mut guest);
    guest.transmit(&mut socket, &[7; 1000]);
    guest.send(socket.header(Op::CreditRequest), b"");
    let answer = guest.expect(5, Op::CreditUpdate);
    assert_eq!((answer.buffer, answer.forwarded), (256 << 10, 1000));
}

#[test]
fn malformed_packets_reset_their_connection_alone() {
    let (host, mut guest) = start();
    let (mut good, mut stream) = pair(&host, &mut guest);
    for port in 100..110 {
        let bad = guest.connect(port, SERVICE);
        host.accept();
        let data = bad.header(Op::Data);
        match port % 5 {
            0 => guest.send(Header { length: 2, ..data }, b"1"),
            1 => guest.send(Header { length: u32::MAX, ..data }, b"1"),
            2 => guest.send(Header { length: MAX_PAYLOAD as u32 + 1, ..data }, &[0; MAX_PAYLOAD + 1]),
            3 => guest.send(Header { op: 99, ..data }, b""),
            _ => guest.send(bad.header(Op::Request), b""),
        }
        eventually("a reset", || (guest.packet(port).0.op == Op::Reset as u16).then_some(()));
    }
    guest.send_raw(&[b"too short"]);
    guest.send_raw(&[&[0; HEADER_SIZE]]);
    // Cut in odd places, it is the same packet.
    let raw = Header { length: 4, ..good.header(Op::Data) }.to_bytes();
    guest.send_raw(&[&raw[..1], &raw[1..40], &raw[40..], b"da", b"ta and more"]);
    good.sent += 4;
    let mut data = [0; 4];
    stream.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"data");
    guest.transmit(&mut good, b"goes on");
    let mut rest = [0; 7];
    stream.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"goes on");
}

#[test]
fn thousands_of_connections_come_and_go() {
    let (host, mut guest) = start();
    for round in 0..3000 {
        if round % 2 == 0 {
            let (socket, mut stream) = pair(&host, &mut guest);
            guest.shut(&socket, SHUTDOWN_RECEIVE | SHUTDOWN_SEND);
            guest.expect(5, Op::Reset);
            assert_eq!(read_all(&mut stream), b"");
        } else {
            let stream = host.connect();
            guest.accept(LISTENED);
            drop(stream);
            eventually("a reset", || (guest.packet(LISTENED).0.op == Op::Reset as u16).then_some(()));
        }
    }
    assert!(guest.is_quiet());
}

#[test]
fn connections_beyond_the_cap_are_turned_away_and_room_comes_back() {
    let (host, mut guest) = start();
    let mut held = Vec::new();
    let mut credit = 0;
    for port in 0..MAX_CONNECTIONS as u32 {
        let socket = guest.connect(port, SERVICE);
        credit += u64::from(socket.credit());
        held.push((socket, host.accept()));
    }
    assert!(credit <= 16 << 20, "promised {credit} bytes");
    guest.send(Header { op: Op::Request as u16, ..header(9999, SERVICE) }, b"");
    guest.expect(9999, Op::Reset);
    // A program of the host's waits until there is room, and some is left for the guest.
    let mut client = host.connect();
    held.truncate(MAX_CONNECTIONS * 3 / 4);
    eventually("room for one more", || {
        guest.send(Header { op: Op::Request as u16, ..header(9999, SERVICE) }, b"");
        (guest.packet(9999).0.op == Op::Response as u16).then_some(())
    });
    held.truncate(100);
    let mut socket = guest.accept(LISTENED);
    guest.transmit(&mut socket, b"hello");
    client.read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn clients_by_tcp_are_served_as_those_by_unix_sockets() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = Config { cid: 3, listen: vec![Listen::new(LISTENED, listener)], connect: HashMap::new() };
    let mut guest = Guest::start(config);
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut socket = guest.accept(LISTENED);
    client.write_all(b"question").unwrap();
    assert_eq!(guest.packet(LISTENED).1, b"question");
    guest.transmit(&mut socket, b"answer");
    client.read_exact(&mut [0; 6]).unwrap();
    drop(client);
    guest.expect(LISTENED, Op::Shutdown);
}

#[test]
fn a_driver_s_reset_closes_connections_and_keeps_listeners() {
    let (host, mut guest) = start();
    let mut held = Vec::new();
    for _ in 0..3 {
        let (mut socket, mut to_program) = pair(&host, &mut guest);
        let mut from_program = host.connect();
        guest.accept(LISTENED);
        let bytes = vec![1; socket.credit() as usize];
        guest.transmit(&mut socket, &bytes);
        guest.reset(64);
        from_program.read_exact(&mut [0]).unwrap_err();
        read_all(&mut to_program);
        held.push(host.connect());
        guest.accept(LISTENED);
    }
}

#[test]
fn who_connects_before_a_hold_is_lifted_waits_and_is_served_then() {
    let (host, mut config) = Host::new();
    let hold = EventFd::new(EFD_NONBLOCK).unwrap();
    config.listen[0].hold = Some(hold.try_clone().unwrap());
    let mut guest = Guest::start(config);
    let mut early = host.connect();
    early.write_all(b"early").unwrap();
    guest.connect(6, SERVICE);
    host.accept();
    guest.pump();
    assert!(guest.inbox.iter().all(|(header, _)| header.destination_port != LISTENED));
    hold.write(1).unwrap();
    guest.accept(LISTENED);
    assert_eq!(guest.packet(LISTENED).1, b"early");
    // For good, whatever the driver does.
    guest.reset(64);
    let _late = host.connect();
    guest.accept(LISTENED);
}

#[test]
fn a_guest_without_buffers_gets_all_when_it_gives_some() {
    let (host, config) = Host::new();
    let mut guest = Guest::with_buffers(config, 0, 4096);
    let mut streams: Vec<_> = (0..5).map(|_| host.connect()).collect();
    for port in 0..1000 {
        guest.send(Header { op: Op::Data as u16, ..header(port, 7) }, b"");
    }
    for stream in &mut streams {
        stream.write_all(&pattern(20_000)).unwrap();
    }
    guest.feed(8);
    let mut sockets: Vec<_> = (0..5).map(|_| guest.accept(LISTENED)).collect();
    let mut lengths = [0; 5];
    while lengths != [20_000; 5] {
        let (header, payload) = guest.packet(LISTENED);
        let which = sockets.iter().position(|socket| socket.host == header.source_port).unwrap();
        sockets[which].note(&header);
        assert_eq!(payload, pattern(20_000)[lengths[which]..][..payload.len()]);
        lengths[which] += payload.len();
    }
    // Resets that had to wait are bounded: some came, not all.
    guest.pump();
    let resets = guest.inbox.iter().filter(|(header, _)| header.op == Op::Reset as u16).count();
    assert!((1..1000).contains(&resets), "{resets}");
}

#[test]
fn tiny_receive_buffers_are_used_or_handed_back() {
    for (size, works) in [(1, false), (43, false), (44, false), (45, true), (60, true)] {
        let (host, config) = Host::new();
        let mut guest = Guest::with_buffers(config, 16, size);
        let mut stream = host.connect();
        if size < 44 {
            // Nothing can come; the device does not stop for that.
            thread::sleep(Duration::from_millis(20));
            guest.pump();
            assert!(guest.inbox.is_empty());
            continue;
        }
        let mut socket = guest.accept(LISTENED);
        guest.transmit(&mut socket, b"there");
        stream.read_exact(&mut [0; 5]).unwrap();
        if works {
            stream.write_all(b"and back").unwrap();
            assert_eq!(guest.receive(&mut socket, 8), b"and back");
        }
    }
}

#[test]
fn a_malformed_ring_stops_the_device_until_a_reset() {
    let (host, mut guest) = start();
    let (_socket, mut stream) = pair(&host, &mut guest);
    guest.driver.publish(1, 256);
    guest.driver.wait_needs_reset();
    assert_eq!(read_all(&mut stream), b"");
    guest.reset(64);
    pair(&host, &mut guest);
}

#[test]
fn configurations_that_can_not_work_are_refused() {
    let config = |cid| Config { cid, listen: Vec::new(), connect: HashMap::new() };
    for cid in [0, 1, 2, u32::MAX] {
        assert!(matches!(Vsock::new(config(cid)), Err(ConfigError::Cid(c)) if c == cid));
    }
}
