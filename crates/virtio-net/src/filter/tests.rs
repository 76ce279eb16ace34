use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    Cidr, Ends, Filter, HEAD, Mac, Packet, Policy, Query, Refusal, Rule, Transport, Verdict, datagram,
};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 111, 2, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 111, 2, 1);
const GUEST_6: Ipv6Addr = Ipv6Addr::new(0xfd6e, 0, 0, 1, 0, 0, 0, 2);
const GATEWAY_6: Ipv6Addr = Ipv6Addr::new(0xfd6e, 0, 0, 1, 0, 0, 0, 1);

const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 2;
const ACK: u8 = 16;

fn policy() -> Policy {
    Policy {
        mac: MAC,
        gateway_mac: GATEWAY_MAC,
        v4: Some(Ends { guest: GUEST, gateway: GATEWAY }),
        v6: Some(Ends { guest: GUEST_6, gateway: GATEWAY_6 }),
        host: ["198.51.100.2", "192.168.1.7", "2001:db8::7", "203.0.113.128/29"].map(cidr).into(),
        on_link: vec![cidr("198.51.100.0/24"), cidr("192.168.1.0/24")],
        guests: vec![cidr("10.111.0.0/16"), cidr("fd6e::/32")],
        ..Policy::default()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&GATEWAY_MAC.0[..], &MAC.0, &kind.to_be_bytes(), payload].concat()
}

fn tcp(port: u16, flags: u8) -> Vec<u8> {
    let mut segment = vec![0x9c, 0x40];
    segment.extend(port.to_be_bytes());
    segment.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x9c, 0x40];
    datagram.extend(port.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

fn v4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    ethernet(0x0800, &packet)
}

fn v6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    ethernet(0x86dd, &packet)
}

/// A SYN to port 80.
fn syn_to(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(to) => v4(GUEST, to, TCP, &tcp(80, SYN)),
        IpAddr::V6(to) => v6(GUEST_6, to, TCP, &tcp(80, SYN)),
    }
}

fn judge(filter: &mut Filter, frame: &[u8]) -> Verdict {
    filter.judge(&frame[..frame.len().min(HEAD)], frame.len(), Instant::now())
}

/// The reason why a fresh filter refuses a frame; none: it is let through.
fn refused(policy: Policy, frame: &[u8]) -> Option<Refusal> {
    let mut filter = Filter::new(policy);
    let verdict = judge(&mut filter, frame);
    let reason = Refusal::ALL.into_iter().find(|&reason| filter.refusals().count(reason) > 0);
    assert_eq!(matches!(verdict, Verdict::Forward(_)), reason.is_none(), "{verdict:?}, {reason:?}");
    assert!(filter.refusals().total() <= 1);
    reason
}

