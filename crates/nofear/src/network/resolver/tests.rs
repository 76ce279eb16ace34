use std::thread;

use super::*;

#[test]
fn a_name_is_itself_and_a_star_is_all_below() {
    let name = |text| Name::new(text, None).unwrap();
    assert!(name("Example.org").is("example.org"));
    assert!(!name("example.org").is("www.example.org"));
    assert!(name("*.example.org").is("www.example.org") && name("*.example.org").is("a.b.example.org"));
    for other in ["example.org", ".example.org", "badexample.org", "example.org.evil.net"] {
        assert!(!name("*.example.org").is(other), "{other}");
    }
}

#[test]
fn name_servers_are_read_from_the_hosts_list() {
    let text = "# a comment\nnameserver 127.0.0.53\nsearch lan\n nameserver\t2001:db8::1 \nnameserver fe80::1%eth0\nnameserver\n";
    let servers: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["127.0.0.53:53", "[2001:db8::1]:53"]);
}

/// A name server that answers every question with one address, for ten seconds.
fn name_server(address: [u8; 4]) -> SocketAddr {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, asker)) = socket.recv_from(&mut query) {
            // Behind the question comes our OPT record, of 11 bytes.
            let question = &query[12..length - 11];
            let mut answer = [&query[..2], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0], question].concat();
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 10, 0, 4]);
            answer.extend(address);
            let _ = socket.send_to(&answer, asker);
        }
    });
    at
}

/// A forwarder with these name servers; the device's end of its channel.
fn forwarder(servers: Vec<SocketAddr>, names: Names) -> Channel {
    let (ours, theirs) = Channel::pair().unwrap();
    let servers = Servers { list: servers, read: Some(Instant::now() + Duration::from_secs(3600)) };
    let (netlink, watch) = (host::socket().unwrap(), watch().unwrap());
    let waiting = Vec::new();
    let untold = None;
    let forwarder =
        Forwarder { channel: theirs, names, servers, waiting, netlink, watch, untold, told: None };
    thread::spawn(move || forwarder.serve().unwrap());
    ours
}

/// A question for `name`'s IPv4 addresses.
fn question_for(name: &str) -> Message {
    let mut payload = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        payload.push(label.len() as u8);
        payload.extend(label.as_bytes());
    }
    payload.extend([0, 0, 1, 0, 1]);
    Message::Datagram { query: Query { v6: false, port: 4000 }, payload }
}

fn next(channel: &mut Channel) -> Message {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match channel.receive() {
            Ok(message) => return message,
            Err(_) => assert!(Instant::now() < end, "no answer"),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The response code and the number of answers, in a message to the asker.
fn outcome(message: Message) -> (u8, u8) {
    let Message::Datagram { query: Query { v6: false, port: 4000 }, payload } = message else {
        panic!("{message:?}")
    };
    assert_eq!(payload[..2], [0xab, 0xcd]);
    (payload[3] & 15, payload[7])
}

/// A question that is refused: it is said why, and then the asker is told.
fn is_refused(channel: &mut Channel, name: &str, why: &str) {
    channel.send(&question_for(name)).unwrap();
    assert_eq!(next(channel), Message::Refused { text: format!("refused to look {name} up: {why}") });
    assert_eq!(outcome(next(channel)), (5, 0));
}

#[test]
fn a_question_is_answered_and_an_allowed_names_address_is_opened_first() {
    let allow = vec![Name::new("good.org", Some(443)).unwrap()];
    let names = Names { allow, deny: vec![Name::new("*.bad.org", None).unwrap()], ..Names::default() };
    let mut channel = forwarder(vec![name_server([203, 0, 113, 5])], names);
    channel.send(&question_for("other.org")).unwrap();
    assert_eq!(outcome(next(&mut channel)), (0, 1));
    channel.send(&question_for("Good.org")).unwrap();
    let open = Message::Open { address: [203, 0, 113, 5].into(), port: Some(443), time: OPEN_AT_LEAST };
    assert_eq!(next(&mut channel), open);
    assert_eq!(outcome(next(&mut channel)), (0, 1));
    is_refused(&mut channel, "www.bad.org", "closed by --deny");
}

#[test]
fn offline_no_other_name_leaves_this_machine() {
    let allow = vec![Name::new("good.org", None).unwrap()];
    let names = Names { allow, offline: true, ..Names::default() };
    let mut channel = forwarder(vec![name_server([203, 0, 113, 5])], names);
    is_refused(&mut channel, "secret.evil.org", "not allowed, and --offline is set");
    channel.send(&question_for("good.org")).unwrap();
    assert!(matches!(next(&mut channel), Message::Open { .. }));
}

#[test]
fn a_name_server_that_is_not_there_is_passed_over() {
    // Nobody has this port: it was free a moment ago.
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut channel = forwarder(vec![nobody, name_server([203, 0, 113, 5])], Names::default());
    channel.send(&question_for("good.org")).unwrap();
    assert_eq!(outcome(next(&mut channel)), (0, 1));
    let mut channel = forwarder(vec![nobody], Names::default());
    channel.send(&question_for("good.org")).unwrap();
    assert_eq!(outcome(next(&mut channel)), (2, 0));
}

#[test]
fn more_questions_than_wait_at_once_are_refused_and_not_kept() {
    // It takes questions and never answers.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut channel = forwarder(vec![silent.local_addr().unwrap()], Names::default());
    for _ in 0..=MAX_WAITING {
        channel.send(&question_for("good.org")).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(outcome(next(&mut channel)), (2, 0));
}

#[test]
fn names_of_the_local_network_are_asked_for_with_lan_or_when_they_are_allowed() {
    let server = || vec![name_server([192, 168, 77, 1])];
    let allow = vec![Name::new("nas.local", None).unwrap()];
    let mut channel = forwarder(server(), Names { allow, ..Names::default() });
    is_refused(&mut channel, "printer.local", "a local name (--lan opens it)");
    channel.send(&question_for("nas.local")).unwrap();
    assert!(matches!(next(&mut channel), Message::Open { .. }));
    let mut channel = forwarder(server(), Names { lan: true, ..Names::default() });
    channel.send(&question_for("printer.local")).unwrap();
    assert_eq!(outcome(next(&mut channel)), (0, 1));
}

#[test]
fn the_filter_is_told_of_addresses_however_many_questions_wait_before_that() {
    let (mut ours, theirs) = Channel::pair().unwrap();
    // The way to the device is full.
    let question = question_for("good.org");
    while theirs.send(&question).is_ok() {}
    let (netlink, watch) = (host::socket().unwrap(), watch().unwrap());
    let (servers, waiting, names) = (Servers::default(), Vec::new(), Names::default());
    let untold = Some(Instant::now());
    let forwarder =
        Forwarder { channel: theirs, names, servers, waiting, netlink, watch, untold, told: None };
    thread::spawn(move || forwarder.serve().unwrap());
    thread::sleep(Duration::from_millis(20));
    let told = std::iter::repeat_with(|| next(&mut ours)).find(|message| *message != question).unwrap();
    let Message::Host { addresses, on_link } = told else { panic!("{told:?}") };
    let own = IpAddr::V4(Ipv4Addr::LOCALHOST);
    assert!(addresses.contains(&Cidr::host(own)) && on_link.iter().any(|net| net.contains(own)));
}
