use std::net::Ipv4Addr;

use super::*;

fn tcp(v4: bool) -> Packet {
    let (source, destination) = if v4 {
        (Ipv4Addr::new(10, 0, 0, 2).into(), Ipv4Addr::new(9, 9, 9, 9).into())
    } else {
        ("fd00::2".parse().unwrap(), "2001:db8::1".parse().unwrap())
    };
    let offset = if v4 { 34 } else { 54 };
    let transport = Transport::Tcp { source: 1, destination: 2, opens: false, header: 32 };
    Packet { source, destination, transport, offset, end: 20_000 }
}

fn raw(flags: u8, gso: u8, size: u16, start: u16, offset: u16) -> [u8; HEADER] {
    let mut raw = [0; HEADER];
    (raw[0], raw[1]) = (flags, gso);
    for (at, value) in [(2, 999u16), (4, size), (6, start), (8, offset), (10, 77)] {
        raw[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    raw
}

#[test]
fn a_segment_is_passed_on_with_a_header_of_our_own_making() {
    let header = checked(&raw(1, 1, 1448, 34, 16), &tcp(true), Offloads::ALL).unwrap();
    assert_eq!(header, [1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]);
    assert!(checked(&raw(1, 4, 1428, 54, 16), &tcp(false), Offloads::ALL).is_some());
    assert_eq!(checked(&raw(0, 0, 0, 0, 0), &tcp(true), Offloads::NONE), Some([0; HEADER]));
    // Flags that only a device may set mean nothing from a driver.
    assert_eq!(checked(&raw(0xfe, 0, 1, 2, 3), &tcp(true), Offloads::ALL), Some([0; HEADER]));
}

#[test]
fn work_on_other_bytes_than_the_packets_transport_header_is_refused() {
    for (what, raw, packet) in [
        ("a checksum elsewhere", raw(1, 0, 0, 20, 16), tcp(true)),
        ("another field", raw(1, 0, 0, 34, 6), tcp(true)),
        ("far behind the frame", raw(1, 0, 0, 0xffff, 0xffff), tcp(true)),
        ("segments without a checksum", raw(0, 1, 1448, 0, 0), tcp(true)),
        ("segments of no size", raw(1, 1, 0, 34, 16), tcp(true)),
        ("IPv6 segments of IPv4", raw(1, 4, 1448, 34, 16), tcp(true)),
        ("IPv4 segments of IPv6", raw(1, 1, 1448, 54, 16), tcp(false)),
        ("UDP fragments", raw(1, 3, 1448, 34, 16), tcp(true)),
        ("ECN", raw(1, 0x81, 1448, 34, 16), tcp(true)),
    ] {
        assert_eq!(checked(&raw, &packet, Offloads::ALL), None, "{what}");
    }
    let udp = Packet { transport: Transport::Udp { source: 1, destination: 2 }, ..tcp(true) };
    assert!(checked(&raw(1, 0, 0, 34, 6), &udp, Offloads::ALL).is_some());
    assert_eq!(checked(&raw(1, 1, 1448, 34, 6), &udp, Offloads::ALL), None);
    let icmp = Packet { transport: Transport::Icmp { kind: 8 }, ..tcp(true) };
    assert_eq!(checked(&raw(1, 0, 0, 34, 2), &icmp, Offloads::ALL), None);
}

#[test]
fn what_was_not_agreed_on_is_refused() {
    let checksum = Offloads { checksum: true, ..Offloads::NONE };
    assert_eq!(checked(&raw(1, 0, 0, 34, 16), &tcp(true), Offloads::NONE), None);
    assert!(checked(&raw(1, 0, 0, 34, 16), &tcp(true), checksum).is_some());
    assert_eq!(checked(&raw(1, 1, 1448, 34, 16), &tcp(true), checksum), None);
}