#[test]
fn the_table_of_destinations_holds_by_default_and_with_lan() {
    let table: &[(&str, Option<Refusal>, Option<Refusal>)] = &[
        ("203.0.113.5", None, None),
        ("2001:db8:1::1", None, None),
        ("64:ff9b::cb00:7105", None, None),
        ("0.0.0.0", Some(Refusal::Loopback), Some(Refusal::Loopback)),
        ("0.1.2.3", Some(Refusal::Loopback), Some(Refusal::Loopback)),
        ("127.0.0.1", Some(Refusal::Loopback), Some(Refusal::Loopback)),
        ("127.255.255.255", Some(Refusal::Loopback), Some(Refusal::Loopback)),
        ("::", Some(Refusal::Loopback), Some(Refusal::Loopback)),
        ("::1", Some(Refusal::Loopback), Some(Refusal::Loopback)),
        ("198.51.100.2", Some(Refusal::Host), Some(Refusal::Host)),
        ("192.168.1.7", Some(Refusal::Host), Some(Refusal::Host)),
        ("2001:db8::7", Some(Refusal::Host), Some(Refusal::Host)),
        ("203.0.113.130", Some(Refusal::Host), Some(Refusal::Host)),
        ("64:ff9b::c633:6402", Some(Refusal::Host), Some(Refusal::Host)),
        ("64:ff9b::c0a8:107", Some(Refusal::Host), Some(Refusal::Host)),
        ("64:ff9b::a6f:902", Some(Refusal::OtherGuest), Some(Refusal::OtherGuest)),
        ("64:ff9b::a6f:201", Some(Refusal::OtherGuest), Some(Refusal::OtherGuest)),
        ("198.51.100.9", Some(Refusal::Lan), None),
        ("64:ff9b::c633:6409", Some(Refusal::Lan), None),
        ("10.0.0.1", Some(Refusal::Lan), None),
        ("172.16.0.1", Some(Refusal::Lan), None),
        ("172.31.255.1", Some(Refusal::Lan), None),
        ("192.168.1.1", Some(Refusal::Lan), None),
        ("fd00::1", Some(Refusal::Lan), None),
        ("fec0::1", Some(Refusal::Lan), None),
        ("64:ff9b::a00:1", Some(Refusal::Lan), None),
        ("169.254.169.254", Some(Refusal::LinkLocal), Some(Refusal::LinkLocal)),
        ("fe80::1", Some(Refusal::LinkLocal), Some(Refusal::LinkLocal)),
        ("64:ff9b::a9fe:a9fe", Some(Refusal::LinkLocal), Some(Refusal::LinkLocal)),
        ("100.64.0.1", Some(Refusal::Carrier), Some(Refusal::Carrier)),
        ("100.127.255.1", Some(Refusal::Carrier), Some(Refusal::Carrier)),
        ("224.0.0.251", Some(Refusal::Multicast), Some(Refusal::Multicast)),
        ("239.255.255.250", Some(Refusal::Multicast), Some(Refusal::Multicast)),
        ("ff02::1", Some(Refusal::Multicast), Some(Refusal::Multicast)),
        ("255.255.255.255", Some(Refusal::Reserved), Some(Refusal::Reserved)),
        ("240.0.0.1", Some(Refusal::Reserved), Some(Refusal::Reserved)),
        ("192.0.0.8", Some(Refusal::Reserved), Some(Refusal::Reserved)),
        ("198.18.0.1", Some(Refusal::Reserved), Some(Refusal::Reserved)),
        ("4000::1", Some(Refusal::Reserved), Some(Refusal::Reserved)),
        ("192.88.99.1", Some(Refusal::Tunnel), Some(Refusal::Tunnel)),
        ("::ffff:127.0.0.1", Some(Refusal::Tunnel), Some(Refusal::Tunnel)),
        ("::ffff:203.0.113.5", Some(Refusal::Tunnel), Some(Refusal::Tunnel)),
        ("::127.0.0.1", Some(Refusal::Tunnel), Some(Refusal::Tunnel)),
        ("64:ff9b::7f00:1", Some(Refusal::Loopback), Some(Refusal::Loopback)),
        ("2002:7f00:1::1", Some(Refusal::Tunnel), Some(Refusal::Tunnel)),
        ("2001:0:7f00:1::1", Some(Refusal::Tunnel), Some(Refusal::Tunnel)),
        ("10.111.2.1", Some(Refusal::Gateway), Some(Refusal::Gateway)),
        ("fd6e:0:0:1::1", Some(Refusal::Gateway), Some(Refusal::Gateway)),
        ("10.111.9.2", Some(Refusal::OtherGuest), Some(Refusal::OtherGuest)),
        ("fd6e:0:0:9::2", Some(Refusal::OtherGuest), Some(Refusal::OtherGuest)),
    ];
    for &(address, by_default, with_lan) in table {
        let frame = syn_to(ip(address));
        assert_eq!(refused(policy(), &frame), by_default, "{address}");
        assert_eq!(refused(Policy { lan: true, ..policy() }, &frame), with_lan, "{address} with --lan");
    }
}

#[test]
fn rules_open_ranges_and_hosts_but_never_loopback_groups_tunnels_or_other_guests() {
    let everything = ["0.0.0.0/0", "::/0"].map(|text| Rule { range: cidr(text), port: None });
    let open = Policy { allow: everything.into(), ..policy() };
    for address in ["192.168.1.7", "198.51.100.2", "169.254.1.1", "100.64.1.1", "fe80::2", "10.0.0.1"] {
        assert_eq!(refused(open.clone(), &syn_to(ip(address))), None, "{address}");
    }
    for address in
        ["127.0.0.1", "0.0.0.0", "::1", "::ffff:127.0.0.1", "2002:7f00:1::", "224.0.0.1", "10.111.9.2"]
    {
        assert!(refused(open.clone(), &syn_to(ip(address))).is_some(), "{address}");
    }
}

