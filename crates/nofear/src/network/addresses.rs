//! The guest's addresses: out of a range that this machine knows nothing of, another one for each VM.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Context;
use rustix::rand::{GetRandomFlags, getrandom};
use vmm::net::filter::{Cidr, Ends, Mac};

use super::host::Host;
use super::tap::protocol::Ready;

#[cfg(test)]
mod tests;

/// A VM's network has four IPv4 addresses: itself, the gateway, the guest, everybody.
pub const PREFIX_V4: u8 = 30;

/// And as many IPv6 addresses as any network.
pub const PREFIX_V6: u8 = 64;

/// Where VMs live, the first that this machine does not know: 16,384 networks each.
const POOLS: [[u8; 2]; 8] =
    [[10, 111], [10, 222], [10, 61], [172, 27], [10, 187], [172, 22], [10, 5], [192, 168]];

/// And by IPv6: "nofear" in a unique local prefix (RFC 4193).
const POOL_V6: [u16; 3] = [0xfd6e, 0x6f66, 0x6561];

/// Who a guest is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Its Ethernet address.
    pub mac: Mac,
    /// The gateway's.
    pub gateway_mac: Mac,
    /// Its IPv4 addresses, if this machine has a route for IPv4.
    pub v4: Option<Ends<Ipv4Addr>>,
    /// Its IPv6 addresses, if this machine has a route for IPv6.
    pub v6: Option<Ends<Ipv6Addr>>,
    /// Where all VMs of this machine live.
    pub pools: Vec<Cidr>,
}

impl Addresses {
    /// Chooses at random: two VMs that start at once need not know of each other.
    pub fn choose(host: &Host) -> anyhow::Result<Self> {
        let mut random = [0; 6];
        getrandom(&mut random, GetRandomFlags::empty()).context("get random bytes")?;
        Ok(Self::of(host, random))
    }

    /// Those that a helper has chosen. Whatever else it says, they are a VM's.
    pub fn given(ready: &Ready) -> anyhow::Result<Self> {
        let v4 = ready.v4.map(|[guest, gateway]| Ends { guest, gateway });
        let v6 = ready.v6.map(|[guest, gateway]| Ends { guest, gateway });
        let pools = ready.pools.iter().map(|range| range.parse()).collect::<Result<_, _>>()?;
        Ok(Self { mac: ready.mac.parse()?, gateway_mac: ready.gateway_mac.parse()?, v4, v6, pools })
    }

    fn of(host: &Host, [a, b, c, d, e, f]: [u8; 6]) -> Self {
        let pool = |[first, second]: [u8; 2]| Cidr::new(Ipv4Addr::new(first, second, 0, 0).into(), 16);
        let first_pool = POOLS.into_iter().find(|&bytes| !host.knows(&pool(bytes))).unwrap_or(POOLS[0]);
        let network = u32::from_be_bytes([first_pool[0], first_pool[1], a, b & 0xfc]);
        let [x, y, z] = POOL_V6;
        let network_v6 = Ipv6Addr::new(x, y, z, u16::from_be_bytes([c, d]), 0, 0, 0, 0).to_bits();
        let v4 = Ends { gateway: Ipv4Addr::from(network | 1), guest: Ipv4Addr::from(network | 2) };
        let v6 = Ends { gateway: Ipv6Addr::from(network_v6 | 1), guest: Ipv6Addr::from(network_v6 | 2) };
        Self {
            mac: Mac([0x02, b'n', b'f', 1, e, f]),
            gateway_mac: Mac([0x02, b'n', b'f', 0, e, f]),
            v4: host.has_route(false).then_some(v4),
            v6: host.has_route(true).then_some(v6),
            pools: vec![pool(first_pool), Cidr::new(Ipv6Addr::new(x, y, z, 0, 0, 0, 0, 0).into(), 48)],
        }
    }
}
