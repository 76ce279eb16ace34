use std::net::TcpListener;

use super::*;

fn publish(address: Option<IpAddr>, port: u16, udp: bool) -> Publish {
    Publish { address, port, guest_port: 80, udp }
}

/// A port that nobody has at this moment, on both loopback addresses.
fn free() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

#[test]
fn a_port_is_taken_on_loopback_once_and_the_second_hears_why_not() {
    for udp in [false, true] {
        let port = free();
        let first = take(&[publish(None, port, udp)]).unwrap();
        let error = format!("{:#}", take(&[publish(None, port, udp)]).err().unwrap());
        assert!(error.contains(&format!("port {port} of 127.0.0.1: another program has it")), "{error}");
        assert!(!error.contains('\n'));
        let everywhere = Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        assert!(take(&[publish(everywhere, port, udp)]).is_err());
        drop(first);
        take(&[publish(None, port, udp)]).unwrap();
    }
}

#[test]
fn an_address_of_another_machine_is_refused_by_name() {
    let error = take(&[publish(Some("203.0.113.77".parse().unwrap()), free(), false)]).err().unwrap();
    assert!(
        error.to_string().ends_with("of 203.0.113.77: this machine does not have that address"),
        "{error}"
    );
}

#[test]
fn clients_are_led_to_the_guest_s_address_of_their_version_of_ip() {
    let ends =
        |guest: &str| Ends { guest: guest.parse().unwrap(), gateway: guest.parse().unwrap(), prefix: 30 };
    let both = [ends("10.0.0.2"), ends("fd00::2")];
    for (ends, v6, wanted) in [
        (&both[..], false, "10.0.0.2"),
        (&both, true, "fd00::2"),
        (&both[..1], true, "10.0.0.2"),
        (&both[1..], false, "fd00::2"),
        (&[], false, "127.0.0.1"),
    ] {
        assert_eq!(guest_address(ends, v6).to_string(), wanted);
    }
}