#[test]
fn a_port_in_a_rule_is_the_only_one_and_deny_is_stronger_than_allow() {
    let rule = Rule { range: cidr("10.0.0.0/24"), port: Some(80) };
    let allow = Policy { allow: vec![rule], ..policy() };
    let to = |port| v4(GUEST, Ipv4Addr::new(10, 0, 0, 1), TCP, &tcp(port, SYN));
    assert_eq!(refused(allow.clone(), &to(80)), None);
    assert_eq!(refused(allow.clone(), &to(81)), Some(Refusal::Lan));
    let echo = v4(GUEST, Ipv4Addr::new(10, 0, 0, 1), 1, &[8, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(refused(allow.clone(), &echo), Some(Refusal::Lan));
    let deny = Policy { deny: vec![Rule { range: cidr("10.0.0.1"), port: None }], ..allow };
    assert_eq!(refused(deny, &to(80)), Some(Refusal::Denied));
}

#[test]
fn a_rule_of_an_address_holds_for_what_a_translator_calls_it() {
    let rule = |text| vec![Rule { range: cidr(text), port: None }];
    let translated = syn_to(ip("64:ff9b::cb00:7105"));
    let deny = |text| Policy { deny: rule(text), ..policy() };
    assert_eq!(refused(deny("203.0.113.5"), &translated), Some(Refusal::Denied));
    assert_eq!(refused(deny("64:ff9b::/96"), &translated), Some(Refusal::Denied));
    assert_eq!(refused(deny("203.0.113.6"), &translated), None);
    let allow = |text| Policy { offline: true, allow: rule(text), ..policy() };
    assert_eq!(refused(allow("203.0.113.5"), &translated), None);
    assert_eq!(refused(allow("203.0.113.6"), &translated), Some(Refusal::Offline));
    // And a name that is allowed opens none of a network that the host is on.
    let mut filter = Filter::new(Policy { offline: true, ..policy() });
    let neighbour = ip("64:ff9b::c633:6409");
    filter.open(neighbour, None, Instant::now(), Duration::from_secs(60));
    assert!(!matches!(judge(&mut filter, &syn_to(neighbour)), Verdict::Forward(_)));
}

#[test]
fn offline_leaves_only_what_is_allowed() {
    let offline = Policy { offline: true, lan: true, ..policy() };
    assert_eq!(refused(offline.clone(), &syn_to(ip("203.0.113.5"))), Some(Refusal::Offline));
    assert_eq!(refused(offline.clone(), &syn_to(ip("10.0.0.1"))), Some(Refusal::Offline));
    let allow = vec![Rule { range: cidr("203.0.113.5"), port: Some(80) }];
    assert_eq!(refused(Policy { allow, ..offline }, &syn_to(ip("203.0.113.5"))), None);
}

#[test]
fn a_name_opens_its_addresses_for_their_time_and_its_connections_live_on() {
    let mut filter = Filter::new(Policy { offline: true, ..policy() });
    let (start, to) = (Instant::now(), Ipv4Addr::new(203, 0, 113, 5));
    let sends = |filter: &mut Filter, flags, seconds| {
        let frame = v4(GUEST, to, TCP, &tcp(443, flags));
        let now = start + Duration::from_secs(seconds);
        matches!(filter.judge(&frame, frame.len(), now), Verdict::Forward(_))
    };
    assert!(!sends(&mut filter, SYN, 0));
    filter.open(to.into(), Some(443), start, Duration::from_secs(60));
    assert!(sends(&mut filter, SYN, 59));
    assert!(sends(&mut filter, ACK, 59));
    assert!(!sends(&mut filter, SYN, 60));
    assert!(sends(&mut filter, ACK, 3000), "the connection lives");
    assert!(!sends(&mut filter, ACK, 7000), "it was idle for an hour");
}

#[test]
fn a_name_can_not_open_what_its_server_must_not_choose() {
    let mut filter = Filter::new(Policy { offline: true, ..policy() });
    for address in ["127.0.0.1", "10.0.0.1", "198.51.100.9", "169.254.169.254", "::ffff:10.0.0.1", "ff02::1"]
    {
        filter.open(ip(address), None, Instant::now(), Duration::from_secs(60));
        assert!(!matches!(judge(&mut filter, &syn_to(ip(address))), Verdict::Forward(_)), "{address}");
    }
}

#[test]
fn so_many_names_that_the_table_is_full_close_the_oldest() {
    let mut filter = Filter::new(Policy { offline: true, ..policy() });
    let now = Instant::now();
    for i in 0..5000u32 {
        let address = Ipv4Addr::from_bits(0xcb00_7100 + i);
        filter.open(address.into(), None, now, Duration::from_secs(60 + u64::from(i)));
    }
    let open = |filter: &mut Filter, i: u32| {
        let frame = syn_to(Ipv4Addr::from_bits(0xcb00_7100 + i).into());
        matches!(filter.judge(&frame, frame.len(), now), Verdict::Forward(_))
    };
    assert!(!open(&mut filter, 0) && open(&mut filter, 4999));
}

#[test]
fn frames_of_others_and_of_other_kinds_are_refused() {
    let good = syn_to(ip("203.0.113.5"));
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = good.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let cases: Vec<(&str, Vec<u8>, Refusal)> = vec![
        ("another source MAC", with(6, &[2, 0, 0, 0, 0, 9]), Refusal::SourceMac),
        ("another destination MAC", with(0, &[2, 0, 0, 0, 0, 9]), Refusal::Link),
        ("a broadcast", with(0, &[0xff; 6]), Refusal::Link),
        ("a VLAN tag", with(12, &[0x81, 0]), Refusal::EtherType),
        ("a service VLAN tag", with(12, &[0x88, 0xa8]), Refusal::EtherType),
        ("an 802.3 length", with(12, &[0, 46]), Refusal::EtherType),
        ("LLDP", with(12, &[0x88, 0xcc]), Refusal::EtherType),
        ("PPPoE", with(12, &[0x88, 0x64]), Refusal::EtherType),
        ("another source address", with(26, &[10, 111, 2, 3]), Refusal::Source),
        ("from the gateway", with(26, &[10, 111, 2, 1]), Refusal::Source),
        ("from loopback", with(26, &[127, 0, 0, 1]), Refusal::Source),
        ("more fragments", with(20, &[0x20, 0]), Refusal::Fragment),
        ("a later fragment", with(20, &[0, 1]), Refusal::Fragment),
        ("the reserved bit", with(20, &[0x80, 0]), Refusal::Fragment),
        ("options", with(14, &[0x46]), Refusal::Options),
        ("the longest options", with(14, &[0x4f]), Refusal::Options),
        ("a header of 16 bytes", with(14, &[0x44]), Refusal::Malformed),
        ("IPv6 in an IPv4 frame", with(14, &[0x65]), Refusal::Malformed),
        ("longer than the frame", with(16, &[0, 41]), Refusal::Malformed),
        ("shorter than its header", with(16, &[0, 19]), Refusal::Malformed),
        ("IPv6 in IPv4", with(23, &[41]), Refusal::Protocol(0)),
        ("IPv4 in IPv4", with(23, &[4]), Refusal::Protocol(0)),
        ("GRE", with(23, &[47]), Refusal::Protocol(0)),
        ("SCTP", with(23, &[132]), Refusal::Protocol(0)),
        ("a TCP header of 16 bytes", with(46, &[0x40]), Refusal::Malformed),
        ("a TCP header longer than the packet", with(46, &[0x60]), Refusal::Malformed),
        ("cut in Ethernet", good[..13].to_vec(), Refusal::Malformed),
        ("cut in IP", good[..30].to_vec(), Refusal::Malformed),
        ("cut in TCP", good[..50].to_vec(), Refusal::Malformed),
        ("an echo reply", v4(GUEST, Ipv4Addr::new(203, 0, 113, 5), 1, &[0; 8]), Refusal::Icmp(0)),
        ("a redirect", v4(GUEST, Ipv4Addr::new(203, 0, 113, 5), 1, &[5; 8]), Refusal::Icmp(0)),
    ];
    for (what, frame, reason) in cases {
        assert_eq!(refused(policy(), &frame), Some(reason), "{what}");
    }
}

#[test]
fn a_source_route_is_refused_wherever_it_leads() {
    let mut packet = vec![0x47, 0, 0, 48, 0, 0, 0x40, 0, 64, TCP, 0, 0];
    packet.extend(GUEST.octets());
    packet.extend([203, 0, 113, 5]);
    packet.extend([131, 7, 4, 127, 0, 0, 1, 0]);
    packet.extend(tcp(80, SYN));
    assert_eq!(refused(policy(), &ethernet(0x0800, &packet)), Some(Refusal::Options));
}

#[test]
fn extension_headers_of_ipv6_are_refused() {
    let to: Ipv6Addr = "2001:db8:1::1".parse().unwrap();
    for next in [0, 43, 44, 50, 51, 60, 135, 139, 4, 41, 59] {
        let frame = v6(GUEST_6, to, next, &[&[TCP, 0, 0, 0, 0, 0, 0, 0][..], &tcp(80, SYN)].concat());
        assert_eq!(refused(policy(), &frame), Some(Refusal::Protocol(0)), "{next}");
    }
    assert_eq!(refused(policy(), &v6(GATEWAY_6, to, TCP, &tcp(80, SYN))), Some(Refusal::Source));
}

#[test]
fn what_follows_a_packet_is_not_sent() {
    let mut frame = syn_to(ip("203.0.113.5"));
    let end = frame.len();
    frame.extend(b"padding that says something");
    let Verdict::Forward(packet) = judge(&mut Filter::new(policy()), &frame) else { panic!("refused") };
    assert_eq!(packet.end, end);
}

fn arp(request: u8, sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let body =
        [&[0, 1, 8, 0, 6, 4, 0, request][..], &sender_mac.0, &sender.octets(), &[0; 6], &target.octets()]
            .concat();
    ethernet(0x0806, &body)
}

#[test]
fn the_gateway_alone_is_found_by_arp_and_nobody_can_be_impersonated() {
    let mut filter = Filter::new(policy());
    let Verdict::Answer(reply) = judge(&mut filter, &arp(1, MAC, GUEST, GATEWAY)) else {
        panic!("no answer")
    };
    assert_eq!(reply[..14], [&MAC.0[..], &GATEWAY_MAC.0, &[8, 6]].concat());
    assert_eq!(reply[20..32], [&[0, 2][..], &GATEWAY_MAC.0, &GATEWAY.octets()].concat());
    // Another neighbour, a probe, an announcement: silence.
    let other = Ipv4Addr::new(10, 111, 2, 3);
    for frame in [
        arp(1, MAC, GUEST, other),
        arp(1, MAC, Ipv4Addr::UNSPECIFIED, GUEST),
        arp(1, MAC, GUEST, GUEST),
        arp(2, MAC, GUEST, GUEST),
    ] {
        assert_eq!(judge(&mut filter, &frame), Verdict::Drop);
    }
    assert_eq!(filter.refusals().total(), 0);
    for frame in
        [arp(2, MAC, GATEWAY, GUEST), arp(1, GATEWAY_MAC, GUEST, GATEWAY), arp(1, MAC, other, GATEWAY)]
    {
        assert_eq!(judge(&mut filter, &frame), Verdict::Drop);
    }
    assert_eq!(filter.refusals().count(Refusal::Neighbour), 3);
    assert_eq!(judge(&mut filter, &arp(3, MAC, GUEST, GATEWAY)), Verdict::Drop);
    assert_eq!(filter.refusals().count(Refusal::Malformed), 1);
}

fn solicitation(source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let body = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &[1, 1], &MAC.0].concat();
    v6(source, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1), 58, &body)
}

