//! The block device: takes requests from its queues, answers at once or later.

use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use virtio::{Activation, Chain, Device, DeviceKind, EventOps, EventSet, Events, Queue, QueueError};

use crate::{
    Image,
    engine::{Engine, Finished, MAX_IN_FLIGHT, THREADS, pool},
    request::{Limits, MAX_RANGE_SECTORS, MAX_RANGES, Request, SECTOR, Status},
    task::{Progress, Task},
};

/// The most queues; a guest uses one for each of its vCPUs. They share the device's thread, so more would
/// only cost memory.
pub const MAX_QUEUES: u16 = 4;

/// The longest name of a disk, in bytes.
pub const ID_SIZE: usize = 20;

const QUEUE_SIZE: u16 = 256;

/// The most pieces of a request: a queue's size, less the header's and the status byte's.
const MAX_PIECES: u32 = QUEUE_SIZE as u32 - 2;

/// Data of the engine's descriptor in the event loop.
const ENGINE: u32 = 0;

/// How many failures of the host are logged: a guest can cause them at will.
const LOGGED_FAILURES: u32 = 8;

/// A write into the page cache takes microseconds, unless the host makes the writer wait for its disk.
const SLOW_WRITE: Duration = Duration::from_millis(1);

/// After a request that moved this many bytes the driver is told at once, and works on while others are served;
/// smaller ones are told together.
const LARGE: usize = 128 << 10;

/// After a slow write, others go to the engine for this long.
const SLOW_PERIOD: Duration = Duration::from_secs(1);

// Feature bits (virtio 1.2, 5.2.3).
const SEG_MAX: u64 = 1 << 2;
const RO: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const TOPOLOGY: u64 = 1 << 10;
const MQ: u64 = 1 << 12;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

/// Host file systems and disks work in blocks of 4 KiB: 2^3 sectors.
const BLOCK_EXPONENT: u8 = 3;

/// A disk's name that does not fit, or is not plain ASCII.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("disk name {0:?}: not at most {ID_SIZE} ASCII characters")]
pub struct IdError(String);

/// The device.
pub struct Blk {
    image: Image,
    id: [u8; ID_SIZE],
    queue_count: u16,
    engine: Engine,
    queues: Vec<Queue>,
    in_flight: usize,
    /// Whether a queue was left with requests because too many were in flight.
    held_up: bool,
    /// The driver sends no flushes, so each write must last (virtio 1.2, 5.2.6.2).
    durable_writes: bool,
    /// Until when writes go to the engine.
    slow_until: Option<Instant>,
    /// Whether the host has refused a change since the last reset. Then nothing is discarded any more: ext4 discards what
    /// a transaction has freed although its commit failed, so that what is on the disk still names it.
    keeps: bool,
    failures: u32,
}

impl Blk {
    /// A device for `image`. The guest sees `id`, at most [`ID_SIZE`] ASCII characters, as the disk's serial
    /// number; `queues` is 1 to [`MAX_QUEUES`], and taken as the nearest of them.
    ///
    /// Sets up io_uring where the host has it. Where it does not, [`start_threads`](Self::start_threads)
    /// should follow.
    ///
    /// # Errors
    ///
    /// The name does not fit ([`io::ErrorKind::InvalidInput`]), or there is no descriptor left.
    pub fn new(image: Image, id: &str, queues: u16) -> io::Result<Self> {
        let engine = Engine::new(image.as_fd())?;
        Self::with_engine(image, id, queues, engine)
    }

