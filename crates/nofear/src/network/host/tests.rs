use super::*;

fn attributes(list: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in list {
        bytes.extend((4 + value.len() as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(*value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

#[test]
fn this_machine_has_a_loopback_address() {
    let host = Host::read().unwrap();
    assert!(host.own().contains(&"127.0.0.1".parse().unwrap()), "{host:?}");
    assert!(host.knows(&"127.0.0.0/8".parse().unwrap()));
}

#[test]
fn an_address_with_a_peer_is_this_end() {
    let mut host = Host::default();
    let body =
        [&[2, 32, 0, 0, 1, 0, 0, 0][..], &attributes(&[(1, &[10, 0, 0, 9]), (2, &[10, 0, 0, 1])])].concat();
    host.add_address(&body);
    assert_eq!(host.own(), ["10.0.0.1".parse().unwrap()]);
}

#[test]
fn routes_are_known_and_a_default_route_is_none_that_collides() {
    let mut host = Host::default();
    host.add_route(&[2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0]);
    assert!(host.has_route(false) && !host.has_route(true));
    assert!(!host.knows(&"10.0.0.0/8".parse().unwrap()));
    let body = [&[2, 12, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0][..], &attributes(&[(1, &[172, 16, 0, 0])])].concat();
    host.add_route(&body);
    assert!(host.knows(&"172.27.0.0/16".parse().unwrap()));
    // A route that drops, and one of another table.
    host.add_route(&[10, 0, 0, 0, 254, 3, 0, 7, 0, 0, 0, 0]);
    host.add_route(&[10, 0, 0, 0, 255, 3, 0, 1, 0, 0, 0, 0]);
    assert!(!host.has_route(true));
}

#[test]
fn what_is_routed_to_this_machine_is_its_own_once() {
    let mut host = Host::default();
    host.add_address(&[&[2, 24, 0, 0, 1, 0, 0, 0][..], &attributes(&[(2, &[192, 0, 2, 1])])].concat());
    for (length, kind, to) in [(32, 2, [192, 0, 2, 1]), (24, 2, [203, 0, 113, 0]), (32, 3, [192, 0, 2, 255])]
    {
        let route = [2, length, 0, 0, 255, 2, 254, kind, 0, 0, 0, 0];
        host.add_route(&[&route[..], &attributes(&[(1, &to)])].concat());
    }
    assert_eq!(host.own(), ["192.0.2.1", "203.0.113.0/24"].map(|text| text.parse().unwrap()));
}

#[test]
fn messages_that_are_cut_end_the_list() {
    assert_eq!(messages(&[0; 40]).count(), 0);
    assert_eq!(messages(&[20, 0, 0, 0, 3, 0]).count(), 0);
    assert_eq!(attribute(&[0, 0, 0, 0], 1), None);
    assert_eq!(attribute(&[200, 0, 1, 0, 1], 1), None);
}