#[test]
fn the_gateway_alone_is_found_by_neighbour_discovery() {
    let mut filter = Filter::new(policy());
    let Verdict::Answer(reply) = judge(&mut filter, &solicitation(GUEST_6, GATEWAY_6)) else {
        panic!("no answer")
    };
    assert_eq!(reply[20..22], [58, 255]);
    assert_eq!(reply[54..56], [136, 0]);
    assert_eq!(reply[62..78], GATEWAY_6.octets());
    assert_eq!(sum(&reply[22..54], &reply[54..], 58), 0xffff);
    let local: Ipv6Addr = "fe80::2".parse().unwrap();
    assert!(matches!(judge(&mut filter, &solicitation(local, GATEWAY_6)), Verdict::Answer(_)));
    // Is my own address free? And who is somebody else?
    assert_eq!(judge(&mut filter, &solicitation(Ipv6Addr::UNSPECIFIED, GUEST_6)), Verdict::Drop);
    assert_eq!(judge(&mut filter, &solicitation(GUEST_6, "fd6e:0:0:1::9".parse().unwrap())), Verdict::Drop);
    assert_eq!(filter.refusals().total(), 0);
    judge(&mut filter, &solicitation(GATEWAY_6, GATEWAY_6));
    assert_eq!(filter.refusals().count(Refusal::Neighbour), 1);
}