    /// As [`new`](Self::new), but with threads even where the host has io_uring.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn without_io_uring(image: Image, id: &str, queues: u16) -> io::Result<Self> {
        let engine = Engine::Pool(pool(image.as_fd())?);
        Self::with_engine(image, id, queues, engine)
    }

    fn with_engine(image: Image, id: &str, queues: u16, engine: Engine) -> io::Result<Self> {
        if id.len() > ID_SIZE || !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, IdError(id.into())));
        }
        let mut bytes = [0; ID_SIZE];
        bytes[..id.len()].copy_from_slice(id.as_bytes());
        Ok(Self {
            image,
            id: bytes,
            queue_count: queues.clamp(1, MAX_QUEUES),
            engine,
            queues: Vec::new(),
            in_flight: 0,
            held_up: false,
            durable_writes: false,
            slow_until: None,
            keeps: false,
            failures: 0,
        })
    }

    /// Starts the threads that wait for the host's disk where there is no io_uring; else does nothing.
    /// Each calls `enter` first, to confine itself, and ends if that says no. Without threads the device's
    /// own thread waits.
    ///
    /// # Errors
    ///
    /// A thread can't be started.
    pub fn start_threads(&mut self, enter: impl Fn() -> bool + Clone + Send + 'static) -> io::Result<()> {
        match &mut self.engine {
            Engine::Ring(_) => Ok(()),
            Engine::Pool(pool) => pool.start("disk", THREADS, enter),
        }
    }

    /// Takes requests from a queue until it is empty or too many are in flight.
    fn serve(&mut self, index: usize) -> Result<(), QueueError> {
        let Some(size) = self.queues.get(index).map(Queue::size) else { return Ok(()) };
        // At most a ring's worth before the worker looks after its other events.
        for _ in 0..size {
            if self.in_flight >= MAX_IN_FLIGHT {
                self.held_up = true;
                return Ok(());
            }
            let Some(chain) = self.queues[index].pop()? else { return Ok(()) };
            self.begin(index, chain)?;
        }
        self.queues[index].come_back();
        Ok(())
    }

    fn begin(&mut self, queue: usize, chain: Chain) -> Result<(), QueueError> {
        if chain.writable() == 0 {
            return Err(QueueError::Request("no room for a status byte"));
        }
        let limits = Limits { sectors: self.image.sectors(), read_only: self.image.read_only() };
        let mut task = match Request::parse(&chain, limits) {
            Err(status) => return self.answer(queue, chain, status, 0),
            Ok(Request::GetId) => {
                let room = (chain.writable() - 1).min(ID_SIZE);
                let fits = chain.write_at(0, &self.id[..room]);
                let status = if fits { Status::Ok } else { Status::IoError };
                return self.answer(queue, chain, status, room);
            }
            Ok(Request::Read { position, length }) => Task::read(queue, chain, position, length),
            Ok(Request::Write { position, length }) => {
                Task::write(queue, chain, position, length, self.durable_writes)
            }
            Ok(Request::Flush) => Task::sync(queue, chain),
            // No driver counts on what is read there afterwards.
            Ok(Request::Discard(_)) if self.keeps => return self.answer(queue, chain, Status::Ok, 0),
            Ok(Request::Discard(ranges)) => Task::discard(queue, chain, ranges),
            Ok(Request::WriteZeroes(ranges)) => Task::write_zeroes(queue, chain, ranges),
        };
        match self.at_once(&mut task) {
            Progress::More => {
                self.engine.submit(task);
                self.in_flight += 1;
                Ok(())
            }
            how => self.finish(Finished { task, how }),
        }
    }

    /// Does as much of a task as needs no waiting.
    fn at_once(&mut self, task: &mut Task) -> Progress {
        let file = self.image.as_fd();
        if self.image.in_memory() {
            return task.perform(file);
        }
        if task.is_read() {
            let Some(operation) = task.operation() else { return Progress::Done(Status::Ok) };
            return match operation.perform(file, libc::RWF_NOWAIT) {
                Ok(moved) if moved > 0 => task.advance(Ok(moved)),
                // Not in the page cache, or a file system that can't say: the engine finds out.
                _ => Progress::More,
            };
        }
        if task.is_write() && !self.durable_writes {
            let start = Instant::now();
            if self.slow_until.is_some_and(|end| start < end) {
                return Progress::More;
            }
            let how = task.perform(file);
            let now = Instant::now();
            self.slow_until = (now - start > SLOW_WRITE).then(|| now + SLOW_PERIOD);
            return how;
        }
        Progress::More
    }

    /// Takes what the engine has ended, and goes on with what had to wait for that.
    fn collect(&mut self) -> Result<(), QueueError> {
        while let Some(finished) = self.engine.finished() {
            self.in_flight -= 1;
            self.finish(finished)?;
        }
        if std::mem::take(&mut self.held_up) {
            for queue in &self.queues {
                queue.come_back();
            }
        }
        Ok(())
    }

    fn finish(&mut self, Finished { task, how }: Finished) -> Result<(), QueueError> {
        let status = match how {
            Progress::Done(status) => status,
            Progress::More => Status::IoError,
            Progress::Failed(e) => {
                self.keeps |= !task.is_read();
                self.complain(&e);
                Status::IoError
            }
        };
        let written = match status {
            Status::Ok if task.is_read() => task.chain.writable() - 1,
            _ => 0,
        };
        let large = task.chain.readable().max(task.chain.writable()) >= LARGE;
        self.answer(task.queue, task.chain, status, written)?;
        match self.queues.get_mut(task.queue) {
            Some(queue) if large => queue.announce(),
            _ => Ok(()),
        }
    }

    /// Hands a chain back, with its last byte set. `written` bytes were written before the status byte; what
    /// lies between counts as not written, and so does then the status byte (virtio 1.2, 2.7.8.2).
    fn answer(
        &mut self,
        queue: usize,
        chain: Chain,
        status: Status,
        written: usize,
    ) -> Result<(), QueueError> {
        let last = chain.writable() - 1;
        // There is room for it, as `begin` has seen.
        let _ = chain.write_at(last, &[status as u8]);
        // At most what the chain holds, which is below 4 GiB.
        let length = if written == last { last + 1 } else { written } as u32;
        match self.queues.get_mut(queue) {
            Some(queue) => {
                if status != Status::Ok {
                    queue.count_errors(1);
                }
                queue.push(chain, length)
            }
            None => Ok(()),
        }
    }

    fn complain(&mut self, error: &io::Error) {
        self.failures = self.failures.saturating_add(1);
        if self.failures <= LOGGED_FAILURES {
            let id = String::from_utf8_lossy(&self.id);
            log::warn!("disk {}: {error}; the guest gets an I/O error", id.trim_end_matches('\0'));
        }
    }

    fn announce(&mut self) -> Result<(), QueueError> {
        self.queues.iter_mut().try_for_each(Queue::announce)
    }
}

