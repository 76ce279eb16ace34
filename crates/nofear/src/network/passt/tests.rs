use std::net::{Ipv4Addr, Ipv6Addr};

use vmm::net::filter::{Ends, Mac};

use super::*;

fn addresses() -> Addresses {
    Addresses {
        mac: Mac([2, 0, 0, 0, 0, 2]),
        gateway_mac: Mac([2, 0, 0, 0, 0, 1]),
        v4: Some(Ends { guest: Ipv4Addr::new(10, 1, 2, 2), gateway: Ipv4Addr::new(10, 1, 2, 1) }),
        v6: None,
        pools: Vec::new(),
    }
}

#[test]
fn passt_is_told_everything_that_it_would_find_out() {
    let addresses = addresses();
    let text = arguments(&addresses, 1500).join(" ");
    for part in [
        "--no-map-gw",
        "--mac-addr 02:00:00:00:00:01",
        "--address 10.1.2.2 --netmask 30 --gateway 10.1.2.1",
        "--tcp-ports none --udp-ports none",
        "--ipv4-only",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let v6 = Ends { guest: Ipv6Addr::LOCALHOST, gateway: Ipv6Addr::LOCALHOST };
    let text = arguments(&Addresses { v6: Some(v6), ..addresses }, 1500).join(" ");
    assert!(!text.contains("-only"), "{text}");
}