/// The Internet checksum over a pseudo header's addresses, a message, its length and protocol.
fn sum(addresses: &[u8], message: &[u8], protocol: u8) -> u32 {
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum()
    };
    let mut sum = words(addresses) + words(message) + message.len() as u32 + u32::from(protocol);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

#[test]
fn what_a_kernel_says_to_its_link_is_dropped_without_a_word() {
    let mut filter = Filter::new(policy());
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
    let local: Ipv6Addr = "fe80::2".parse().unwrap();
    let report = [&[58, 0, 5, 2, 0, 0, 1, 0][..], &[143, 0, 0, 0, 0, 0, 0, 0]].concat();
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let mut igmp = vec![0x46, 0, 0, 40, 0, 0, 0x40, 0, 1, 2, 0, 0];
    igmp.extend(GUEST.octets());
    igmp.extend([224, 0, 0, 22, 0x94, 4, 0, 0]);
    igmp.extend([0x22, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 224, 0, 0, 251]);
    for frame in [
        v6(local, group, 0, &report),
        v6(Ipv6Addr::UNSPECIFIED, group, 0, &report),
        v6(local, routers, 58, &[133, 0, 0, 0, 0, 0, 0, 0]),
        ethernet(0x0800, &igmp),
    ] {
        assert_eq!(judge(&mut filter, &frame), Verdict::Drop);
    }
    assert_eq!(filter.refusals().total(), 0);
}

