//! This machine's addresses and routes, as its kernel lists them.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use vmm::net::filter::Cidr;

#[cfg(test)]
mod tests;

// linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const REQUEST_DUMP: u16 = 0x301;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTN_ANYCAST: u8 = 4;
const RT_TABLE_MAIN: u8 = 254;
const AF_INET: u8 = 2;

/// Who has made a route (`rtm_protocol`): a number of our own for those to VMs, which are no reason to move away.
pub const ROUTE_PROTOCOL: u8 = 110;

/// The header of a message, and of what an address or a route begins with.
const HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;

/// This machine's addresses and routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Each address with the network that it is in.
    addresses: Vec<(IpAddr, u8)>,
    /// Destinations of unicast routes, in any table.
    routes: Vec<Cidr>,
    /// What else ends here: a cloud's load balancer has its addresses routed to machines that have them nowhere else.
    local: Vec<Cidr>,
    /// There is a default route for IPv4, and for IPv6.
    default_v4: bool,
    default_v6: bool,
}

impl Host {
    /// Asks the kernel.
    pub fn read() -> io::Result<Self> {
        Self::read_by(&socket()?)
    }

    /// Asks the kernel by a socket that was made before.
    pub fn read_by(socket: &OwnedFd) -> io::Result<Self> {
        let mut host = Self::default();
        dump(socket, RTM_GETADDR, |kind, body| {
            if kind == RTM_NEWADDR {
                host.add_address(body);
            }
        })?;
        dump(socket, RTM_GETROUTE, |kind, body| {
            if kind == RTM_NEWROUTE {
                host.add_route(body);
            }
        })?;
        Ok(host)
    }

    /// What this machine takes for itself: its addresses, and ranges that are routed to it; each once.
    pub fn own(&self) -> Vec<Cidr> {
        let addresses = self.addresses.iter().map(|(address, _)| Cidr::host(*address));
        once(addresses.chain(self.local.iter().copied()))
    }

    /// The networks that this machine is on, each once.
    pub fn networks(&self) -> Vec<Cidr> {
        once(self.addresses.iter().map(|&(address, length)| Cidr::new(address, length)))
    }

    /// Whether packets for this range already go somewhere, or come here.
    pub fn knows(&self, range: &Cidr) -> bool {
        self.networks().iter().chain(&self.routes).any(|known| known.overlaps(range))
    }

    /// Whether there is a way to everywhere, by IPv6 or by IPv4.
    pub fn has_route(&self, v6: bool) -> bool {
        if v6 { self.default_v6 } else { self.default_v4 }
    }

    /// `ifaddrmsg`: family, prefix length, flags, scope, index.
    fn add_address(&mut self, body: &[u8]) {
        let (Some(&[family, length, ..]), Some(attributes)) =
            (body.first_chunk::<8>(), body.get(ADDRESS_HEADER..))
        else {
            return;
        };
        // On a link with one peer, "local" is this end and "address" the other.
        let local = attribute(attributes, LOCAL).or_else(|| attribute(attributes, ADDRESS));
        if let Some(address) = local.and_then(|bytes| to_address(family, bytes)) {
            self.addresses.push((address, length));
        }
    }

    /// `rtmsg`: family, destination's and source's length, TOS, table, protocol, scope, type, flags.
    fn add_route(&mut self, body: &[u8]) {
        let (Some(&[family, length, _, _, table, protocol, _, kind]), Some(attributes)) =
            (body.first_chunk(), body.get(ROUTE_HEADER..))
        else {
            return;
        };
        let to = || attribute(attributes, RTA_DST).and_then(|bytes| to_address(family, bytes));
        if matches!(kind, RTN_LOCAL | RTN_ANYCAST) {
            self.local.extend(to().map(|to| Cidr::new(to, length)));
        }
        if kind != RTN_UNICAST || protocol == ROUTE_PROTOCOL {
            return;
        }
        if length == 0 {
            let default = if family == AF_INET { &mut self.default_v4 } else { &mut self.default_v6 };
            *default |= table == RT_TABLE_MAIN;
        } else if let Some(to) = to() {
            self.routes.push(Cidr::new(to, length));
        }
    }
}

fn once(ranges: impl Iterator<Item = Cidr>) -> Vec<Cidr> {
    let mut seen = HashSet::new();
    ranges.filter(|range| seen.insert(*range)).collect()
}

/// A socket to ask the kernel by.
pub fn socket() -> io::Result<OwnedFd> {
    // Protocol 0 of this family is NETLINK_ROUTE.
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?)
}

/// Asks for everything of a kind.
fn dump(socket: &OwnedFd, kind: u16, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let mut request = Vec::with_capacity(HEADER + ROUTE_HEADER);
    request.extend(((HEADER + ROUTE_HEADER) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8 + ROUTE_HEADER]);
    send(socket, &request, SendFlags::empty())?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (length, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
        for (kind, body) in messages(&buffer[..length]) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let error = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                    return Err(io::Error::from_raw_os_error(error.saturating_neg()));
                }
                kind => each(kind, body),
            }
        }
    }
}

/// The messages of a datagram: type and body.
fn messages(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The value of an attribute.
fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = bytes;
    loop {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn to_address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    if family == AF_INET {
        Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into())
    } else {
        Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
    }
}
