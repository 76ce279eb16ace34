//! Who waits for the host's disk: io_uring, or a few threads.

mod ring;

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use crate::task::{Progress, Task};
pub(crate) use ring::Ring;

/// Threads that carry out tasks, where the host has no io_uring.
pub(crate) type Pool = virtio::Pool<Task, Finished>;

/// As many threads as requests of one disk that are worth waiting for at once: a disk's own queue is deeper, but
/// what waits here are flushes, and reads of what is not in the page cache.
pub(crate) const THREADS: usize = 4;

/// The most requests that wait at once; the driver's others stay in its rings. A request takes at most some
/// 40 KiB of this process: its pieces of guest memory, twice.
pub(crate) const MAX_IN_FLIGHT: usize = 128;

/// A task that came to its end.
#[derive(Debug)]
pub(crate) struct Finished {
    pub task: Task,
    pub how: Progress,
}

/// A pool for a disk, without threads yet.
pub(crate) fn pool(file: BorrowedFd) -> io::Result<Pool> {
    let file = file.try_clone_to_owned()?;
    Pool::new(move |mut task: Task| {
        let how = task.perform(file.as_fd());
        Finished { task, how }
    })
}

/// Carries out tasks while the device's thread does something else.
pub(crate) enum Engine {
    Ring(Box<Ring>),
    Pool(Pool),
}

impl Engine {
    /// io_uring where the host has it and lets it be restricted, else threads, which are yet to be started.
    pub(crate) fn new(file: BorrowedFd) -> io::Result<Self> {
        match Ring::new(file) {
            Ok(ring) => Ok(Self::Ring(Box::new(ring))),
            Err(e) => {
                log::info!("no io_uring for a disk ({e}): threads do its work");
                pool(file).map(Self::Pool)
            }
        }
    }

    /// Takes a task; [`start`](Self::start) must follow. The caller keeps to [`MAX_IN_FLIGHT`].
    pub(crate) fn submit(&mut self, task: Task) {
        match self {
            Self::Ring(ring) => ring.submit(task),
            Self::Pool(pool) => pool.submit(task),
        }
    }

    /// Starts what was submitted.
    pub(crate) fn start(&mut self) {
        if let Self::Ring(ring) = self {
            ring.start();
        }
    }

    /// The next task that has ended, if there is one.
    pub(crate) fn finished(&mut self) -> Option<Finished> {
        match self {
            Self::Ring(ring) => ring.finished(),
            Self::Pool(pool) => pool.finished(),
        }
    }

    /// Waits until no task touches guest memory, and forgets them all.
    pub(crate) fn drain(&mut self) {
        match self {
            Self::Ring(ring) => ring.drain(),
            Self::Pool(pool) => pool.drain(),
        }
    }
}

/// Readable while a task has ended that was not asked for yet.
impl AsRawFd for Engine {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Ring(ring) => ring.as_raw_fd(),
            Self::Pool(pool) => pool.as_raw_fd(),
        }
    }
}

#[cfg(test)]
mod tests;