#[test]
fn questions_for_names_go_to_the_resolver_and_only_they() {
    let mut filter = Filter::new(policy());
    let frame = v4(GUEST, GATEWAY, UDP, &udp(53, b"question"));
    let Verdict::Resolve(packet, query) = judge(&mut filter, &frame) else { panic!("not resolved") };
    assert_eq!((packet.offset, packet.end), (34, 50));
    assert_eq!(query, Query { v6: false, port: 40_000 });
    let frame = v6(GUEST_6, GATEWAY_6, UDP, &udp(53, b"question"));
    assert!(matches!(judge(&mut filter, &frame), Verdict::Resolve(_, Query { v6: true, .. })));
    for frame in [
        v4(GUEST, GATEWAY, TCP, &tcp(53, SYN)),
        v4(GUEST, GATEWAY, UDP, &udp(54, b"")),
        v4(GUEST, GATEWAY, 1, &[8; 8]),
    ] {
        judge(&mut filter, &frame);
    }
    assert_eq!(filter.refusals().count(Refusal::Gateway), 3);
    // Other name servers of the Internet are that.
    assert_eq!(refused(policy(), &v4(GUEST, Ipv4Addr::new(9, 9, 9, 9), UDP, &udp(53, b""))), None);
}

#[test]
fn answers_for_names_have_checksums_and_fit_the_link() {
    for v6 in [false, true] {
        let frame = datagram(&policy(), Query { v6, port: 4000 }, b"answer", 1500).unwrap();
        let (addresses, message) =
            if v6 { (&frame[22..54], &frame[54..]) } else { (&frame[26..34], &frame[34..]) };
        assert_eq!(message[..4], [0, 53, 4000u16.to_be_bytes()[0], 4000u16.to_be_bytes()[1]]);
        assert_eq!(sum(addresses, message, 17), 0xffff);
        assert_eq!(&message[8..], b"answer");
        if !v6 {
            assert_eq!(
                sum(&[], &frame[14..34], 0),
                20,
                "the sum of a header is nothing, and its length comes on top"
            );
        }
    }
    assert_eq!(datagram(&policy(), Query { v6: false, port: 1 }, &[0; 1473], 1500), None);
    let off = Policy { v6: None, ..policy() };
    assert_eq!(datagram(&off, Query { v6: true, port: 1 }, b"", 1500), None);
}

