//! Threads that carry out tasks, where the host has no io_uring.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::Finished;
use crate::task::Task;

/// As many as requests of one disk that are worth waiting for at once: a disk's own queue is deeper, but
/// what waits here are flushes, and reads of what is not in the page cache.
const THREADS: usize = 4;

const STACK: usize = 128 << 10;

pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    file: OwnedFd,
    state: Mutex<State>,
    /// There is a task, or the end has come.
    work: Condvar,
    /// A task has ended.
    progress: Condvar,
    event: EventFd,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Task>,
    running: usize,
    finished: VecDeque<Finished>,
    closing: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; if it did, the lists would still be sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut state = self.lock();
        loop {
            let Some(mut task) = state.waiting.pop_front() else {
                if state.closing {
                    return;
                }
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.running += 1;
            drop(state);
            let how = task.perform(self.file.as_fd());
            state = self.lock();
            state.running -= 1;
            self.finish(&mut state, Finished { task, how });
        }
    }

    fn finish(&self, state: &mut State, finished: Finished) {
        let first = state.finished.is_empty();
        state.finished.push_back(finished);
        self.progress.notify_all();
        if first {
            // Fails only when the counter is full, and then the device's thread wakes up anyway.
            let _ = self.event.write(1);
        }
    }
}

impl Pool {
    /// A pool without threads: until [`start`](Self::start), who submits a task waits for it.
    pub(crate) fn new(file: BorrowedFd) -> io::Result<Self> {
        let shared = Shared {
            file: file.try_clone_to_owned()?,
            state: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        };
        Ok(Self { shared: Arc::new(shared), threads: Vec::new() })
    }

    /// Starts the threads. Each calls `enter` first, and ends at once if that says no.
    pub(crate) fn start(&mut self, enter: impl Fn() -> bool + Clone + Send + 'static) -> io::Result<()> {
        for index in self.threads.len()..THREADS {
            let (shared, enter) = (self.shared.clone(), enter.clone());
            let thread = thread::Builder::new().name(format!("disk-{index}")).stack_size(STACK);
            self.threads.push(thread.spawn(move || {
                if enter() {
                    shared.serve();
                }
            })?);
        }
        Ok(())
    }

    pub(crate) fn submit(&mut self, mut task: Task) {
        // Threads that all ended at once, too: nobody else would do it.
        if self.threads.iter().all(JoinHandle::is_finished) {
            let how = task.perform(self.shared.file.as_fd());
            self.shared.finish(&mut self.shared.lock(), Finished { task, how });
            return;
        }
        self.shared.lock().waiting.push_back(task);
        self.shared.work.notify_one();
    }

    pub(crate) fn finished(&mut self) -> Option<Finished> {
        let mut state = self.shared.lock();
        let finished = state.finished.pop_front();
        if finished.is_none() {
            // Under the lock, so that what ends next raises it anew.
            let _ = self.shared.event.read();
        }
        finished
    }

    pub(crate) fn drain(&mut self) {
        let mut state = self.shared.lock();
        state.waiting.clear();
        while state.running > 0 {
            state = self.shared.progress.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.finished.clear();
        let _ = self.shared.event.read();
    }
}

impl AsRawFd for Pool {
    fn as_raw_fd(&self) -> RawFd {
        self.shared.event.as_raw_fd()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}
