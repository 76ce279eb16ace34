use std::io::{Read, Write};
use std::net::Ipv4Addr;

use super::*;

const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

struct Guest {
    stream: UnixStream,
    incoming: Datagrams,
}

impl Guest {
    fn next(&mut self) -> (u32, Vec<u8>) {
        loop {
            if let Some((client, datagram)) = self.incoming.take() {
                return (client, datagram.to_vec());
            }
            let mut bytes = [0; 1000];
            let count = self.stream.read(&mut bytes).unwrap();
            assert!(count > 0);
            self.incoming.add(&bytes[..count]);
        }
    }

    fn answer(&mut self, client: u32, datagram: &[u8]) {
        self.stream.write_all(&datagram_header(client, datagram.len() as u16)).unwrap();
        self.stream.write_all(datagram).unwrap();
    }
}

/// A relay of one port, its address, and the guest's end.
fn relay() -> (SocketAddr, Guest) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let (ours, stream) = UnixStream::pair().unwrap();
    stream.set_read_timeout(PATIENCE).unwrap();
    let mut relay = Relay::default();
    relay.add(Port::new(vec![socket], ours));
    thread::spawn(move || relay.carry().unwrap());
    (address, Guest { stream, incoming: Datagrams::default() })
}

fn client() -> UdpSocket {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.set_read_timeout(PATIENCE).unwrap();
    client
}

#[test]
fn answers_go_to_the_client_that_asked() {
    let (port, mut guest) = relay();
    let (one, two) = (client(), client());
    one.send_to(b"one", port).unwrap();
    let (first, text) = guest.next();
    assert_eq!(text, b"one");
    two.send_to(b"two", port).unwrap();
    let (second, text) = guest.next();
    assert_eq!(text, b"two");
    assert_ne!(first, second);
    guest.answer(second, b"to two");
    guest.answer(first, &[1; 60_000]);
    let mut bytes = vec![0; MAX_DATAGRAM];
    assert_eq!(two.recv_from(&mut bytes).unwrap(), (6, port));
    assert_eq!(one.recv_from(&mut bytes).unwrap(), (60_000, port));
    one.send_to(b"again", port).unwrap();
    assert_eq!(guest.next(), (first, b"again".to_vec()));
}

#[test]
fn a_hostile_guest_reaches_nobody_who_has_not_sent() {
    let (port, mut guest) = relay();
    let one = client();
    one.send_to(b"one", port).unwrap();
    let (number, _) = guest.next();
    for stranger in [number.wrapping_add(1), u32::MAX, number.wrapping_sub(1)] {
        guest.answer(stranger, b"to nobody");
    }
    // A header that promises more than comes holds up this guest's own answers, and nothing else.
    guest.answer(number, b"fine");
    let mut bytes = [0; 100];
    assert_eq!(one.recv_from(&mut bytes).unwrap().0, 4);
    assert_eq!(&bytes[..4], b"fine");
}

#[test]
fn clients_beyond_the_cap_take_the_place_of_the_oldest() {
    let (ours, _guest) = UnixStream::pair().unwrap();
    let mut port = Port::new(Vec::new(), ours);
    let start = Instant::now();
    let address = |i: usize| SocketAddr::from((Ipv4Addr::LOCALHOST, 1000 + i as u16));
    for i in 0..=MAX_CLIENTS {
        port.number(0, address(i), start + Duration::from_millis(i as u64));
    }
    assert_eq!((port.clients.len(), port.numbers.len()), (MAX_CLIENTS, MAX_CLIENTS));
    assert!(!port.clients.contains_key(&0) && port.clients.contains_key(&1));
    // Silent for too long, a client is another one to the guest.
    let later = start + LIFE + Duration::from_secs(1);
    let renewed = port.number(0, address(5), later);
    assert_eq!(renewed, MAX_CLIENTS as u32 + 1);
    assert_eq!((port.clients.len(), port.numbers.len()), (MAX_CLIENTS - 1, MAX_CLIENTS - 1));
}

#[test]
fn the_relay_ends_with_the_guest() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (ours, stream) = UnixStream::pair().unwrap();
    let mut relay = Relay::default();
    relay.add(Port::new(vec![socket], ours));
    let thread = thread::spawn(move || relay.carry().unwrap());
    drop(stream);
    thread.join().unwrap();
}
