//! Names that only a local network, or this machine, knows: a guest that may not go there learns nothing of it by
//! asking either. This machine's resolver would ask its neighbours (mDNS, LLMNR) or read its own list of hosts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vmm::net::filter::{Cidr, ranges};

/// What is never looked up on the Internet (RFC 6761, 6762, 8375).
const LOCAL: &[&str] = &["local", "localhost", "localdomain", "home.arpa", "internal"];

/// Whether a name, in lower case and without its last dot, is one of a local network: of a single label, below a name
/// that is kept for them, or the reverse of an address that is not on the Internet.
pub(super) fn is_local(name: &str) -> bool {
    let below =
        |parent: &str| name.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    !name.contains('.') && !name.is_empty()
        || LOCAL.iter().any(|parent| below(parent))
        || reverse(name).is_some_and(|range| {
            let known = ranges();
            let [never, private, special] = [known.never, known.private, known.special];
            never.iter().chain(&private).chain(&special).any(|other| other.overlaps(&range))
        })
}

/// The addresses that a name stands for in `in-addr.arpa` or `ip6.arpa`: all below it.
fn reverse(name: &str) -> Option<Cidr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let (mut bits, mut length) = (0u32, 0u8);
        // Also names below an address's own, and some that are none (RFC 2317): by their last labels.
        for label in rest.rsplit('.').take(4) {
            let Ok(byte) = label.parse::<u8>() else { break };
            bits |= u32::from(byte) << (24 - length);
            length += 8;
        }
        return Some(Cidr::new(IpAddr::V4(Ipv4Addr::from_bits(bits)), length)).filter(|_| length > 0);
    }
    let rest = name.strip_suffix(".ip6.arpa")?;
    let (mut bits, mut length) = (0u128, 0u8);
    for label in rest.rsplit('.').take(32) {
        let Some(nibble) =
            Some(label).filter(|label| label.len() == 1).and_then(|l| u8::from_str_radix(l, 16).ok())
        else {
            break;
        };
        bits |= u128::from(nibble) << (124 - u32::from(length));
        length += 4;
    }
    Some(Cidr::new(IpAddr::V6(Ipv6Addr::from_bits(bits)), length)).filter(|_| length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_local_network_are_known_and_those_of_the_internet_are_others() {
        for name in [
            "router",
            "_gateway",
            "localhost",
            "printer.local",
            "local",
            "a.localhost",
            "nas.home.arpa",
            "db.internal",
            "1.77.168.192.in-addr.arpa",
            "168.192.in-addr.arpa",
            "10.in-addr.arpa",
            "x.1.0.0.127.in-addr.arpa",
            "254.169.254.169.in-addr.arpa",
            "1.0.64.100.in-addr.arpa",
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.e.f.ip6.arpa",
            "d.f.ip6.arpa",
        ] {
            assert!(is_local(name), "{name}");
        }
        for name in [
            "example.org",
            "local.example.org",
            "thelocal.se",
            "homelocal.org",
            "",
            "5.113.0.203.in-addr.arpa",
            "8.b.d.0.1.0.0.2.ip6.arpa",
            "in-addr.arpa",
            "arpa.net",
            "ip6.arpa.example.org",
        ] {
            assert!(!is_local(name), "{name}");
        }
    }
}
