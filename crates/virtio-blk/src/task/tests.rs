use std::{fs::File, os::fd::AsFd, os::unix::fs::FileExt};

use virtio::testing::{Buffer, chain, memory};

use super::*;

fn read_task(length: usize) -> Task {
    let chain = chain(&memory(), &[Buffer::Readable(&[0; HEADER]), Buffer::Writable(length as u32 + 1)]);
    Task::read(0, chain, 512, length)
}

/// Where the next operation starts in the image, and how many bytes it asks for.
fn next(task: &mut Task) -> (u64, usize) {
    match task.operation() {
        Some(Operation::Read { pieces, position }) => (position, pieces.iter().map(|p| p.iov_len).sum()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_short_answer_is_followed_by_the_rest() {
    let mut task = read_task(4096);
    assert_eq!(next(&mut task), (512, 4096));
    assert!(matches!(task.advance(Ok(1000)), Progress::More));
    assert_eq!(next(&mut task), (1512, 3096));
    let interrupted = io::Error::from_raw_os_error(libc::EINTR);
    assert!(matches!(task.advance(Err(interrupted)), Progress::More));
    assert_eq!(next(&mut task), (1512, 3096));
    assert!(matches!(task.advance(Ok(3096)), Progress::Done(Status::Ok)));
}

#[test]
fn the_end_of_the_image_and_errors_are_failures() {
    for result in [Ok(0), Err(io::Error::from_raw_os_error(libc::EIO))] {
        assert!(matches!(read_task(512).advance(result), Progress::Failed(_)));
    }
}

fn modes(mut task: Task, refuse: impl Fn(i32) -> bool) -> (Vec<i32>, Progress) {
    let mut modes = Vec::new();
    loop {
        let Some(Operation::Allocate { mode, .. }) = task.operation() else {
            return (modes, Progress::Done(Status::Ok));
        };
        modes.push(mode);
        let result = if refuse(mode) { Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)) } else { Ok(0) };
        match task.advance(result) {
            Progress::More => {}
            end => return (modes, end),
        }
    }
}

#[test]
fn zeroes_keep_their_space_unless_the_driver_lets_go_of_it_or_the_host_knows_only_holes() {
    let range = |position, unmap| Range { position, length: 512, unmap };
    let task = || {
        let chain = chain(&memory(), &[Buffer::Readable(&[0; HEADER]), Buffer::Writable(1)]);
        Task::write_zeroes(0, chain, vec![range(0, false), range(512, true)])
    };
    let (asked, end) = modes(task(), |_| false);
    assert_eq!((asked, matches!(end, Progress::Done(Status::Ok))), (vec![ZERO, PUNCH], true));
    let (asked, end) = modes(task(), |mode| mode == ZERO);
    assert_eq!((asked, matches!(end, Progress::Done(Status::Ok))), (vec![ZERO, PUNCH, PUNCH], true));
    let (asked, end) = modes(task(), |_| true);
    assert_eq!((asked, matches!(end, Progress::Done(Status::Unsupported))), (vec![ZERO, PUNCH], true));
}

#[test]
fn a_write_that_must_last_says_so_to_the_host() {
    let chain = chain(&memory(), &[Buffer::Readable(&[7; HEADER + 512]), Buffer::Writable(1)]);
    let mut task = Task::write(0, chain, 0, 512, true);
    assert!(matches!(task.operation(), Some(Operation::Write { flags: RWF_DSYNC, .. })));
    let file: File = tempfile::tempfile().unwrap();
    assert!(matches!(task.perform(file.as_fd()), Progress::Done(Status::Ok)));
    let mut there = [0; 512];
    file.read_exact_at(&mut there, 0).unwrap();
    assert_eq!(there, [7; 512]);
}
