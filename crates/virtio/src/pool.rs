//! Threads that do for a device what may have to wait, so that the device's own thread does not.

use std::{
    collections::VecDeque,
    fmt, io,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

const STACK: usize = 128 << 10;

/// A few threads that turn jobs `J` into results `D`.
///
/// Its descriptor is readable while a result waits that was not taken yet: a device adds it to its events when it
/// is activated, and calls [`drain`](Self::drain) when it is reset.
pub struct Pool<J, D> {
    shared: Arc<Shared<J, D>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<J, D> {
    perform: Box<dyn Fn(J) -> D + Send + Sync>,
    state: Mutex<State<J, D>>,
    /// There is a job, or the end has come.
    work: Condvar,
    /// A job has ended.
    progress: Condvar,
    event: EventFd,
}

struct State<J, D> {
    waiting: VecDeque<J>,
    running: usize,
    finished: VecDeque<D>,
    /// Threads that were started, and those of them that may not go on.
    threads: usize,
    refused: usize,
    closing: bool,
}

impl<J, D> Shared<J, D> {
    fn lock(&self) -> MutexGuard<'_, State<J, D>> {
        // Nothing panics while it holds the lock; if it did, the lists would still be sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut state = self.lock();
        loop {
            let Some(job) = state.waiting.pop_front() else {
                if state.closing {
                    return;
                }
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.running += 1;
            drop(state);
            let done = (self.perform)(job);
            state = self.lock();
            state.running -= 1;
            self.finish(&mut state, done);
        }
    }

    fn finish(&self, state: &mut State<J, D>, done: D) {
        let first = state.finished.is_empty();
        state.finished.push_back(done);
        self.progress.notify_all();
        if first {
            self.raise();
        }
    }

    fn raise(&self) {
        // Fails only when the counter is full, and then the device's thread wakes up anyway.
        let _ = self.event.write(1);
    }

    /// This thread may not go on. What the last one leaves is the device's thread's to do.
    fn refuse(&self) {
        self.lock().refused += 1;
        self.progress.notify_all();
        self.raise();
    }

    /// Does what no thread will do.
    fn help<'a>(&'a self, mut state: MutexGuard<'a, State<J, D>>) -> MutexGuard<'a, State<J, D>> {
        while state.refused == state.threads
            && let Some(job) = state.waiting.pop_front()
        {
            drop(state);
            let done = (self.perform)(job);
            state = self.lock();
            self.finish(&mut state, done);
        }
        state
    }
}

impl<J: Send + 'static, D: Send + 'static> Pool<J, D> {
    /// A pool without threads: until [`start`](Self::start), who submits a job does it.
    ///
    /// # Errors
    ///
    /// There is no descriptor left.
    pub fn new(perform: impl Fn(J) -> D + Send + Sync + 'static) -> io::Result<Self> {
        let state = State {
            waiting: VecDeque::new(),
            running: 0,
            finished: VecDeque::new(),
            threads: 0,
            refused: 0,
            closing: false,
        };
        let shared = Shared {
            perform: Box::new(perform),
            state: Mutex::new(state),
            work: Condvar::new(),
            progress: Condvar::new(),
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        };
        Ok(Self { shared: Arc::new(shared), threads: Vec::new() })
    }

    /// Starts threads until there are `count`, named after `name`. Each calls `enter` first, to confine itself,
    /// and ends at once if that says no.
    ///
    /// # Errors
    ///
    /// A thread can't be started.
    pub fn start(
        &mut self,
        name: &str,
        count: usize,
        enter: impl Fn() -> bool + Clone + Send + 'static,
    ) -> io::Result<()> {
        for index in self.threads.len()..count {
            let (shared, enter) = (self.shared.clone(), enter.clone());
            let thread = thread::Builder::new().name(format!("{name}-{index}")).stack_size(STACK);
            let thread = thread.spawn(move || if enter() { shared.serve() } else { shared.refuse() })?;
            self.threads.push(thread);
            self.shared.lock().threads += 1;
        }
        Ok(())
    }

    /// Hands a job over; [`finished`](Self::finished) has what became of it later.
    pub fn submit(&mut self, job: J) {
        let mut state = self.shared.lock();
        state.waiting.push_back(job);
        drop(self.shared.help(state));
        self.shared.work.notify_one();
    }

    /// The next result, if there is one.
    pub fn finished(&mut self) -> Option<D> {
        let mut state = self.shared.help(self.shared.lock());
        let finished = state.finished.pop_front();
        if finished.is_none() {
            // Under the lock, so that what ends next raises it anew.
            let _ = self.shared.event.read();
        }
        finished
    }

    /// Waits until every job has been done. Their results are there.
    pub fn wait(&mut self) {
        let mut state = self.shared.help(self.shared.lock());
        while !state.waiting.is_empty() || state.running > 0 {
            state = self.shared.progress.wait(state).unwrap_or_else(PoisonError::into_inner);
            state = self.shared.help(state);
        }
    }

    /// Forgets what waits and what has ended, and waits until nothing runs.
    pub fn drain(&mut self) {
        let mut state = self.shared.lock();
        state.waiting.clear();
        while state.running > 0 {
            state = self.shared.progress.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.finished.clear();
        let _ = self.shared.event.read();
    }
}

impl<J, D> AsRawFd for Pool<J, D> {
    fn as_raw_fd(&self) -> RawFd {
        self.shared.event.as_raw_fd()
    }
}

impl<J, D> fmt::Debug for Pool<J, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl<J, D> Drop for Pool<J, D> {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
