//! An io_uring that can do nothing but read, write, sync and allocate in one file.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    time::Duration,
};

use io_uring::{IoUring, opcode, register::Restriction, squeue, types};

use super::{Finished, MAX_IN_FLIGHT};
use crate::task::{Operation, Progress, Task};

/// The image's place in the ring's table of files: its only one.
const IMAGE: types::Fixed = types::Fixed(0);

/// Every operation names its file by the table (`1 << IOSQE_FIXED_FILE_BIT`).
const FIXED_FILE: u8 = 1;

/// The kernel's threads for what can't be done without waiting: such as read and write, and others.
const KERNEL_THREADS: [u32; 2] = [4, 4];

/// How long a kernel that is out of memory gets before it is asked again.
const RETRY: Duration = Duration::from_millis(1);

pub(crate) struct Ring {
    ring: IoUring,
    /// By the operations' user data.
    tasks: Vec<Option<Running>>,
    free: Vec<usize>,
    /// Ended without a system call.
    idle: Vec<Finished>,
}

struct Running {
    task: Task,
    /// What the kernel works on: it reads the pieces.
    _operation: Operation,
}

// SAFETY: the pointers within operations are to guest memory, which each task's chain keeps mapped; a ring
// can be used from any one thread at a time.
unsafe impl Send for Ring {}

impl Ring {
    /// A ring for this one file. From then on it takes no other file and no other kind of operation.
    ///
    /// # Errors
    ///
    /// The host has no io_uring, or forbids it, or is older than Linux 5.15, which can bound its threads.
    pub(crate) fn new(file: BorrowedFd) -> io::Result<Self> {
        // A process that is forked from this one has no way to it: what is written there names memory of this one.
        let ring = IoUring::builder().dontfork().setup_r_disabled().build(MAX_IN_FLIGHT as u32)?;
        let submitter = ring.submitter();
        submitter.register_files(&[file.as_raw_fd()])?;
        submitter.register_iowq_max_workers(&mut KERNEL_THREADS.clone())?;
        let mut allowed: Vec<Restriction> =
            [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE]
                .into_iter()
                .map(Restriction::sqe_op)
                .collect();
        allowed.push(Restriction::sqe_flags_allowed(FIXED_FILE));
        allowed.push(Restriction::sqe_flags_required(FIXED_FILE));
        submitter.register_restrictions(&mut allowed)?;
        submitter.register_enable_rings()?;
        Ok(Self {
            ring,
            tasks: (0..MAX_IN_FLIGHT).map(|_| None).collect(),
            free: (0..MAX_IN_FLIGHT).rev().collect(),
            idle: Vec::new(),
        })
    }

    pub(crate) fn submit(&mut self, mut task: Task) {
        let Some(operation) = task.operation() else {
            self.idle.push(Finished { task, how: Progress::Done(crate::request::Status::Ok) });
            return;
        };
        let Some(slot) = self.free.pop() else {
            // The caller keeps to MAX_IN_FLIGHT.
            let how = Progress::Failed(io::ErrorKind::ResourceBusy.into());
            self.idle.push(Finished { task, how });
            return;
        };
        let entry = entry(&operation).user_data(slot as u64);
        self.tasks[slot] = Some(Running { task, _operation: operation });
        // SAFETY: the pieces and what they point to stay in `self.tasks` until the kernel is done with them.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.start();
        }
    }

    /// Hands the kernel what was submitted. It refuses only for a while, when it has no memory.
    pub(crate) fn start(&mut self) {
        while !self.ring.submission().is_empty() && self.ring.submit().is_err() {
            std::thread::sleep(RETRY);
        }
    }

    pub(crate) fn finished(&mut self) -> Option<Finished> {
        loop {
            if let Some(finished) = self.idle.pop() {
                return Some(finished);
            }
            let (slot, result) = {
                let entry = self.ring.completion().next()?;
                (entry.user_data() as usize, entry.result())
            };
            let Some(Running { mut task, .. }) = self.tasks.get_mut(slot).and_then(Option::take) else {
                continue;
            };
            self.free.push(slot);
            let result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
            match task.advance(result) {
                Progress::More => {
                    self.submit(task);
                    self.start();
                }
                how => return Some(Finished { task, how }),
            }
        }
    }

    pub(crate) fn drain(&mut self) {
        self.start();
        self.idle.clear();
        while self.free.len() < self.tasks.len() {
            if self.ring.completion().is_empty() && self.ring.submit_and_wait(1).is_err() {
                std::thread::sleep(RETRY);
            }
            while let Some(entry) = self.ring.completion().next() {
                let slot = entry.user_data() as usize;
                if self.tasks.get_mut(slot).and_then(Option::take).is_some() {
                    self.free.push(slot);
                }
            }
        }
    }
}

fn entry(operation: &Operation) -> squeue::Entry {
    match operation {
        Operation::Read { pieces, position } => {
            opcode::Readv::new(IMAGE, pieces.as_ptr(), pieces.len() as u32).offset(*position).build()
        }
        Operation::Write { pieces, position, flags } => {
            opcode::Writev::new(IMAGE, pieces.as_ptr(), pieces.len() as u32)
                .offset(*position)
                .rw_flags(*flags)
                .build()
        }
        Operation::Sync => opcode::Fsync::new(IMAGE).flags(types::FsyncFlags::DATASYNC).build(),
        Operation::Allocate { mode, position, length } => {
            opcode::Fallocate::new(IMAGE, *length).offset(*position).mode(*mode).build()
        }
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel works on guest memory until then.
        self.drain();
    }
}

#[cfg(test)]
mod tests;
