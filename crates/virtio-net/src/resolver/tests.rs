use super::*;

#[test]
fn messages_arrive_as_they_were_sent() {
    let (one, other) = Channel::pair().unwrap();
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    for message in [
        Message::Datagram { query: Query { v6: true, port: 4000 }, payload: b"question".to_vec() },
        Message::Datagram { query: Query { v6: false, port: 1 }, payload: Vec::new() },
        Message::Open { address: address("9.9.9.9"), port: Some(443), time: Duration::from_secs(60) },
        Message::Open { address: address("2001:db8::1"), port: None, time: Duration::from_secs(1) },
        Message::Host {
            addresses: vec![address("10.0.0.1"), address("fe80::1")],
            on_link: vec!["10.0.0.0/8".parse().unwrap()],
        },
        Message::Host { addresses: vec![address("::1"); MAX_HOST], on_link: Vec::new() },
    ] {
        one.send(&message).unwrap();
        assert_eq!(other.receive().unwrap(), message);
    }
    assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(one);
    assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_message_that_is_too_long_is_refused_and_one_that_is_wrong_is_said_to_be() {
    let (one, other) = Channel::pair().unwrap();
    let long = Message::Datagram { query: Query { v6: false, port: 1 }, payload: vec![0; MAX_PAYLOAD + 9] };
    assert_eq!(one.send(&long).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    for wrong in
        [&[0u8][..], &[9, 9, 9], &[DATAGRAM, 1], &[OPEN, 0, 0, 0, 0, 0, 0, 0, 5], &[HOST, 3], &[HOST, 0, 4]]
    {
        send(&one.0, wrong, SendFlags::empty()).unwrap();
        assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::InvalidData, "{wrong:?}");
    }
}
