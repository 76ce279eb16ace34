//! virtio device 9: carries 9P messages between a guest and a [`ninep::Server`].
//!
//! One queue; a request is the readable part of a chain, its reply goes to the writable part. File data is
//! read straight into the guest's pages, and written straight from them. The device type is reserved by the
//! specification (virtio 1.2, 5); its configuration space and its one feature are those of Linux's `virtio_9p.h`.
//!
//! What the host can answer at once is answered by the device's own thread; what may wait for the host's disk goes
//! to a few others ([`NineP::start_threads`]), so that one slow request does not hold up the rest. Or the server is in a
//! process of its own ([`NineP::apart`]): then requests and file data are copied once more.
//!
//! ```
//! use ninep::{ExportBuilder, Limits, Server};
//! use nofear_virtio_9p::NineP;
//!
//! let export = ExportBuilder::new().directory("/", "/usr/share")?.open()?;
//! let mut device = NineP::new("share", Server::new(export, Limits::default()))?;
//! device.start_threads("share", || true)?;
//! let (transport, worker) = virtio::connect(device, virtio_memory())?;
//! # fn virtio_memory() -> virtio::Memory { virtio::testing::memory() }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod apart;
mod message;
#[cfg(feature = "record")]
mod record;

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
    time::{Duration, Instant},
};

use ninep::{Limits, Server, wire::kind};
use virtio::{Activation, Chain, Device, DeviceKind, EventOps, EventSet, Events, Pool, Queue, QueueError};

pub use apart::Servant;
use apart::{Lost, Remote};
use message::{Head, Outcome, serve, serve_at_once};

/// As many requests in flight as the Linux client sends.
const QUEUE_SIZE: u16 = 128;

/// VIRTIO_9P_MOUNT_TAG: the configuration space holds a tag.
const FEATURE_MOUNT_TAG: u64 = 1;

/// The longest mount tag, in bytes.
pub const MAX_TAG: usize = 36;

/// Threads for what may wait: reads of what is not in the page cache, mostly.
const THREADS: usize = 2;

/// Data of the descriptor in the event loop that tells of what was done elsewhere.
const WORK: u32 = 0;

/// A write into the page cache takes microseconds, unless the host makes the writer wait for its disk.
const SLOW_WRITE: Duration = Duration::from_millis(1);

/// After a slow write, others go to the pool for this long.
const SLOW_PERIOD: Duration = Duration::from_secs(1);

/// Why a device can't be made.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    /// The mount tag is empty or too long.
    #[error("mount tag {0:?}: not 1 to {MAX_TAG} bytes")]
    Tag(String),
    /// No more descriptors.
    #[error("make a descriptor for a 9P device's threads")]
    Descriptor(#[source] io::Error),
}

/// The device.
pub struct NineP {
    tag: String,
    work: Work,
    queue: Option<Queue>,
    /// The tags of what is under way elsewhere.
    under_way: Vec<u16>,
    /// Tflushes, each with the tag of the request that it waits for.
    flushes: Vec<(u16, Chain)>,
    /// Whether requests were left in the queue because too many are under way.
    held_up: bool,
    #[cfg(feature = "record")]
    recording: Option<record::Recording>,
}

/// Who serves requests.
enum Work {
    /// This process.
    Here(Here),
    /// Another.
    Apart(Remote),
}

/// The device's own thread, and a few others for what may have to wait.
struct Here {
    server: Arc<Server>,
    /// The request in hand, whole: its place is kept from one to the next.
    request: Vec<u8>,
    pool: Pool<Slow, Served>,
    /// Until when writes go to the pool.
    slow_until: Option<Instant>,
}

/// A request that may have to wait for the host.
struct Slow {
    tag: u16,
    chain: Chain,
}

/// The same, with its reply in place.
struct Served {
    tag: u16,
    chain: Chain,
    outcome: Outcome,
}

impl Here {
    fn new(server: Server) -> io::Result<Self> {
        let server = Arc::new(server);
        let pool = Pool::new({
            let server = server.clone();
            move |Slow { tag, chain }| {
                let outcome = serve(&server, &chain, &mut Vec::new());
                Served { tag, chain, outcome }
            }
        })?;
        Ok(Self { server, request: Vec::new(), pool, slow_until: None })
    }

