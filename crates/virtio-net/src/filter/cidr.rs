//! Address ranges, and rules of a range and a port.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A range of addresses: those that share the first bits of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

/// Text that is no address and no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no IP address, and no range such as 10.0.0.0/8 or fd00::/8")]
pub struct CidrError(String);

impl Cidr {
    /// The range of addresses that share the first `length` bits with `address`; at most its own are used.
    pub const fn new(address: IpAddr, length: u8) -> Self {
        let most = if address.is_ipv4() { 32 } else { 128 };
        Self { address, length: if length > most { most } else { length } }
    }

    /// One address.
    pub const fn host(address: IpAddr) -> Self {
        Self::new(address, 128)
    }

    pub(crate) const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Self {
        Self::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length)
    }

    pub(crate) const fn v6(first: u16, second: u16, third: u16, length: u8) -> Self {
        Self::new(IpAddr::V6(Ipv6Addr::new(first, second, third, 0, 0, 0, 0, 0)), length)
    }

    /// Whether the range holds this address. One of the other IP version it never does.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(range), IpAddr::V4(one)) => same(range.to_bits(), one.to_bits(), 32 - self.length),
            (IpAddr::V6(range), IpAddr::V6(one)) => same(range.to_bits(), one.to_bits(), 128 - self.length),
            _ => false,
        }
    }

    /// Whether the ranges share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.length <= other.length { self.contains(other.address) } else { other.contains(self.address) }
    }

    /// The address that the range was made of.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits its addresses share.
    pub fn length(&self) -> u8 {
        self.length
    }
}

/// Whether two addresses differ in the last `ignored` bits at most.
fn same<T>(one: T, other: T, ignored: u8) -> bool
where
    T: std::ops::BitXor<Output = T> + Into<u128>,
{
    (one ^ other).into().checked_shr(ignored.into()).unwrap_or(0) == 0
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let bad = || CidrError(text.into());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(length) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                length.parse().ok().filter(|&length| length <= most).ok_or_else(bad)?
            }
            Some(_) => return Err(bad()),
            None => most,
        };
        Ok(Self { address, length })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// A range of addresses, and a port of theirs or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The addresses.
    pub range: Cidr,
    /// The TCP or UDP port; none: everything at these addresses, pings too.
    pub port: Option<u16>,
}

impl Rule {
    /// Whether the rule speaks of this address and port.
    pub fn covers(&self, address: IpAddr, port: Option<u16>) -> bool {
        self.range.contains(address) && self.port.is_none_or(|wanted| port == Some(wanted))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.range.address) {
            (None, _) => self.range.fmt(f),
            (Some(port), IpAddr::V4(_)) => write!(f, "{}:{port}", self.range),
            (Some(port), IpAddr::V6(_)) => write!(f, "[{}]:{port}", self.range),
        }
    }
}
