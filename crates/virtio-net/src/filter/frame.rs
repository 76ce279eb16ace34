//! Ethernet frames, as far as a filter looks: headers, with bounds, and nothing that is not needed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Mac, Refusal};

/// So many bytes of a frame are looked at: Ethernet, IPv6 and the longest TCP header are 114.
pub const HEAD: usize = 128;

/// The longest frame: an Ethernet header and the longest IP packet (the payload of IPv6 is 65,535 bytes, but
/// no sender makes a segment longer than IPv4's).
pub const MAX_FRAME: usize = ETHERNET + 65_535;

pub(super) const ETHERNET: usize = 14;
pub(super) const IPV4: usize = 20;
pub(super) const IPV6: usize = 40;
const TCP: usize = 20;
const UDP: usize = 8;
const ICMP: usize = 8;

pub(super) const TYPE_IPV4: u16 = 0x0800;
pub(super) const TYPE_ARP: u16 = 0x0806;
pub(super) const TYPE_IPV6: u16 = 0x86dd;

pub(super) const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_IGMP: u8 = 2;
const PROTOCOL_TCP: u8 = 6;
pub(super) const PROTOCOL_UDP: u8 = 17;
pub(super) const PROTOCOL_ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;

/// A frame's addresses on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub destination: Mac,
    pub source: Mac,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Arp(Arp),
    /// Somebody wants to know who has an IPv6 address.
    Solicitation {
        source: Ipv6Addr,
        target: Ipv6Addr,
    },
    Packet(Packet),
    /// What a kernel says to a link unasked, and nobody needs to hear: router solicitations, group reports,
    /// advertisements of itself.
    Chatter,
}

/// An ARP message for Ethernet and IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    pub request: bool,
    pub sender_mac: Mac,
    pub sender: Ipv4Addr,
    pub target: Ipv4Addr,
}

/// An IP packet, whole and without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address.
    pub destination: IpAddr,
    /// What it carries.
    pub transport: Transport,
    /// Where the transport header begins in the frame.
    pub offset: usize,
    /// Where the packet ends in the frame; what follows is padding.
    pub end: usize,
}

/// A packet's transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// The source port.
        source: u16,
        /// The destination port.
        destination: u16,
        /// SYN without ACK: it opens a connection.
        opens: bool,
        /// The header with its options, in bytes.
        header: usize,
    },
    /// UDP.
    Udp {
        /// The source port.
        source: u16,
        /// The destination port.
        destination: u16,
    },
    /// ICMP, or ICMPv6 over IPv6.
    Icmp {
        /// The message's type.
        kind: u8,
    },
}

impl Transport {
    /// The port that a packet goes to.
    pub fn port(&self) -> Option<u16> {
        match *self {
            Self::Tcp { destination, .. } | Self::Udp { destination, .. } => Some(destination),
            Self::Icmp { .. } => None,
        }
    }
}

/// Reads a frame of `length` bytes of which `head` are the first, at least [`HEAD`] or all.
pub fn parse(head: &[u8], length: usize) -> Result<(Link, Content), Refusal> {
    if length > MAX_FRAME {
        return Err(Refusal::Malformed);
    }
    let link = Link { destination: Mac(array(head, 0)?), source: Mac(array(head, 6)?) };
    let content = match u16_at(head, 12)? {
        TYPE_IPV4 => ipv4(head, length)?,
        TYPE_IPV6 => ipv6(head, length)?,
        TYPE_ARP => Content::Arp(arp(head)?),
        _ => return Err(Refusal::EtherType),
    };
    Ok((link, content))
}

/// Where an IP packet goes, whatever else is in it.
pub(super) fn destination(head: &[u8]) -> Option<IpAddr> {
    match u16_at(head, 12).ok()? {
        TYPE_IPV4 => Some(Ipv4Addr::from(array::<4>(head, ETHERNET + 16).ok()?).into()),
        TYPE_IPV6 => Some(Ipv6Addr::from(array::<16>(head, ETHERNET + 24).ok()?).into()),
        _ => None,
    }
}

/// RFC 826: hardware type 1, protocol IPv4, addresses of 6 and 4 bytes.
fn arp(head: &[u8]) -> Result<Arp, Refusal> {
    if array(head, ETHERNET)? != [0, 1, 8, 0, 6, 4] {
        return Err(Refusal::Malformed);
    }
    let request = match u16_at(head, ETHERNET + 6)? {
        1 => true,
        2 => false,
        _ => return Err(Refusal::Malformed),
    };
    Ok(Arp {
        request,
        sender_mac: Mac(array(head, ETHERNET + 8)?),
        sender: Ipv4Addr::from(array::<4>(head, ETHERNET + 14)?),
        target: Ipv4Addr::from(array::<4>(head, ETHERNET + 24)?),
    })
}