impl Device for Blk {
    fn kind(&self) -> DeviceKind {
        DeviceKind(2)
    }

    fn features(&self) -> u64 {
        let mut features = SEG_MAX | BLK_SIZE | FLUSH | TOPOLOGY;
        if self.queue_count > 1 {
            features |= MQ;
        }
        features | if self.image.read_only() { RO } else { DISCARD | WRITE_ZEROES }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.queue_count)]
    }

    /// A driver without MQ knows the first only, and one with fewer CPUs than queues uses fewer.
    fn needed_queues(&self) -> usize {
        1
    }

    /// virtio 1.2, 5.2.4; the fields of features that are not offered are zero.
    fn config(&self) -> Vec<u8> {
        let mut config = Vec::with_capacity(60);
        config.extend(self.image.sectors().to_le_bytes());
        config.extend(0u32.to_le_bytes()); // size_max
        config.extend(MAX_PIECES.to_le_bytes());
        config.extend([0; 4]); // geometry
        config.extend((SECTOR as u32).to_le_bytes()); // blk_size
        config.extend([BLOCK_EXPONENT, 0]); // physical_block_exp, alignment_offset
        config.extend((1u16 << BLOCK_EXPONENT).to_le_bytes()); // min_io_size
        config.extend(0u32.to_le_bytes()); // opt_io_size
        config.extend([0, 0]); // writeback, unused
        config.extend(self.queue_count.to_le_bytes());
        config.extend(MAX_RANGE_SECTORS.to_le_bytes()); // max_discard_sectors
        config.extend((MAX_RANGES as u32).to_le_bytes()); // max_discard_seg
        config.extend((1u32 << BLOCK_EXPONENT).to_le_bytes()); // discard_sector_alignment
        config.extend(MAX_RANGE_SECTORS.to_le_bytes()); // max_write_zeroes_sectors
        config.extend((MAX_RANGES as u32).to_le_bytes()); // max_write_zeroes_seg
        config.extend([1, 0, 0, 0]); // write_zeroes_may_unmap, unused
        config
    }

    fn activate(&mut self, live: Activation, events: &mut EventOps) -> io::Result<()> {
        self.queues = live.queues;
        self.durable_writes = live.features & FLUSH == 0;
        events.add(Events::with_data(&self.engine, ENGINE, EventSet::IN)).map_err(io::Error::other)
    }

    fn queue_ready(&mut self, queue: usize, _: &mut EventOps) -> Result<(), QueueError> {
        let result = self.serve(queue);
        self.engine.start();
        result?;
        // What io_uring could do at once has ended already.
        self.collect()?;
        self.announce()
    }

    fn event(&mut self, _: Events, _: &mut EventOps) -> Result<(), QueueError> {
        self.collect()?;
        self.announce()
    }

    fn reset(&mut self, events: &mut EventOps) {
        self.engine.drain();
        self.in_flight = 0;
        self.held_up = false;
        self.keeps = false;
        // Fails when it was never activated.
        let _ = events.remove(Events::empty(&self.engine));
        self.queues.clear();
    }
}

#[cfg(test)]
mod tests;
