use std::{
    fs::{File, OpenOptions},
    os::fd::AsFd,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use virtio::testing::{Buffer, chain, memory};

use super::*;
use crate::{request::Status, task::Task};

/// Both engines on one file; the ring only where this machine has io_uring.
fn engines(file: &File) -> Vec<Engine> {
    let mut pool = pool(file.as_fd()).unwrap();
    pool.start("disk", THREADS, || true).unwrap();
    let mut engines = vec![Engine::Pool(pool)];
    match Ring::new(file.as_fd()) {
        Ok(ring) => engines.push(Engine::Ring(Box::new(ring))),
        Err(e) => eprintln!("SKIPPED for io_uring: {e}"),
    }
    engines
}

fn write_task(bytes: usize) -> Task {
    let data = vec![1; 16 + bytes];
    Task::write(0, chain(&memory(), &[Buffer::Readable(&data), Buffer::Writable(1)]), 0, bytes, false)
}

/// Waits for a task's end by the descriptor, as the event loop does.
fn wait(engine: &mut Engine) -> Progress {
    engine.start();
    loop {
        if let Some(finished) = engine.finished() {
            return finished.how;
        }
        // SAFETY: the engine outlives the call.
        let fd = unsafe { BorrowedFd::borrow_raw(engine.as_raw_fd()) };
        let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&limit)), Ok(1));
    }
}

#[test]
fn a_full_disk_and_other_refusals_of_the_host_are_failures() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    for mut engine in engines(&full) {
        engine.submit(write_task(4096));
        let Progress::Failed(e) = wait(&mut engine) else { panic!("it was written") };
        assert_eq!(e.kind(), io::ErrorKind::StorageFull);
    }
    let unwritable = File::open("/dev/zero").unwrap();
    for mut engine in engines(&unwritable) {
        engine.submit(write_task(512));
        assert!(matches!(wait(&mut engine), Progress::Failed(_)));
    }
}

#[test]
fn a_task_without_anything_to_do_ends_too() {
    let file = tempfile::tempfile().unwrap();
    for mut engine in engines(&file) {
        engine.submit(write_task(0));
        assert!(matches!(wait(&mut engine), Progress::Done(Status::Ok)));
    }
}

#[test]
fn a_drain_leaves_nothing_behind() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    for mut engine in engines(&file) {
        for _ in 0..MAX_IN_FLIGHT {
            engine.submit(write_task(4096));
        }
        engine.start();
        engine.drain();
        std::thread::sleep(Duration::from_millis(10));
        assert!(engine.finished().is_none());
        engine.submit(write_task(4096));
        assert!(matches!(wait(&mut engine), Progress::Done(Status::Ok)));
    }
}

#[test]
fn threads_that_may_not_go_on_leave_the_work_to_the_caller() {
    let file = tempfile::tempfile().unwrap();
    let mut pool = pool(file.as_fd()).unwrap();
    pool.start("disk", THREADS, || false).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let mut engine = Engine::Pool(pool);
    engine.submit(write_task(512));
    assert!(matches!(wait(&mut engine), Progress::Done(Status::Ok)));
}
