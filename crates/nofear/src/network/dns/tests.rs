use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn asked(text: &str, kind: u16, size: Option<u16>) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(size.is_some())];
    message.extend(name(text));
    message.extend([kind.to_be_bytes(), [0, 1]].concat());
    if let Some(size) = size {
        message.extend([0, 0, 41]);
        message.extend(size.to_be_bytes());
        message.extend([0; 6]);
    }
    message
}

/// An answer to `query` with so many IPv4 addresses 9.9.0.0 and up, and one record of another section.
fn answer(query: &[u8], count: u16) -> Vec<u8> {
    let end = read_question(query).unwrap().end;
    let mut message = [&query[..2], &[0x81, 0x80, 0, 1], &count.to_be_bytes(), &[0, 0, 0, 1]].concat();
    message.extend(&query[HEADER..end]);
    for i in 0..count {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 9, 9]);
        message.extend(i.to_be_bytes());
    }
    message.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
    message
}

#[test]
fn a_question_is_read_in_lower_case_and_escaped() {
    assert_eq!(question(&asked("WwW.Example.org", 1, None)).unwrap().name, "www.example.org");
    assert_eq!(question(&asked("a b\n.org", 1, None)).unwrap().name, "a\\032b\\010.org");
    assert_eq!(question(&asked("", 1, None)).map(|q| q.name).as_deref(), Some(""));
}

#[test]
fn what_is_no_ordinary_question_is_not_taken() {
    let good = asked("example.org", 1, None);
    let with = |at: usize, byte: u8| {
        let mut message = good.clone();
        message[at] = byte;
        message
    };
    for (what, message) in [
        ("an answer", with(2, 0x81)),
        ("an update", with(2, 0x28)),
        ("no question", with(5, 0)),
        ("two questions", with(5, 2)),
        ("a pointer", with(12, 0xc0)),
        ("a label beyond the end", with(12, 63)),
        ("cut", good[..good.len() - 1].to_vec()),
        ("a header alone", good[..12].to_vec()),
        ("nothing", Vec::new()),
        ("a name of over 255 bytes", asked(&vec!["x".repeat(60); 5].join("."), 1, None)),
    ] {
        assert_eq!(question(&message), None, "{what}");
    }
}

#[test]
fn the_askers_size_is_what_it_says_and_at_least_512() {
    assert_eq!(size(&asked("a.org", 1, None)), 512);
    assert_eq!(size(&asked("a.org", 1, Some(1232))), 1232);
    assert_eq!(size(&asked("a.org", 1, Some(100))), 512);
}

#[test]
fn nothing_of_the_guests_leaves_but_the_question() {
    let mut message = asked("example.org", 28, Some(4096));
    message.extend(b"a secret behind it");
    let query = query(7, &message, &question(&message).unwrap(), 1232);
    assert_eq!(query[..12], [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    assert_eq!(query[12..29], message[12..29]);
    assert_eq!(query[29..], [0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn only_an_answer_to_our_own_question_counts() {
    let message = asked("example.org", 1, None);
    let ours = query(7, &message, &question(&message).unwrap(), 1232);
    let good = answer(&ours, 1);
    assert!(answers(&good, &ours));
    for (at, byte) in [(1, 8), (2, 1), (13, b'X'), (26, 28)] {
        let mut wrong = good.clone();
        wrong[at] = byte;
        // Case does not matter, and X is another letter.
        assert!(!answers(&wrong, &ours), "{at}");
    }
    assert!(!answers(&[], &ours));
}

#[test]
fn a_reply_is_cut_at_whole_records_and_carries_nothing_else() {
    let message = asked("example.org", 1, Some(1232));
    let from_server = answer(&query(7, &message, &question(&message).unwrap(), 1232), 70);
    let reply = reply(&from_server, &message, 512).unwrap();
    assert!(reply.len() <= 512 && reply.len() > 490);
    assert_eq!(reply[..6], [0x12, 0x34, 0x81, 0x80, 0, 1]);
    assert_eq!(reply[8..12], [0; 4]);
    let count = usize::from(u16::from_be_bytes([reply[6], reply[7]]));
    assert_eq!(reply.len(), 29 + 16 * count);
    let all = addresses(&from_server);
    assert_eq!((all.len(), all[3]), (70, ([9, 9, 0, 3].into(), Duration::from_secs(60))));
    assert_eq!(addresses(&reply).len(), count);
}

#[test]
fn a_refusal_has_the_question_and_the_reason() {
    let refusal = refusal(&asked("example.org", 1, Some(1232)), Refused::Refused).unwrap();
    assert_eq!(refusal[..12], [0x12, 0x34, 0x81, 0x85, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(refusal.len(), 29);
}

proptest! {
    /// Neither a guest nor a name server can make it fall, whatever they send.
    #[test]
    fn any_bytes_are_read_within_their_bounds(
        mut bytes in prop::collection::vec(any::<u8>(), 0..600),
        other in prop::collection::vec(any::<u8>(), 0..100),
        good: bool,
        count in 0u16..40,
        at: prop::sample::Index,
        byte: u8,
    ) {
        if good {
            bytes = answer(&asked("example.org", 1, Some(1232)), count);
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = (question(&bytes), size(&bytes), answers(&bytes, &other), refusal(&bytes, Refused::ServerFailure));
        let asked = asked("example.org", 1, None);
        if let Some(reply) = reply(&bytes, &asked, 512) {
            prop_assert!(reply.len() <= 512);
        }
        prop_assert!(addresses(&bytes).len() <= 600);
    }
}
