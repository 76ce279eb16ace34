//! What a device tells its driver: by the interrupt line, and by the registers that say why.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use virtio_bindings::{virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET, virtio_mmio::*};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::window::Window;

/// How a driver wants to be interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// By the device's line: an edge.
    Line,
    /// By a message to an interrupt controller, as a PCI device's MSI. The driver chose both numbers.
    Message {
        /// Where it is written to; of a local APIC, which CPU.
        address: u32,
        /// What is written; for a local APIC, which vector.
        data: u32,
    },
}

/// Interrupts the driver, from any of the device's threads.
pub(super) struct Call(pub Box<dyn Fn(Signal) + Send + Sync>);

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Call")
    }
}

/// A device's way to its driver: the interrupt line and the registers that say why.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(pub(super) Arc<Line>);

#[derive(Debug)]
pub(super) struct Line {
    pub line: EventFd,
    /// What is called in its place, once there is something.
    pub call: OnceLock<Call>,
    /// The message that the driver wants in place of the line: its address above its data, or zero. One value, since
    /// the vCPUs change it while the device interrupts.
    message: AtomicU64,
    /// InterruptStatus: bit 0 for used buffers, bit 1 for a change of configuration.
    pub status: AtomicU32,
    /// DEVICE_NEEDS_RESET or zero, part of Status.
    pub needs_reset: AtomicU32,
    /// Both the vCPUs and the device change it: the lock puts them in an order.
    shown: Mutex<Shown>,
}

/// What the driver reads that the device may change.
#[derive(Debug)]
pub(super) struct Shown {
    /// Where it reads, if not by an exit.
    window: Option<Arc<Window>>,
    /// The driver's part of Status.
    status: u32,
    /// The device-specific configuration, and the number of its changes (2.5.1).
    config: Vec<u8>,
    pub generation: u32,
}

impl Shown {
    /// What is read at this offset of the configuration.
    pub fn config(&self, offset: u64, data: &mut [u8]) {
        let from = self.config.iter().skip(offset.try_into().unwrap_or(usize::MAX));
        data.iter_mut().zip(from).for_each(|(byte, from)| *byte = *from);
    }

    fn count_change(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if let Some(window) = &self.window {
            window.set(VIRTIO_MMIO_CONFIG_GENERATION, self.generation);
        }
    }
}

impl Line {
    pub fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The device-specific configuration of a running device.
#[derive(Clone, Debug)]
pub struct ConfigSpace(Interrupt);

impl ConfigSpace {
    pub(super) fn of(interrupt: Interrupt) -> Self {
        Self(interrupt)
    }

    /// Changes some bytes of it, from `offset`, and tells the driver. What is beyond its end is left out.
    pub fn set(&self, offset: usize, bytes: &[u8]) {
        let mut shown = self.0.0.shown();
        // A driver that reads meanwhile sees one generation before and another after, whenever it looks.
        shown.count_change();
        shown.config.iter_mut().skip(offset).zip(bytes).for_each(|(byte, new)| *byte = *new);
        if let Some(window) = &shown.window {
            window.set_config(&shown.config);
        }
        shown.count_change();
        drop(shown);
        self.0.raise(VIRTIO_MMIO_INT_CONFIG);
    }
}

impl Interrupt {
    /// For a device with this configuration.
    pub(crate) fn new(config: Vec<u8>) -> io::Result<Self> {
        let line = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self(Arc::new(Line {
            line,
            call: OnceLock::new(),
            message: AtomicU64::new(0),
            status: AtomicU32::new(0),
            needs_reset: AtomicU32::new(0),
            shown: Mutex::new(Shown { window: None, status: 0, config, generation: 0 }),
        })))
    }

    pub(super) fn show(&self, window: Arc<Window>) {
        let mut shown = self.0.shown();
        window.set_config(&shown.config);
        shown.window = Some(window);
    }

    /// Shows the driver's part of Status, with the device's, and why it interrupts.
    pub(super) fn show_status(&self, status: u32) {
        self.refresh(Some(status));
    }

    fn refresh(&self, status: Option<u32>) {
        let mut shown = self.0.shown();
        if let Some(status) = status {
            shown.status = status;
        }
        if let Some(window) = &shown.window {
            window.set(VIRTIO_MMIO_STATUS, shown.status | self.0.needs_reset.load(Ordering::Acquire));
            let why = self.0.status.load(Ordering::Acquire) | VIRTIO_MMIO_INT_VRING;
            window.set(VIRTIO_MMIO_INTERRUPT_STATUS, why);
        }
    }

    /// InterruptStatus, for a driver that reads it. That buffers were used is told once: a driver looks at its
    /// rings after it has read this, so the next buffers are the next interrupt's. A change of configuration
    /// stays until it is acknowledged.
    pub(super) fn take_status(&self) -> u32 {
        self.0.status.fetch_and(!VIRTIO_MMIO_INT_VRING, Ordering::AcqRel)
    }

    /// The driver wants this message; none, or one to address zero: it wants the line.
    pub(super) fn set_message(&self, message: Option<(u32, u32)>) {
        let (address, data) = message.unwrap_or_default();
        self.0.message.store(u64::from(address) << 32 | u64::from(data), Ordering::Release);
    }

    fn signal(&self) -> Signal {
        let message = self.0.message.load(Ordering::Acquire);
        match (message >> 32) as u32 {
            0 => Signal::Line,
            address => Signal::Message { address, data: message as u32 },
        }
    }

    /// Buffers were used.
    pub(crate) fn used(&self) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    /// The device can't go on (2.1.2).
    pub(crate) fn needs_reset(&self) {
        self.0.needs_reset.store(VIRTIO_CONFIG_S_NEEDS_RESET, Ordering::Release);
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    fn raise(&self, why: u32) {
        self.0.status.fetch_or(why, Ordering::AcqRel);
        if why != VIRTIO_MMIO_INT_VRING {
            self.refresh(None);
        }
        match self.0.call.get() {
            Some(Call(call)) => call(self.signal()),
            // Fails only when the counter is full, and then the line is raised anyway.
            None => drop(self.0.line.write(1)),
        }
    }
}