fn ipv4(head: &[u8], length: usize) -> Result<Content, Refusal> {
    let [version, _, long, short, _, _, flags, fragment] = array(head, ETHERNET)?;
    let protocol = byte(head, ETHERNET + 9)?;
    match version {
        0x45 => {}
        // A group report carries the router alert option (RFC 3376, 4).
        0x46 if protocol == PROTOCOL_IGMP => return Ok(Content::Chatter),
        0x46..=0x4f => return Err(Refusal::Options),
        _ => return Err(Refusal::Malformed),
    }
    // More fragments, an offset, or the reserved bit. The don't-fragment bit is as it may be.
    if u16::from_be_bytes([flags, fragment]) & 0xbfff != 0 {
        return Err(Refusal::Fragment);
    }
    let end = ETHERNET + usize::from(u16::from_be_bytes([long, short]));
    if end < ETHERNET + IPV4 || end > length {
        return Err(Refusal::Malformed);
    }
    let source = Ipv4Addr::from(array::<4>(head, ETHERNET + 12)?);
    let destination = Ipv4Addr::from(array::<4>(head, ETHERNET + 16)?);
    if protocol == PROTOCOL_IGMP {
        return Ok(Content::Chatter);
    }
    let transport = transport(head, protocol, PROTOCOL_ICMP, ETHERNET + IPV4, end)?;
    Ok(Content::Packet(Packet {
        source: source.into(),
        destination: destination.into(),
        transport,
        offset: ETHERNET + IPV4,
        end,
    }))
}

fn ipv6(head: &[u8], length: usize) -> Result<Content, Refusal> {
    let [version, _, _, _, long, short, next, _] = array(head, ETHERNET)?;
    if version >> 4 != 6 {
        return Err(Refusal::Malformed);
    }
    let source = Ipv6Addr::from(array::<16>(head, ETHERNET + 8)?);
    let destination = Ipv6Addr::from(array::<16>(head, ETHERNET + 24)?);
    let offset = ETHERNET + IPV6;
    let end = offset + usize::from(u16::from_be_bytes([long, short]));
    if end > length {
        return Err(Refusal::Malformed);
    }
    // A multicast listener's report, behind a router alert (RFC 3810, 5).
    if next == HOP_BY_HOP && array(head, offset)? == [PROTOCOL_ICMPV6, 0] && destination.is_multicast() {
        return Ok(Content::Chatter);
    }
    let transport = transport(head, next, PROTOCOL_ICMPV6, offset, end)?;
    match transport {
        // Neighbour solicitation; from nowhere it only asks whether the sender's own address is free.
        Transport::Icmp { kind: 135 } if source.is_unspecified() => return Ok(Content::Chatter),
        Transport::Icmp { kind: 135 } => {
            let target = Ipv6Addr::from(array::<16>(head, offset + 8)?);
            return Ok(Content::Solicitation { source, target });
        }
        // Router solicitation, advertisement of itself, listener reports.
        Transport::Icmp { kind: 133 | 136 | 131 | 132 | 143 } => return Ok(Content::Chatter),
        _ => {}
    }
    Ok(Content::Packet(Packet {
        source: source.into(),
        destination: destination.into(),
        transport,
        offset,
        end,
    }))
}

fn transport(head: &[u8], protocol: u8, icmp: u8, offset: usize, end: usize) -> Result<Transport, Refusal> {
    let room = |bytes: usize| if offset + bytes <= end { Ok(()) } else { Err(Refusal::Malformed) };
    match protocol {
        PROTOCOL_TCP => {
            room(TCP)?;
            let header = usize::from(byte(head, offset + 12)? >> 4) * 4;
            if header < TCP {
                return Err(Refusal::Malformed);
            }
            room(header)?;
            // SYN is bit 1, ACK bit 4.
            let opens = byte(head, offset + 13)? & 0x12 == 0x02;
            let (source, destination) = (u16_at(head, offset)?, u16_at(head, offset + 2)?);
            Ok(Transport::Tcp { source, destination, opens, header })
        }
        PROTOCOL_UDP => {
            room(UDP)?;
            let stated = usize::from(u16_at(head, offset + 4)?);
            if stated < UDP || offset + stated > end {
                return Err(Refusal::Malformed);
            }
            Ok(Transport::Udp { source: u16_at(head, offset)?, destination: u16_at(head, offset + 2)? })
        }
        _ if protocol == icmp => {
            room(ICMP)?;
            Ok(Transport::Icmp { kind: byte(head, offset)? })
        }
        _ => Err(Refusal::Protocol(protocol)),
    }
}

fn array<const N: usize>(head: &[u8], at: usize) -> Result<[u8; N], Refusal> {
    head.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(Refusal::Malformed)
}

fn byte(head: &[u8], at: usize) -> Result<u8, Refusal> {
    array(head, at).map(|[byte]| byte)
}

fn u16_at(head: &[u8], at: usize) -> Result<u16, Refusal> {
    array(head, at).map(u16::from_be_bytes)
}