#[test]
fn a_program_hears_that_a_destination_is_closed() {
    let mut filter = Filter::new(policy());
    let frame = syn_to(ip("10.0.0.1"));
    let Verdict::Answer(answer) = judge(&mut filter, &frame) else { panic!("silence") };
    assert_eq!(answer[34..36], [3, 13]);
    assert_eq!(answer[42..70], frame[14..42]);
    let frame = syn_to(ip("fd00::1"));
    let Verdict::Answer(answer) = judge(&mut filter, &frame) else { panic!("silence") };
    assert_eq!(answer[54..56], [1, 1]);
    assert_eq!(sum(&answer[22..54], &answer[54..], 58), 0xffff);
    // Not of errors, and not of groups.
    let error = v4(GUEST, Ipv4Addr::new(10, 0, 0, 1), 1, &[3; 8]);
    assert_eq!(judge(&mut filter, &error), Verdict::Drop);
    assert_eq!(judge(&mut filter, &syn_to(ip("224.0.0.1"))), Verdict::Drop);
}

fn from_outside(from: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = v4(from, GUEST, protocol, payload);
    frame[..6].copy_from_slice(&MAC.0);
    frame[6..12].copy_from_slice(&GATEWAY_MAC.0);
    frame
}

fn admit(filter: &Filter, frame: &[u8]) -> bool {
    filter.admit(&frame[..frame.len().min(HEAD)], frame.len())
}

#[test]
fn nobody_connects_from_outside() {
    let filter = Filter::new(policy());
    let far = Ipv4Addr::new(203, 0, 113, 5);
    assert!(!admit(&filter, &from_outside(far, TCP, &tcp(80, SYN))));
    assert!(!admit(&filter, &from_outside(GATEWAY, TCP, &tcp(80, SYN))));
    assert!(admit(&filter, &from_outside(far, TCP, &tcp(81, SYN | ACK))));
    assert!(admit(&filter, &from_outside(far, UDP, &udp(5000, b"reply"))));
    assert!(!admit(&filter, &from_outside(far, 1, &[5; 8])), "a redirect");
    let mut other = from_outside(far, UDP, &udp(1, b""));
    other[30] = 9;
    assert!(!admit(&filter, &other), "another destination");
    assert!(!admit(&filter, &arp(1, GATEWAY_MAC, GATEWAY, GUEST)));
    assert!(!admit(&filter, &[]));
}

#[test]
fn a_new_address_of_the_host_is_closed_at_once() {
    let mut filter = Filter::new(policy());
    let frame = syn_to(ip("203.0.113.5"));
    assert!(matches!(judge(&mut filter, &frame), Verdict::Forward(_)));
    filter.set_host(vec![cidr("203.0.113.5")], Vec::new());
    judge(&mut filter, &frame);
    assert_eq!(filter.refusals().count(Refusal::Host), 1);
}

#[test]
fn refusals_are_counted_and_told_by_reason() {
    let mut filter = Filter::new(policy());
    for _ in 0..1000 {
        judge(&mut filter, &syn_to(ip("10.0.0.1")));
    }
    judge(&mut filter, &syn_to(ip("127.0.0.1")));
    assert_eq!(
        filter.refusals().to_string(),
        "1001 frames refused: 1 the host's loopback, 1000 a local network (--lan opens it)"
    );
}

#[test]
fn texts_of_ranges_and_addresses_are_read_and_wrong_ones_are_not() {
    for good in ["10.0.0.0/8", "::/0", "fd00::1", "1.2.3.4", "0.0.0.0/0"] {
        assert!(good.parse::<Cidr>().is_ok(), "{good}");
    }
    for bad in
        ["", "10.0.0.0/33", "::/129", "10.0.0/8", "1.2.3.4/", "1.2.3.4/+8", "example.org", "1.2.3.4/-1"]
    {
        assert!(bad.parse::<Cidr>().is_err(), "{bad}");
    }
    assert_eq!("02:6e:66:00:00:01".parse(), Ok(Mac([2, 0x6e, 0x66, 0, 0, 1])));
    for bad in ["", "02:6e:66:00:00", "02:6e:66:00:00:01:02", "02:6e:66:00:00:zz"] {
        assert!(bad.parse::<Mac>().is_err(), "{bad}");
    }
}

