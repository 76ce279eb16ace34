use super::*;

#[test]
fn a_guest_has_its_own_small_network_in_a_range_that_this_machine_does_not_know() {
    let host = Host::read().unwrap();
    let addresses = Addresses::of(&host, [9, 0xff, 1, 2, 3, 4]);
    assert_eq!(addresses.mac.0[0] & 3, 2, "local, and of one machine");
    assert_ne!(addresses.mac, addresses.gateway_mac);
    for range in &addresses.pools {
        assert!(!host.knows(range), "{range}");
    }
    for (ends, prefix) in addresses.v4.iter().map(|ends| (ends, PREFIX_V4)) {
        let network = Cidr::new(ends.gateway.into(), prefix);
        assert!(network.contains(ends.guest.into()) && addresses.pools[0].overlaps(&network));
        assert_eq!(ends.guest.octets()[3] & 3, 2);
    }
}
