use super::*;

fn packet(channel: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    let header = [length, channel, 0, 0, flags];
    header.into_iter().flat_map(u32::to_be_bytes).chain(body.iter().copied()).collect()
}

fn command(number: u32, rest: &[u8]) -> Vec<u8> {
    let values = [number, 77].into_iter().flat_map(|value| [&b"L"[..], &value.to_be_bytes()].concat());
    packet(COMMANDS, 0, &values.chain(rest.iter().copied()).collect::<Vec<_>>())
}

/// What arrives, what is answered, and how it ends.
fn filtered(bytes: &[u8], microphone: bool) -> (Vec<u8>, Vec<u8>, io::Result<()>) {
    let (mut to, mut answers) = (Vec::new(), Vec::new());
    let mut refuse = |answer: &[u8]| {
        answers.extend_from_slice(answer);
        Ok(())
    };
    let mut pass = |packet: &[u8]| {
        to.extend_from_slice(packet);
        Ok(())
    };
    let result = filter(&mut &bytes[..], &mut pass, &mut refuse, microphone);
    (to, answers, result)
}

#[test]
fn what_plays_is_passed_on_and_nothing_else() {
    let stream = [command(3, b"stream"), packet(0, 0, b"samples"), command(4, b"")].concat();
    let (to, answers, result) = filtered(&stream, false);
    assert_eq!((to, answers), (stream, Vec::new()));
    result.unwrap();
    // Listening, modules, other clients, samples that are kept, defaults, the end of the server, extensions.
    for number in [5, 7, 15, 18, 26, 28, 30, 37, 44, 48, 49, 51, 52, 67, 87, 1000] {
        let (to, answers, result) = filtered(&command(number, b"x"), false);
        result.unwrap();
        assert!(to.is_empty(), "{number}");
        assert_eq!(answers, denied(77), "{number}");
    }
    let (to, ..) = filtered(&command(5, b""), true);
    assert_eq!(to, command(5, b""));
    assert!(filtered(&command(51, b""), true).0.is_empty());
}

#[test]
fn memory_is_never_shared() {
    let version = |number: u32| command(AUTH, &[&b"L"[..], &number.to_be_bytes(), b"cookie"].concat());
    assert_eq!(filtered(&version(0xc000_0023), false).0, version(0x23));
    for flags in [0x8000_0000, 0x4000_0000, 0xc000_0000, 0x2000_0000] {
        let (to, _, result) = filtered(&packet(0, flags, b"x"), false);
        assert!(to.is_empty() && result.is_err(), "{flags:x}");
    }
}

#[test]
fn what_is_no_packet_ends_the_connection() {
    let long = [0xffff_u32 + 2, COMMANDS, 0, 0, 0].map(u32::to_be_bytes).concat();
    for wrong in
        [packet(COMMANDS, 0, b""), packet(COMMANDS, 0, b"L\0\0\0\x03"), long, packet(COMMANDS, 1, b"x")]
    {
        let (to, _, result) = filtered(&wrong, false);
        assert!(to.is_empty() && result.is_err(), "{wrong:?}");
    }
    assert!(filtered(&command(AUTH, b""), false).2.is_err());
    // Cut short.
    let whole = command(3, b"stream");
    for end in 0..whole.len() {
        assert!(filtered(&whole[..end], false).0.is_empty());
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_but_allowed_ones_arrive(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let (to, ..) = filtered(&bytes, false);
        assert!(to.len() <= bytes.len());
    }
}

#[test]
fn a_connection_goes_through_and_ends_with_either_side() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, server) = (folder.path().join("s"), folder.path().join("server"));
    let real = UnixListener::bind(&server).unwrap();
    serve(&socket, server.clone(), false).unwrap();
    let mut client = UnixStream::connect(&socket).unwrap();
    let (mut theirs, _) = real.accept().unwrap();
    client.write_all(&[command(51, b"module"), command(3, b"stream")].concat()).unwrap();
    let mut bytes = vec![0; command(3, b"stream").len()];
    theirs.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, command(3, b"stream"));
    theirs.write_all(&command(2, b"answer")).unwrap();
    drop(theirs);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, [denied(77), command(2, b"answer")].concat());
    // The next client's keeper takes its place.
    serve(&socket, server, false).unwrap();
    UnixStream::connect(&socket).unwrap();
}