/// What may never be reached, whatever else the policy says: an independent list, by bits.
fn forbidden(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            let [x, y, ..] = a.octets();
            a.is_loopback() || x == 0 || a.is_multicast() || x >= 240 || (x == 10 && y == 111)
        }
        IpAddr::V6(a) => {
            a.is_loopback()
                || a.is_unspecified()
                || a.is_multicast()
                || a.to_ipv4().is_some()
                || a.segments()[0] == 0x2002
                || a.segments()[..2] == [0x2001, 0]
        }
    }
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let mutated = (
        any::<[u8; 16]>(),
        any::<u32>(),
        any::<bool>(),
        0u8..4,
        any::<u16>(),
        prop::collection::vec((0usize..80, any::<u8>()), 0..4),
    );
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        mutated.prop_map(|(wide, narrow, six, kind, port, changes)| {
            let (protocol, payload) = match kind {
                0 => (TCP, tcp(port, SYN)),
                1 => (TCP, tcp(port, ACK)),
                2 => (UDP, udp(port, &[7; 30])),
                _ => (if six { 58 } else { 1 }, vec![if six { 128 } else { 8 }; 20]),
            };
            let mut frame = if six {
                v6(GUEST_6, Ipv6Addr::from(wide), protocol, &payload)
            } else {
                v4(GUEST, Ipv4Addr::from_bits(narrow), protocol, &payload)
            };
            for (at, byte) in changes {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            frame
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    /// Whatever a guest sends, and however much is open: what goes is an ordinary packet of its own, to a place
    /// that can be open, of a length that was understood.
    #[test]
    fn what_goes_is_an_ordinary_packet_of_the_guests_own(frame in any_frame(), lan: bool, all: bool) {
        let allow = if all { vec![Rule { range: cidr("0.0.0.0/0"), port: None }, Rule { range: cidr("::/0"), port: None }] } else { Vec::new() };
        let mut filter = Filter::new(Policy { lan, allow, ..policy() });
        let before = filter.refusals().total();
        match judge(&mut filter, &frame) {
            Verdict::Forward(Packet { destination, end, offset, transport, .. }) => {
                prop_assert!(end <= frame.len() && offset < end);
                prop_assert_eq!(&frame[..6], &GATEWAY_MAC.0);
                prop_assert_eq!(&frame[6..12], &MAC.0);
                prop_assert!(!forbidden(destination), "{}", destination);
                let source = match u16::from_be_bytes([frame[12], frame[13]]) {
                    0x0800 => {
                        prop_assert_eq!(frame[14], 0x45);
                        prop_assert_eq!(frame[20] & 0xbf, 0);
                        prop_assert_eq!(frame[21], 0);
                        prop_assert_eq!(frame[26..30] == GUEST.octets(), true);
                        frame[23]
                    }
                    0x86dd => {
                        prop_assert_eq!(frame[22..38] == GUEST_6.octets(), true);
                        frame[20]
                    }
                    other => return Err(TestCaseError::fail(format!("ethertype {other:#x}"))),
                };
                let protocol = match transport {
                    Transport::Tcp { header, .. } => { prop_assert!(offset + header <= end); vec![6] }
                    Transport::Udp { .. } => vec![17],
                    Transport::Icmp { .. } => vec![1, 58],
                };
                prop_assert!(protocol.contains(&source));
                if !all && !lan {
                    let private = match destination {
                        IpAddr::V4(a) => a.is_private() || a.is_link_local(),
                        IpAddr::V6(a) => a.is_unique_local() || a.is_unicast_link_local(),
                    };
                    prop_assert!(!private, "{}", destination);
                }
            }
            Verdict::Answer(answer) => {
                // To the guest, from the gateway.
                prop_assert_eq!(&answer[..6], &MAC.0);
                prop_assert_eq!(&answer[6..12], &GATEWAY_MAC.0);
                prop_assert!(answer.len() <= 1514);
            }
            Verdict::Resolve(packet, _) => {
                prop_assert!(packet.offset + 8 <= packet.end && packet.end <= frame.len());
            }
            Verdict::Drop => {}
        }
        prop_assert!(filter.refusals().total() <= before + 1);
    }

    #[test]
    fn whatever_comes_from_outside_does_no_harm(frame in any_frame()) {
        let filter = Filter::new(policy());
        if admit(&filter, &frame) {
            prop_assert_eq!(&frame[..6], &MAC.0);
        }
    }

    #[test]
    fn ranges_hold_what_shares_their_first_bits(address: u32, other: u32, length in 0u8..=32) {
        let range = Cidr::new(Ipv4Addr::from_bits(address).into(), length);
        let same = (0..u32::from(length)).all(|bit| (address ^ other) >> (31 - bit) & 1 == 0);
        prop_assert_eq!(range.contains(Ipv4Addr::from_bits(other).into()), same);
        prop_assert!(range.overlaps(&range));
    }
}
