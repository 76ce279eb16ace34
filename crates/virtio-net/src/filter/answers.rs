//! Frames to the guest that are made here, in the place of a gateway and a resolver.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Ends, Packet, Policy, Transport,
    frame::{ETHERNET, IPV4, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_UDP, TYPE_ARP, TYPE_IPV4, TYPE_IPV6},
};

/// Who asked the resolver: where the answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// By IPv6 or by IPv4.
    pub v6: bool,
    /// The guest's UDP port.
    pub port: u16,
}

impl Query {
    pub(super) fn of(packet: &Packet) -> Option<Self> {
        match packet.transport {
            Transport::Udp { source, .. } => Some(Self { v6: packet.destination.is_ipv6(), port: source }),
            _ => None,
        }
    }
}

/// The gateway has the address that was asked for.
pub(super) fn arp_reply(policy: &Policy, v4: &Ends<Ipv4Addr>) -> Vec<u8> {
    let mut frame = ethernet(policy, TYPE_ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(policy.gateway_mac.0);
    frame.extend(v4.gateway.octets());
    frame.extend(policy.mac.0);
    frame.extend(v4.guest.octets());
    frame
}

/// The same for IPv6 (RFC 4861, 4.4): solicited, overriding, from a router, with the link-layer address.
pub(super) fn advertisement(policy: &Policy, asker: Ipv6Addr, gateway: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0xe0, 0, 0, 0];
    message.extend(gateway.octets());
    message.extend([2, 1]);
    message.extend(policy.gateway_mac.0);
    packet_v6(policy, PROTOCOL_ICMPV6, gateway, asker, message, 2)
}

/// "Administratively prohibited", with the first bytes of what was refused (RFC 1812, 5.2.7.1; RFC 4443, 3.1).
/// None when the packet is itself an ICMP error, or came from nowhere that an answer could go to.
pub(super) fn unreachable(policy: &Policy, packet: &Packet, head: &[u8]) -> Option<Vec<u8>> {
    let errors = match (packet.transport, packet.destination) {
        (Transport::Icmp { kind }, IpAddr::V4(_)) => kind != 8,
        (Transport::Icmp { kind }, IpAddr::V6(_)) => kind < 128,
        _ => false,
    };
    if errors || packet.destination.is_multicast() {
        return None;
    }
    match packet.destination {
        IpAddr::V4(_) => {
            let ends = policy.v4?;
            let mut message = vec![3, 13, 0, 0, 0, 0, 0, 0];
            message.extend(head.get(ETHERNET..(ETHERNET + IPV4 + 8).min(packet.end))?);
            let sum = checksum(0, &message);
            message[2..4].copy_from_slice(&sum);
            Some(packet_v4(policy, PROTOCOL_ICMP, &ends, message))
        }
        IpAddr::V6(_) => {
            let ends = policy.v6?;
            let mut message = vec![1, 1, 0, 0, 0, 0, 0, 0];
            message.extend(head.get(ETHERNET..packet.end.min(head.len()))?);
            Some(packet_v6(policy, PROTOCOL_ICMPV6, ends.gateway, ends.guest, message, 2))
        }
    }
}

/// A datagram from the gateway's DNS port; none when it is longer than the link takes, or that version of IP
/// is off.
pub fn datagram(policy: &Policy, query: Query, payload: &[u8], mtu: usize) -> Option<Vec<u8>> {
    let length = u16::try_from(payload.len() + 8).ok()?;
    let mut message = Vec::with_capacity(usize::from(length));
    message.extend(super::DNS.to_be_bytes());
    message.extend(query.port.to_be_bytes());
    message.extend(length.to_be_bytes());
    message.extend([0, 0]);
    message.extend(payload);
    let frame = if query.v6 {
        let ends = policy.v6?;
        packet_v6(policy, PROTOCOL_UDP, ends.gateway, ends.guest, message, 6)
    } else {
        let ends = policy.v4?;
        let pseudo = pseudo_v4(&ends, PROTOCOL_UDP, length);
        let sum = checksum(pseudo, &message);
        // Zero says that there is none.
        let sum = if sum == [0, 0] { [0xff, 0xff] } else { sum };
        message[6..8].copy_from_slice(&sum);
        packet_v4(policy, PROTOCOL_UDP, &ends, message)
    };
    (frame.len() <= ETHERNET + mtu).then_some(frame)
}

fn ethernet(policy: &Policy, kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(128);
    frame.extend(policy.mac.0);
    frame.extend(policy.gateway_mac.0);
    frame.extend(kind.to_be_bytes());
    frame
}

fn packet_v4(policy: &Policy, protocol: u8, ends: &Ends<Ipv4Addr>, message: Vec<u8>) -> Vec<u8> {
    let mut frame = ethernet(policy, TYPE_IPV4);
    let length = (IPV4 + message.len()) as u16;
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    // No identification, since it may not be fragmented (RFC 6864).
    header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    header.extend(ends.gateway.octets());
    header.extend(ends.guest.octets());
    let sum = checksum(0, &header);
    header[10..12].copy_from_slice(&sum);
    frame.extend(header);
    frame.extend(message);
    frame
}

/// `sum_at`: where in the message the checksum goes, which IPv6 wants for all protocols here.
fn packet_v6(
    policy: &Policy,
    protocol: u8,
    from: Ipv6Addr,
    to: Ipv6Addr,
    mut message: Vec<u8>,
    sum_at: usize,
) -> Vec<u8> {
    let mut pseudo = message.len() as u32 + u32::from(protocol);
    add(&mut pseudo, &from.octets());
    add(&mut pseudo, &to.octets());
    let sum = checksum(pseudo, &message);
    // Zero says that there is none, to UDP; to the others they are the same.
    let sum = if sum == [0, 0] { [0xff, 0xff] } else { sum };
    message[sum_at..sum_at + 2].copy_from_slice(&sum);
    let mut frame = ethernet(policy, TYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((message.len() as u16).to_be_bytes());
    // Neighbours only believe what has not come over a router (RFC 4861, 7.1.2).
    frame.extend([protocol, 255]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend(message);
    frame
}

fn pseudo_v4(ends: &Ends<Ipv4Addr>, protocol: u8, length: u16) -> u32 {
    let mut sum = u32::from(protocol) + u32::from(length);
    add(&mut sum, &ends.gateway.octets());
    add(&mut sum, &ends.guest.octets());
    sum
}

/// The Internet checksum (RFC 1071) of `bytes`, on top of `sum`.
fn checksum(mut sum: u32, bytes: &[u8]) -> [u8; 2] {
    add(&mut sum, bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// At most 64 KiB at a time: the sum does not overflow.
fn add(sum: &mut u32, bytes: &[u8]) {
    for pair in bytes.chunks(2) {
        *sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
}
