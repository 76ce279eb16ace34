//! What kind of destination an address is, by itself: the special-purpose registries of IANA (RFC 6890 and
//! its updates), read as an attacker would.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Cidr;

/// What kind of destination an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The Internet.
    Internet,
    /// Private networks, which `--lan` opens.
    Private,
    /// One link, where clouds keep their metadata services.
    LinkLocal,
    /// A carrier's side of its address translation, where overlay networks live, too.
    Carrier,
    /// The host itself, under any name of the loopback interface.
    Loopback,
    /// Groups.
    Multicast,
    /// IPv4 in disguise: a host or a relay would unpack it behind the filter's back.
    Tunnel,
    /// "This network", future use, broadcast, benchmarks, and what is not assigned.
    Reserved,
}

const V4: &[(Cidr, Class)] = &[
    (Cidr::v4(0, 0, 0, 0, 8), Class::Loopback), // Linux connects 0.0.0.0 to itself
    (Cidr::v4(127, 0, 0, 0, 8), Class::Loopback),
    (Cidr::v4(10, 0, 0, 0, 8), Class::Private),
    (Cidr::v4(172, 16, 0, 0, 12), Class::Private),
    (Cidr::v4(192, 168, 0, 0, 16), Class::Private),
    (Cidr::v4(169, 254, 0, 0, 16), Class::LinkLocal),
    (Cidr::v4(100, 64, 0, 0, 10), Class::Carrier),
    (Cidr::v4(192, 0, 0, 0, 24), Class::Reserved), // protocol assignments, DS-Lite
    (Cidr::v4(192, 88, 99, 0, 24), Class::Tunnel), // 6to4 relays
    (Cidr::v4(198, 18, 0, 0, 15), Class::Reserved), // benchmarks
    (Cidr::v4(224, 0, 0, 0, 4), Class::Multicast),
    (Cidr::v4(240, 0, 0, 0, 4), Class::Reserved), // and 255.255.255.255
];

const V6: &[(Cidr, Class)] = &[
    (Cidr::v6(0, 0, 0, 8), Class::Loopback), // ::, ::1, v4-mapped, v4-compatible, v4-translated
    (Cidr::v6(0x100, 0, 0, 8), Class::Reserved), // discard-only
    (Cidr::v6(0x2001, 0, 0, 23), Class::Tunnel), // Teredo, ORCHID, protocol assignments
    (Cidr::v6(0x2002, 0, 0, 16), Class::Tunnel), // 6to4
    (Cidr::v6(0x3ffe, 0, 0, 16), Class::Reserved), // the old 6bone
    (Cidr::v6(0x5f00, 0, 0, 16), Class::Reserved), // segment routing
    (Cidr::v6(0xfc00, 0, 0, 7), Class::Private),
    (Cidr::v6(0xfe80, 0, 0, 10), Class::LinkLocal),
    (Cidr::v6(0xfec0, 0, 0, 10), Class::Private), // site-local
    (Cidr::v6(0xff00, 0, 0, 8), Class::Multicast),
];

/// What hosts are reached at through a translator: the IPv4 address is the last 32 bits (RFC 6052).
const NAT64: Cidr = Cidr::v6(0x64, 0xff9b, 0, 96);

/// All that is assigned to the Internet (RFC 4291, 2.4).
const GLOBAL_V6: Cidr = Cidr::v6(0x2000, 0, 0, 3);

impl Class {
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => look_up(V4, address.into()).unwrap_or(Self::Internet),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        if let Some(translated) = translated(address.into()) {
            return Self::of(translated);
        }
        match look_up(V6, address.into()) {
            Some(Self::Loopback) if embeds_v4(address) => Self::Tunnel,
            Some(class) => class,
            None if GLOBAL_V6.contains(address.into()) => Self::Internet,
            None => Self::Reserved,
        }
    }
}

/// The IPv4 address that a translator reaches under this one.
pub(super) fn translated(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = address else { return None };
    let [.., a, b, c, d] = v6.octets();
    NAT64.contains(address).then(|| Ipv4Addr::new(a, b, c, d).into())
}

/// In `::/8`, everything but the unspecified and the loopback address.
fn embeds_v4(address: Ipv6Addr) -> bool {
    address.to_bits() > 1
}

/// The ranges of each kind, for whoever states the same policy in another firewall's words. What is not in here
/// and not assigned ([`Filter`](super::Filter) refuses that, too) is for its reader to close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// What no rule opens.
    pub never: Vec<Cidr>,
    /// What `lan` opens.
    pub private: Vec<Cidr>,
    /// What only a rule opens.
    pub special: Vec<Cidr>,
}

/// See [`Ranges`]. Without `::/8`, which holds the translators' range too.
pub fn ranges() -> Ranges {
    let of = |wanted: &[Class]| {
        let all = V4.iter().chain(V6).filter(|(range, class)| wanted.contains(class) && *range != V6[0].0);
        all.map(|(range, _)| *range).collect()
    };
    Ranges {
        never: of(&[Class::Loopback, Class::Multicast, Class::Tunnel, Class::Reserved]),
        private: of(&[Class::Private]),
        special: of(&[Class::LinkLocal, Class::Carrier]),
    }
}

fn look_up(table: &[(Cidr, Class)], address: IpAddr) -> Option<Class> {
    table.iter().find(|(range, _)| range.contains(address)).map(|&(_, class)| class)
}
