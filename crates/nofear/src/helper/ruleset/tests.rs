use std::net::Ipv4Addr;

use serde_json::json;
use vmm::net::filter::Ends;

use super::*;

fn vm() -> Vm {
    Vm {
        interface: "nofear3".into(),
        addresses: Addresses {
            mac: "02:6e:66:01:00:00".parse().unwrap(),
            gateway_mac: "02:6e:66:00:00:00".parse().unwrap(),
            v4: Some(Ends { guest: Ipv4Addr::new(10, 111, 4, 2), gateway: Ipv4Addr::new(10, 111, 4, 1) }),
            v6: None,
            pools: vec!["10.111.0.0/16".parse().unwrap()],
        },
        on_link: vec!["198.51.100.0/24".parse().unwrap()],
        lan: false,
        offline: false,
        allow: vec![Rule { range: "192.168.77.1/32".parse().unwrap(), port: Some(80) }],
        deny: vec![Rule { range: "203.0.113.0/24".parse().unwrap(), port: None }],
    }
}

/// Where each of `rules` stands among the lines of a chain, which must all be there.
fn order(text: &str, chain: &str, rules: &[&str]) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let at = |rule: &&str| {
        let line = format!("add rule inet nofear {chain} {rule}");
        lines.iter().position(|one| *one == line).unwrap_or_else(|| panic!("{line} is not in {text}"))
    };
    rules.iter().map(at).collect()
}

#[test]
fn rules_stand_in_the_filters_order_in_both_chains() {
    let text = chains(&vm());
    for chain in ["nofear3_through", "nofear3_input"] {
        let at = order(
            &text,
            chain,
            &[
                "ip saddr != 10.111.4.2 counter drop",
                "meta nfproto ipv6 counter drop",
                "ip daddr 127.0.0.0/8 counter drop",
                "ip daddr 10.111.0.0/16 counter drop",
                "ip daddr 203.0.113.0/24 counter drop",
                "ip daddr 192.168.77.1/32 tcp dport 80 accept",
            ],
        );
        assert!(at.is_sorted(), "{text}");
    }
    let local = [
        "ip daddr 192.168.77.1/32 tcp dport 80 accept",
        "ip daddr 169.254.0.0/16 counter drop",
        "ip daddr 192.168.0.0/16 counter drop",
        "ip daddr 198.51.100.0/24 counter drop",
        "accept",
    ];
    assert!(order(&text, "nofear3_through", &local).is_sorted());
    // This machine itself is reached by what is allowed, and by nothing else.
    assert!(!text.contains("nofear3_input accept"));
}

#[test]
fn lan_and_offline_are_heeded() {
    let open = chains(&Vm { lan: true, ..vm() });
    assert!(!open.contains("192.168.0.0/16") && open.contains("169.254.0.0/16"));
    let closed = chains(&Vm { offline: true, ..vm() });
    assert!(!closed.contains("nofear3_through accept") && closed.contains("tcp dport 80 accept"));
}

#[test]
fn the_state_is_read_as_nft_lists_it() {
    let listed = json!([
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "inet", "name": "nofear", "handle": 1}},
        {"set": {"family": "inet", "name": "on4", "table": "nofear", "type": "ifname", "handle": 2, "elem": ["wan", "home"]}},
        {"set": {"family": "inet", "name": "on6", "table": "nofear", "type": "ifname", "handle": 3}},
        {"chain": {"family": "inet", "table": "nofear", "name": "forward", "handle": 4}},
        {"chain": {"family": "inet", "table": "nofear", "name": "nofear3_through", "handle": 5}},
        {"chain": {"family": "inet", "table": "nofear", "name": "nofear3_input", "handle": 6}},
    ]);
    let state = State::of(listed.as_array().unwrap());
    assert_eq!((state.exists, state.vms.as_slice()), (true, &["nofear3".to_owned()][..]));
    assert_eq!((state.set(ON_V4), state.set(ON_V6).len()), (&["wan".to_owned(), "home".to_owned()][..], 0));
}