    /// Serves a request; none: it had better go to the pool.
    fn serve(&mut self, kind: u8, chain: &Chain) -> Option<Outcome> {
        match kind {
            kind::TFSYNC => None,
            kind::TREAD => serve_at_once(&self.server, chain, &mut self.request),
            kind::TWRITE => {
                let start = Instant::now();
                if self.slow_until.is_some_and(|end| start < end) {
                    return None;
                }
                let outcome = serve(&self.server, chain, &mut self.request);
                let now = Instant::now();
                self.slow_until = (now - start > SLOW_WRITE).then(|| now + SLOW_PERIOD);
                Some(outcome)
            }
            _ => Some(serve(&self.server, chain, &mut self.request)),
        }
    }
}

fn check_tag(tag: &str) -> Result<(), NewError> {
    if tag.is_empty() || tag.len() > MAX_TAG { Err(NewError::Tag(tag.into())) } else { Ok(()) }
}

impl From<Lost> for QueueError {
    fn from(Lost: Lost) -> Self {
        Self::Ended("the share's server")
    }
}

impl Work {
    fn submit(&mut self, tag: u16, chain: Chain) -> Result<(), Lost> {
        match self {
            Self::Here(here) => here.pool.submit(Slow { tag, chain }),
            Self::Apart(remote) => remote.submit(tag, chain)?,
        }
        Ok(())
    }

    fn finished(&mut self) -> Result<Option<Served>, Lost> {
        match self {
            Self::Here(here) => Ok(here.pool.finished()),
            Self::Apart(remote) => remote.finished(),
        }
    }

    /// Whether no more is to be expected of it.
    fn is_done(&self) -> bool {
        match self {
            Self::Here(_) => false,
            Self::Apart(remote) => remote.is_done(),
        }
    }

    /// Until nothing is under way.
    fn wait(&mut self) -> Result<(), Lost> {
        match self {
            Self::Here(here) => here.pool.wait(),
            Self::Apart(remote) => remote.wait()?,
        }
        Ok(())
    }

    /// Forgets the session, and what is under way.
    fn reset(&mut self) {
        match self {
            Self::Here(here) => {
                here.pool.drain();
                here.request = Vec::new();
                here.server.reset();
            }
            // One that is lost has nothing of it either.
            Self::Apart(remote) => drop(remote.reset()),
        }
    }
}

impl AsRawFd for Work {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Here(here) => here.pool.as_raw_fd(),
            Self::Apart(remote) => remote.socket().as_raw_fd(),
        }
    }
}

impl NineP {
    /// A device that a guest mounts by `tag`.
    ///
    /// # Errors
    ///
    /// The tag is empty or longer than [`MAX_TAG`] bytes, or there is no descriptor left.
    pub fn new(tag: &str, server: Server) -> Result<Self, NewError> {
        check_tag(tag)?;
        Ok(Self::with(tag, Work::Here(Here::new(server).map_err(NewError::Descriptor)?)))
    }

    /// The same, without the server, which is for another process: fork, call [`Servant::serve`] there, and drop the
    /// servant here. `limits` are the server's. `lost` is called when that process ends before the device.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new), and when there is no room in the address space.
    pub fn apart(
        tag: &str,
        limits: Limits,
        lost: impl FnOnce() + Send + 'static,
    ) -> Result<(Self, Servant), NewError> {
        check_tag(tag)?;
        let (remote, servant) = apart::pair(limits.msize, Box::new(lost)).map_err(NewError::Descriptor)?;
        Ok((Self::with(tag, Work::Apart(remote)), servant))
    }

    fn with(tag: &str, work: Work) -> Self {
        Self {
            tag: tag.into(),
            work,
            queue: None,
            under_way: Vec::new(),
            flushes: Vec::new(),
            held_up: false,
            #[cfg(feature = "record")]
            recording: record::Recording::of(tag),
        }
    }

    /// Starts the threads that wait for the host, named after `name`. Each calls `enter` first, to confine itself,
    /// and ends if that says no. Without threads the device's own thread waits. A server that is apart has its own.
    ///
    /// # Errors
    ///
    /// A thread can't be started.
    pub fn start_threads(
        &mut self,
        name: &str,
        enter: impl Fn() -> bool + Clone + Send + 'static,
    ) -> io::Result<()> {
        match &mut self.work {
            Work::Here(here) => here.pool.start(name, THREADS, enter),
            Work::Apart(_) => Ok(()),
        }
    }

