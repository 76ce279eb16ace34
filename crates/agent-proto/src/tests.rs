use proptest::prelude::*;

use super::*;

#[test]
fn a_frame_survives_the_way_there() {
    let run = ToAgent::Run(Run {
        command: CommandId(7),
        argv: vec![b"a\n\"'\xff".to_vec(), vec![b'x'; 100_000]],
        env: vec![b"A=b".to_vec()],
        cwd: Some(b"/tmp".to_vec()),
        root: false,
        stdio: Stdio::Terminal(TerminalSize { rows: 24, columns: 80 }),
    });
    let mut wire = Vec::new();
    write_frame(&mut wire, &run).unwrap();
    assert_eq!(read_frame(&mut wire.as_slice(), MAX_TO_AGENT).unwrap(), Some(run));
}

#[test]
fn a_frame_over_the_limit_is_refused_before_it_is_read() {
    let wire = u32::MAX.to_le_bytes();
    let error = read_frame::<FromAgent>(&mut wire.as_slice(), MAX_FROM_AGENT).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn the_end_between_frames_is_no_error_and_inside_one_is() {
    assert_eq!(read_frame::<FromAgent>(&mut [].as_slice(), 64).unwrap(), None);
    for cut in 1..4 {
        let error = read_frame::<FromAgent>(&mut [1, 0, 0, 0][..cut].as_ref(), 64).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[test]
fn bytes_after_a_message_are_refused() {
    let mut wire = Vec::new();
    write_frame(&mut wire, &(FromAgent::Started { command: CommandId(1) }, 0u8)).unwrap();
    assert!(read_frame::<FromAgent>(&mut wire.as_slice(), 64).is_err());
}

proptest! {
    #[test]
    fn no_bytes_from_the_agent_panic_or_allocate_beyond_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut rest = bytes.as_slice();
        while let Ok(Some(_)) = read_frame::<FromAgent>(&mut rest, MAX_FROM_AGENT) {}
    }
}
