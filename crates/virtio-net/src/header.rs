//! The header before each frame (virtio 1.2, 5.1.6): which offloads it asks for.

use crate::filter::{Packet, Transport};

/// The header's size with VIRTIO_F_VERSION_1, in bytes.
pub const HEADER: usize = 12;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

/// Where TCP and UDP have their checksum.
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;

/// Work on frames that one side leaves to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// The checksum of TCP and UDP is only begun.
    pub checksum: bool,
    /// TCP over IPv4 in segments of up to 64 KiB.
    pub tso4: bool,
    /// TCP over IPv6 likewise.
    pub tso6: bool,
}

impl Offloads {
    /// None.
    pub const NONE: Self = Self { checksum: false, tso4: false, tso6: false };
    /// All.
    pub const ALL: Self = Self { checksum: true, tso4: true, tso6: true };
}

/// A header for the back end, made anew of the guest's: each field fits `packet`, which the filter has read.
/// None when the guest asks for what was not agreed on, or for work on anything but this packet's transport
/// header: the host's kernel would have to find that out itself.
pub(crate) fn checked(raw: &[u8; HEADER], packet: &Packet, agreed: Offloads) -> Option<[u8; HEADER]> {
    let word = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
    let (flags, gso, gso_size, start, offset) = (raw[0], raw[1], word(4), word(6), word(8));
    let mut header = [0; HEADER];
    if flags & NEEDS_CSUM == 0 {
        // Without a partial checksum there is no segmentation (virtio 1.2, 5.1.6.2).
        return (gso == GSO_NONE).then_some(header);
    }
    let at = match packet.transport {
        Transport::Tcp { .. } => TCP_CHECKSUM,
        Transport::Udp { .. } => UDP_CHECKSUM,
        Transport::Icmp { .. } => return None,
    };
    if !agreed.checksum || usize::from(start) != packet.offset || offset != at {
        return None;
    }
    header[0] = NEEDS_CSUM;
    header[6..8].copy_from_slice(&start.to_le_bytes());
    header[8..10].copy_from_slice(&offset.to_le_bytes());
    if gso == GSO_NONE {
        return Some(header);
    }
    let v4 = packet.source.is_ipv4();
    let fits = match gso {
        GSO_TCPV4 => agreed.tso4 && v4,
        GSO_TCPV6 => agreed.tso6 && !v4,
        // UFO and ECN are not offered.
        _ => false,
    };
    let Transport::Tcp { header: tcp, .. } = packet.transport else { return None };
    if !fits || gso_size == 0 {
        return None;
    }
    let headers = u16::try_from(packet.offset + tcp).ok()?;
    header[1] = gso;
    header[2..4].copy_from_slice(&headers.to_le_bytes());
    header[4..6].copy_from_slice(&gso_size.to_le_bytes());
    Some(header)
}

#[cfg(test)]
mod tests;