    fn begin(&mut self, chain: Chain) -> Result<(), QueueError> {
        #[cfg(feature = "record")]
        self.recording.iter_mut().for_each(|recording| recording.add(&chain));
        // The driver can change its memory between this look and the next one. Then a request is served here that
        // had better waited elsewhere, or the other way round.
        let head = Head::of(&chain);
        match head.kind {
            // A new session: nothing of the old one may be under way, nor of the new one before it has begun.
            kind::TVERSION => {
                self.settle()?;
                self.serve(&head, chain)?;
                self.settle()
            }
            // Once it is answered, the client may use the old request's tag and memory for another.
            kind::TFLUSH if self.under_way.contains(&head.old_tag) => {
                self.flushes.push((head.old_tag, chain));
                Ok(())
            }
            _ => self.serve(&head, chain),
        }
    }

    /// Waits until nothing is under way.
    fn settle(&mut self) -> Result<(), QueueError> {
        loop {
            self.work.wait()?;
            // It may go on with what has waited for that.
            self.collect()?;
            if self.under_way.is_empty() {
                return Ok(());
            }
        }
    }

    /// Serves a request, or gives it to who does.
    fn serve(&mut self, head: &Head, chain: Chain) -> Result<(), QueueError> {
        let outcome = match &mut self.work {
            Work::Here(here) => here.serve(head.kind, &chain),
            Work::Apart(_) => None,
        };
        match outcome {
            Some(outcome) => self.answer(chain, outcome),
            None => {
                self.under_way.push(head.tag);
                Ok(self.work.submit(head.tag, chain)?)
            }
        }
    }

    /// Hands back what was done, and goes on with who waited for that.
    fn collect(&mut self) -> Result<(), QueueError> {
        while let Some(Served { tag, chain, outcome }) = self.work.finished()? {
            if let Some(at) = self.under_way.iter().position(|other| *other == tag) {
                self.under_way.swap_remove(at);
            }
            self.answer(chain, outcome)?;
            // What comes unasked is an event of its own: a system call less for most messages.
            if self.work.is_done() {
                break;
            }
        }
        let under_way = &self.under_way;
        let free: Vec<_> = self.flushes.extract_if(.., |(old, _)| !under_way.contains(old)).collect();
        for (_, chain) in free {
            let head = Head::of(&chain);
            self.serve(&head, chain)?;
        }
        if std::mem::take(&mut self.held_up)
            && let Some(queue) = &self.queue
        {
            queue.come_back();
        }
        Ok(())
    }

    fn answer(&mut self, chain: Chain, outcome: Outcome) -> Result<(), QueueError> {
        let Some(queue) = &mut self.queue else { return Ok(()) };
        if outcome.failed {
            queue.count_errors(1);
        }
        // At most what the chain holds, which is below 4 GiB.
        queue.push(chain, outcome.length as u32)
    }

    fn announce(&mut self) -> Result<(), QueueError> {
        self.queue.as_mut().map_or(Ok(()), Queue::announce)
    }
}

impl Device for NineP {
    fn kind(&self) -> DeviceKind {
        DeviceKind(9)
    }

    fn features(&self) -> u64 {
        FEATURE_MOUNT_TAG
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn config(&self) -> Vec<u8> {
        let mut config = (self.tag.len() as u16).to_le_bytes().to_vec();
        config.extend(self.tag.as_bytes());
        config
    }

    fn activate(&mut self, mut live: Activation, events: &mut EventOps) -> io::Result<()> {
        self.queue = live.queues.pop();
        events.add(Events::with_data(&self.work, WORK, EventSet::IN)).map_err(io::Error::other)
    }

    fn queue_ready(&mut self, _: usize, _: &mut EventOps) -> Result<(), QueueError> {
        let size = self.queue.as_ref().map_or(0, Queue::size);
        // At most a ring's worth before the worker looks after its other events.
        for _ in 0..size {
            // A driver of good faith has no more than a ring's worth under way; another puts the same one in for ever.
            if self.under_way.len() + self.flushes.len() >= usize::from(QUEUE_SIZE) {
                self.held_up = true;
                return self.announce();
            }
            let Some(queue) = &mut self.queue else { return Ok(()) };
            let Some(chain) = queue.pop()? else { return self.announce() };
            self.begin(chain)?;
        }
        if let Some(queue) = &self.queue {
            queue.come_back();
        }
        self.announce()
    }

    fn event(&mut self, _: Events, _: &mut EventOps) -> Result<(), QueueError> {
        self.collect()?;
        self.announce()
    }

    fn reset(&mut self, events: &mut EventOps) {
        self.work.reset();
        self.under_way.clear();
        self.flushes.clear();
        self.held_up = false;
        // Fails when it was never activated.
        let _ = events.remove(Events::empty(&self.work));
        self.queue = None;
    }
}

#[cfg(test)]
mod tests;
