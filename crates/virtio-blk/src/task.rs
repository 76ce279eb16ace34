//! A request on its way: which system call comes next, and what its result means. It makes none itself but
//! in [`Operation::perform`], so that io_uring and a thread carry out the same steps.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use libc::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, RWF_DSYNC};
use virtio::Chain;

use crate::request::{HEADER, Range, Status};

/// Gives space back; what was there reads as zeroes.
const PUNCH: i32 = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

/// Makes zeroes whose space stays reserved.
const ZERO: i32 = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

/// A request, and what of it is left to do.
#[derive(Debug)]
pub(crate) struct Task {
    /// The queue that its chain goes back to.
    pub queue: usize,
    pub chain: Chain,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Read { position: u64, length: usize, done: usize },
    Write { position: u64, length: usize, done: usize, durable: bool },
    Sync,
    Clear { ranges: Vec<Range>, next: usize, reserve: bool },
}

/// One system call. The pieces lie in the memory of the task's chain.
#[derive(Debug)]
pub(crate) enum Operation {
    Read { pieces: Vec<libc::iovec>, position: u64 },
    Write { pieces: Vec<libc::iovec>, position: u64, flags: i32 },
    Sync,
    Allocate { mode: i32, position: u64, length: u64 },
}

/// How a task stands after a system call.
#[derive(Debug)]
pub(crate) enum Progress {
    /// There is another [`Operation`] to come.
    More,
    /// The driver can be told.
    Done(Status),
    /// The host refused; the driver gets an I/O error.
    Failed(io::Error),
}

impl Task {
    fn new(queue: usize, chain: Chain, work: Work) -> Self {
        Self { queue, chain, work }
    }

    pub(crate) fn read(queue: usize, chain: Chain, position: u64, length: usize) -> Self {
        Self::new(queue, chain, Work::Read { position, length, done: 0 })
    }

    /// A write; a `durable` one is on the disk when it is done.
    pub(crate) fn write(queue: usize, chain: Chain, position: u64, length: usize, durable: bool) -> Self {
        Self::new(queue, chain, Work::Write { position, length, done: 0, durable })
    }

    pub(crate) fn sync(queue: usize, chain: Chain) -> Self {
        Self::new(queue, chain, Work::Sync)
    }

    pub(crate) fn discard(queue: usize, chain: Chain, ranges: Vec<Range>) -> Self {
        Self::new(queue, chain, Work::Clear { ranges, next: 0, reserve: false })
    }

    pub(crate) fn write_zeroes(queue: usize, chain: Chain, ranges: Vec<Range>) -> Self {
        Self::new(queue, chain, Work::Clear { ranges, next: 0, reserve: true })
    }

    pub(crate) fn is_read(&self) -> bool {
        matches!(self.work, Work::Read { .. })
    }

    pub(crate) fn is_write(&self) -> bool {
        matches!(self.work, Work::Write { .. })
    }

    /// The next system call; none: there is nothing to do.
    pub(crate) fn operation(&mut self) -> Option<Operation> {
        let chain = &self.chain;
        match &mut self.work {
            Work::Read { position, length, done } => (done < length).then(|| Operation::Read {
                pieces: chain.writable_pieces(*done, *length - *done),
                position: *position + *done as u64,
            }),
            Work::Write { position, length, done, durable } => (done < length).then(|| Operation::Write {
                pieces: chain.readable_pieces(HEADER + *done, *length - *done),
                position: *position + *done as u64,
                flags: if *durable { RWF_DSYNC } else { 0 },
            }),
            Work::Sync => Some(Operation::Sync),
            Work::Clear { ranges, next, reserve, .. } => {
                // The kernel refuses to clear nothing; a driver may ask for it.
                while ranges.get(*next).is_some_and(|range| range.length == 0) {
                    *next += 1;
                }
                ranges.get(*next).map(|range| Operation::Allocate {
                    mode: if *reserve && !range.unmap { ZERO } else { PUNCH },
                    position: range.position,
                    length: range.length,
                })
            }
        }
    }

    /// Takes the result of the last [`operation`](Self::operation).
    pub(crate) fn advance(&mut self, result: io::Result<usize>) -> Progress {
        let moved = match result {
            Ok(moved) => moved,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Progress::More,
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return self.unsupported(e),
            Err(e) => return Progress::Failed(e),
        };
        match &mut self.work {
            Work::Read { length, done, .. } | Work::Write { length, done, .. } => {
                *done += moved;
                match moved {
                    // The image became shorter than the disk.
                    0 => Progress::Failed(io::ErrorKind::UnexpectedEof.into()),
                    _ if *done < *length => Progress::More,
                    _ => Progress::Done(Status::Ok),
                }
            }
            Work::Sync => Progress::Done(Status::Ok),
            Work::Clear { ranges, next, .. } => {
                *next += 1;
                if *next < ranges.len() { Progress::More } else { Progress::Done(Status::Ok) }
            }
        }
    }

    fn unsupported(&mut self, error: io::Error) -> Progress {
        match &mut self.work {
            // tmpfs, for one, has no zeroes that keep their space, but holes, which are zeroes too.
            Work::Clear { reserve, .. } if *reserve => {
                *reserve = false;
                Progress::More
            }
            // The driver then writes zeroes itself, or lives without discards.
            Work::Clear { .. } => Progress::Done(Status::Unsupported),
            _ => Progress::Failed(error),
        }
    }

    /// Carries out all that is left, and waits for it.
    pub(crate) fn perform(&mut self, file: BorrowedFd) -> Progress {
        loop {
            let Some(operation) = self.operation() else { return Progress::Done(Status::Ok) };
            match self.advance(operation.perform(file, 0)) {
                Progress::More => {}
                end => return end,
            }
        }
    }
}

impl Operation {
    /// Makes the system call; `more_flags` (RWF_*) goes to a read.
    pub(crate) fn perform(&self, file: BorrowedFd, more_flags: i32) -> io::Result<usize> {
        let fd = file.as_raw_fd();
        let returned = match self {
            Self::Read { pieces, position } => {
                let (count, position) = (pieces.len() as i32, offset(*position)?);
                // SAFETY: the pieces lie in guest memory, which the caller's chain keeps mapped.
                unsafe { libc::preadv2(fd, pieces.as_ptr(), count, position, more_flags) }
            }
            Self::Write { pieces, position, flags } => {
                let (count, position) = (pieces.len() as i32, offset(*position)?);
                // SAFETY: as for a read.
                unsafe { libc::pwritev2(fd, pieces.as_ptr(), count, position, *flags) }
            }
            // SAFETY: no memory is involved.
            Self::Sync => unsafe { libc::fdatasync(fd) as isize },
            Self::Allocate { mode, position, length } => {
                let (position, length) = (offset(*position)?, offset(*length)?);
                // SAFETY: no memory is involved.
                unsafe { libc::fallocate(fd, *mode, position, length) as isize }
            }
        };
        usize::try_from(returned).map_err(|_| io::Error::last_os_error())
    }
}

fn offset(value: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(value).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests;
