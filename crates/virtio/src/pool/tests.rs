use std::sync::{Barrier, mpsc};

use super::*;

#[test]
fn jobs_run_side_by_side_and_each_result_comes_once() {
    let together = Arc::new(Barrier::new(3));
    let meet = together.clone();
    let mut pool = Pool::new(move |job: u32| {
        meet.wait();
        job * 2
    })
    .unwrap();
    pool.start("test", 3, || true).unwrap();
    for job in 1..=3 {
        pool.submit(job);
    }
    pool.wait();
    let mut results: Vec<u32> = std::iter::from_fn(|| pool.finished()).collect();
    results.sort_unstable();
    assert_eq!(results, [2, 4, 6]);
    assert_eq!(pool.finished(), None);
}

#[test]
fn without_threads_or_with_none_that_may_go_on_the_caller_does_it() {
    let mut pool = Pool::new(|job: u32| (job, thread::current().id())).unwrap();
    pool.submit(1);
    assert_eq!(pool.finished(), Some((1, thread::current().id())));
    let gate = Arc::new(Barrier::new(3));
    let enter = gate.clone();
    pool.start("test", 2, move || {
        enter.wait();
        false
    })
    .unwrap();
    pool.submit(2);
    assert_eq!(pool.finished(), None, "the threads may go on, as far as is known");
    gate.wait();
    pool.wait();
    pool.submit(3);
    assert_eq!(pool.finished(), Some((2, thread::current().id())));
    assert_eq!(pool.finished(), Some((3, thread::current().id())));
}

#[test]
fn a_drain_forgets_what_waits_and_lets_what_runs_end() {
    let (begun, has_begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let done = Arc::new(Mutex::new(Vec::new()));
    let list = done.clone();
    let mut pool = Pool::new(move |job: u32| {
        begun.send(()).unwrap();
        // Until the other end is dropped.
        let _ = may_go_on.lock().unwrap().recv();
        list.lock().unwrap().push(job);
    })
    .unwrap();
    pool.start("test", 1, || true).unwrap();
    pool.submit(1);
    pool.submit(2);
    has_begun.recv().unwrap();
    let release = thread::spawn(move || drop(go_on));
    pool.drain();
    release.join().unwrap();
    assert!(done.lock().unwrap().contains(&1));
    assert_eq!(pool.finished(), None);
}
