use super::*;

#[test]
fn messages_arrive_as_they_were_sent() {
    let (one, mut other) = Channel::pair().unwrap();
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    for message in [
        Message::Datagram { query: Query { v6: true, port: 4000 }, payload: b"question".to_vec() },
        Message::Datagram { query: Query { v6: false, port: 1 }, payload: Vec::new() },
        Message::Open { address: address("9.9.9.9"), port: Some(443), time: Duration::from_secs(60) },
        Message::Open { address: address("2001:db8::1"), port: None, time: Duration::from_secs(1) },
        Message::Host {
            addresses: vec![Cidr::host(address("10.0.0.1")), "2001:db8::/64".parse().unwrap()],
            on_link: vec!["10.0.0.0/8".parse().unwrap()],
        },
        Message::Host { addresses: vec![Cidr::host(address("::1")); MAX_HOST], on_link: Vec::new() },
        Message::Refused { text: "refused to look x up: closed by --deny".into() },
    ] {
        one.send(&message).unwrap();
        assert_eq!(other.receive().unwrap(), message);
    }
    one.send(&Message::Refused { text: "x".repeat(MAX_TEXT + 1) }).unwrap();
    assert_eq!(other.receive().unwrap(), Message::Refused { text: "x".repeat(MAX_TEXT) });
    assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(one);
    assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_message_that_is_too_long_is_refused_and_one_that_is_wrong_is_said_to_be() {
    let (one, mut other) = Channel::pair().unwrap();
    let long = Message::Datagram { query: Query { v6: false, port: 1 }, payload: vec![0; MAX_PAYLOAD + 1] };
    let net = "10.0.0.0/8".parse().unwrap();
    let many = Message::Host { addresses: vec![net; MAX_HOST], on_link: vec![net] };
    for message in [long, many] {
        assert_eq!(one.send(&message).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    for wrong in [
        &[0u8][..],
        &[9, 9, 9],
        &[DATAGRAM, 1],
        &[OPEN, 0, 0, 0, 0, 0, 0, 0, 5],
        &[HOST, 0],
        &[HOST, 0, 3],
        &[HOST, 0, 0, 4],
    ] {
        send(&one.socket, wrong, SendFlags::empty()).unwrap();
        assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::InvalidData, "{wrong:?}");
    }
}
