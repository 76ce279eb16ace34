//! The thread of a device: waits for the driver, the transport and the device's own descriptors.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::{
    Activation, Counters, Device, Memory, QueueError, Transport,
    mmio::{Interrupt, Setup},
};

/// Data of the worker's own descriptors; the device's stay below.
const COMMAND: u32 = 1 << 16;
const FIRST_KICK: u32 = COMMAND + 1;

/// How many failures of one device are logged: a guest can cause them at will.
const LOGGED_FAILURES: u32 = 8;

/// From the transport to the device's thread.
pub(crate) enum Command {
    Activate(Activation),
    /// Answered when the device has let go of guest memory.
    Reset(SyncSender<()>),
}

/// Makes the two halves of a device: the transport for the vCPUs, and the worker for a thread of its own.
///
/// # Errors
///
/// No more event descriptors.
pub fn connect<D: Device>(device: D, memory: Memory) -> io::Result<(Transport, Worker<D>)> {
    let sizes = device.queue_sizes();
    let kicks = sizes
        .iter()
        .map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map(Arc::new))
        .collect::<io::Result<Vec<_>>>()?;
    let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
    let interrupt = Interrupt::new(device.config())?;
    let counters = Arc::new(Counters::default());
    let (commands, inbox) = sync_channel(4);
    let setup = Setup {
        kind: device.kind(),
        features: device.features(),
        needed_queues: device.needed_queues(),
        queue_sizes: sizes,
        memory,
        interrupt: interrupt.clone(),
        kicks: kicks.clone(),
        commands,
        wake: wake.try_clone()?,
        counters: counters.clone(),
    };
    let (live, stop, failures) = (false, false, 0);
    let worker = Worker { device, kicks, wake, inbox, interrupt, counters, live, stop, failures };
    Ok((Transport::new(setup), worker))
}

/// A device and what it waits for. [`run`](Self::run) is the body of its thread.
pub struct Worker<D> {
    device: D,
    kicks: Vec<Arc<EventFd>>,
    wake: EventFd,
    inbox: Receiver<Command>,
    interrupt: Interrupt,
    counters: Arc<Counters>,
    live: bool,
    stop: bool,
    failures: u32,
}

/// Why a worker's thread ended.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The event loop failed.
    #[error("wait for a device's events")]
    Events(#[source] event_manager::Error),
}

impl<D: Device> Worker<D> {
    /// Serves the device until its [`Transport`] is dropped.
    ///
    /// # Errors
    ///
    /// The event loop could not be made, or failed.
    pub fn run(self) -> Result<(), Stopped> {
        let mut manager = EventManager::new_with_capacity(32).map_err(Stopped::Events)?;
        let id = manager.add_subscriber(self);
        loop {
            match manager.run() {
                Ok(_) => {}
                Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EINTR => {}
                Err(e) => return Err(Stopped::Events(e)),
            }
            if manager.subscriber_mut(id).map_err(Stopped::Events)?.stop {
                return Ok(());
            }
        }
    }

    fn obey(&mut self, ops: &mut EventOps) {
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Activate(activation)) => self.activate(activation, ops),
                Ok(Command::Reset(done)) => {
                    self.reset(ops);
                    // The vCPU that asked may be gone already, when the VM ends.
                    let _ = done.send(());
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => return,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                    self.reset(ops);
                    self.stop = true;
                    return;
                }
            }
        }
    }

    fn activate(&mut self, activation: Activation, ops: &mut EventOps) {
        self.live = true;
        match self.device.activate(activation, ops) {
            Ok(()) => {
                // Buffers may have been there before the driver was ready.
                for queue in 0..self.kicks.len() {
                    if self.live {
                        let result = self.device.queue_ready(queue, ops);
                        self.check(result, ops);
                    }
                }
            }
            Err(e) => {
                self.fail(&format_args!("can't start: {e}"), ops);
            }
        }
    }

    fn check(&mut self, result: Result<(), QueueError>, ops: &mut EventOps) {
        if let Err(QueueError::Ended(what)) = result {
            log::debug!("virtio device {}: {what} has ended", self.device.kind().0);
            self.give_up(ops);
        } else if let Err(e) = result {
            let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
            self.fail(&format_args!("{e}{cause}"), ops);
        }
    }

    fn fail(&mut self, why: &dyn std::fmt::Display, ops: &mut EventOps) {
        self.failures = self.failures.saturating_add(1);
        self.counters.add_errors(1);
        if self.failures <= LOGGED_FAILURES {
            log::warn!("virtio device {}: {why}; it needs a reset", self.device.kind().0);
        }
        self.give_up(ops);
    }

    fn give_up(&mut self, ops: &mut EventOps) {
        self.reset(ops);
        self.interrupt.needs_reset();
    }

    fn reset(&mut self, ops: &mut EventOps) {
        self.live = false;
        self.device.reset(ops);
    }
}

impl<D: Device> MutEventSubscriber for Worker<D> {
    fn init(&mut self, ops: &mut EventOps) {
        let watch = |ops: &mut EventOps, fd: &EventFd, data, set| {
            if let Err(e) = ops.add(Events::with_data(fd, data, set)) {
                log::error!("can't watch a device's notifications: {e}");
            }
        };
        watch(ops, &self.wake, COMMAND, EventSet::IN);
        // Each notification is an edge, so the counter need not be read: a system call less in every request.
        for (kick, data) in self.kicks.iter().zip(FIRST_KICK..) {
            watch(ops, kick, data, EventSet::IN | EventSet::EDGE_TRIGGERED);
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            COMMAND => {
                let _ = self.wake.read();
                self.obey(ops);
            }
            data if data >= FIRST_KICK => {
                let queue = (data - FIRST_KICK) as usize;
                if self.live {
                    let result = self.device.queue_ready(queue, ops);
                    self.check(result, ops);
                }
            }
            _ if self.live => {
                let result = self.device.event(events, ops);
                self.check(result, ops);
            }
            // An event of the same wake-up that came before the reset.
            _ => {}
        }
    }
}
