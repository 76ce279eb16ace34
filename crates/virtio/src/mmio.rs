//! The virtio-mmio transport (virtio 1.2, 4.2.2): a device's registers, as the vCPUs see them.

mod interrupt;
mod window;

use std::sync::{
    Arc,
    atomic::Ordering,
    mpsc::{SyncSender, sync_channel},
};

use virtio_bindings::{
    virtio_config::{
        VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
        VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
    },
    virtio_mmio::*,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};
use virtio_queue::{Queue as Ring, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use crate::{Activation, Counters, DeviceKind, Memory, Queue, worker::Command};
use interrupt::Call;
pub(crate) use interrupt::Interrupt;
pub use interrupt::{ConfigSpace, Signal};
pub use window::{Window, Windows};

/// The size of a device's register window, in bytes.
pub const MMIO_SIZE: u64 = 0x1000;

/// Where in the window the driver writes a queue's index to notify the device.
pub const NOTIFY_OFFSET: u64 = VIRTIO_MMIO_QUEUE_NOTIFY as u64;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VENDOR: u32 = u32::from_le_bytes(*b"nofr");
const CONFIG: u64 = VIRTIO_MMIO_CONFIG as u64;

/// Where the driver acknowledges interrupts, and the value that says: used buffers.
///
/// The device needs to know nothing of it (see [`Transport::read`]), so a VMM can let the kernel swallow such a
/// write: an exit less in every interrupt.
pub const ACKNOWLEDGE: (u64, u32) = (VIRTIO_MMIO_INTERRUPT_ACK as u64, VIRTIO_MMIO_INT_VRING);

// Registers of nofear's own, where the specification has none: a driver that finds 1 in the first may have its
// interrupts by a message ([`Signal::Message`]), whose parts it writes to the others. The data counts, with what was
// written of the address before; a reset goes back to the line.
const MESSAGE: u32 = 0xd0;
const MESSAGE_ADDRESS_LOW: u32 = 0xd4;
const MESSAGE_ADDRESS_HIGH: u32 = 0xd8;
const MESSAGE_DATA: u32 = 0xdc;

/// Features of the transport and the ring that every device offers.
const COMMON: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// What a device says of itself, and its ends of the connection to its worker.
pub(crate) struct Setup {
    pub kind: DeviceKind,
    pub features: u64,
    pub queue_sizes: Vec<u16>,
    pub needed_queues: usize,
    pub memory: Memory,
    pub interrupt: Interrupt,
    pub kicks: Vec<Arc<EventFd>>,
    pub commands: SyncSender<Command>,
    pub wake: EventFd,
    pub counters: Arc<Counters>,
}

/// A device's registers. Belongs to the vCPUs; the device runs elsewhere.
pub struct Transport {
    kind: DeviceKind,
    features: u64,
    needed_queues: usize,
    memory: Memory,
    interrupt: Interrupt,
    kicks: Vec<Arc<EventFd>>,
    /// Gone only while the transport is dropped, so that the worker sees the end.
    commands: Option<SyncSender<Command>>,
    wake: EventFd,
    counters: Arc<Counters>,
    state: State,
    window: Option<Arc<Window>>,
}

/// What the driver has written: plain data.
#[derive(Debug)]
struct State {
    status: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    message_address: u64,
    queues: Vec<Ring>,
    active: bool,
}

impl State {
    /// As after a reset; the queues are those of the device.
    fn new(queues: Vec<Ring>) -> Self {
        Self {
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            message_address: 0,
            queues,
            active: false,
        }
    }
}

impl Transport {
    pub(crate) fn new(setup: Setup) -> Self {
        // A size that is no power of two is a mistake of the device's author; it reads as an absent queue.
        let queues = setup.queue_sizes.iter().map(|&size| Ring::new(size).unwrap_or_default()).collect();
        Self {
            kind: setup.kind,
            features: setup.features | COMMON,
            needed_queues: setup.needed_queues,
            memory: setup.memory,
            interrupt: setup.interrupt,
            kicks: setup.kicks,
            commands: Some(setup.commands),
            wake: setup.wake,
            counters: setup.counters,
            state: State::new(queues),
            window: None,
        }
    }

    /// Keeps in `window` what the guest would [`read`](Self::read), so that it can read there, from now on.
    ///
    /// With one difference: InterruptStatus always says that buffers were used. A driver that is interrupted then
    /// looks at its rings, as it would anyway, and the device need not know that it did.
    pub fn show(&mut self, window: Window) {
        let window = Arc::new(window);
        for register in [
            VIRTIO_MMIO_MAGIC_VALUE,
            VIRTIO_MMIO_VERSION,
            VIRTIO_MMIO_DEVICE_ID,
            VIRTIO_MMIO_VENDOR_ID,
            VIRTIO_MMIO_SHM_LEN_LOW,
            VIRTIO_MMIO_SHM_LEN_HIGH,
            VIRTIO_MMIO_SHM_BASE_LOW,
            VIRTIO_MMIO_SHM_BASE_HIGH,
            MESSAGE,
        ] {
            window.set(register, self.register(register));
        }
        self.interrupt.show(window.clone());
        self.window = Some(window);
        self.refresh();
    }

    /// Shows what a write may have changed.
    fn refresh(&self) {
        let Some(window) = &self.window else { return };
        for register in [VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY] {
            window.set(register, self.register(register));
        }
        self.interrupt.show_status(self.state.status);
    }

    /// Signalled when the driver is to be interrupted, unless [`interrupt_by`](Self::interrupt_by) said otherwise; for
    /// an edge-triggered line.
    pub fn interrupt(&self) -> &EventFd {
        &self.interrupt.0.line
    }

    /// Has `call` called when the driver is to be interrupted, from the device's threads and, where it was set up
    /// wrongly, from the vCPUs': it raises the line and lowers it, or sends the message. A VMM that can do so from
    /// there spares what an event descriptor would have to wake. Counts once.
    pub fn interrupt_by(&mut self, call: impl Fn(Signal) + Send + Sync + 'static) {
        let _ = self.interrupt.0.call.set(Call(Box::new(call)));
        if let Some(window) = &self.window {
            window.set(MESSAGE, self.register(MESSAGE));
        }
    }

    /// One event descriptor for each queue: a write of queue `i`'s index to [`NOTIFY_OFFSET`] may signal
    /// number `i` directly.
    pub fn kicks(&self) -> impl ExactSizeIterator<Item = &EventFd> {
        self.kicks.iter().map(|kick| &**kick)
    }

    /// What the device does, counted by its queues.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The guest reads `data.len()` bytes at `offset` of the window. What no register answers reads as
    /// zero.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(at) = offset.checked_sub(CONFIG) {
            self.interrupt.0.shown().config(at, data);
        } else if let (Ok(register), 4) = (u32::try_from(offset), data.len()) {
            data.copy_from_slice(&self.register(register).to_le_bytes());
        }
    }

    fn register(&self, register: u32) -> u32 {
        match register {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => 2,
            VIRTIO_MMIO_DEVICE_ID => self.kind.0,
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => half(self.features, self.state.device_features_select),
            VIRTIO_MMIO_QUEUE_NUM_MAX => self.queue().map_or(0, |q| u32::from(q.max_size())),
            VIRTIO_MMIO_QUEUE_READY => self.queue().map_or(0, |q| u32::from(q.ready())),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.take_status(),
            VIRTIO_MMIO_CONFIG_GENERATION => self.interrupt.0.shown().generation,
            VIRTIO_MMIO_STATUS => self.state.status | self.interrupt.0.needs_reset.load(Ordering::Acquire),
            // No shared memory regions: their length reads as all ones (4.2.2).
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            // Only where somebody sends it.
            MESSAGE => u32::from(self.interrupt.0.call.get().is_some()),
            _ => 0,
        }
    }

    /// The guest writes `data` at `offset` of the window. What no register takes is ignored.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(register), Ok(value)) = (u32::try_from(offset), data.try_into()) {
            self.set_register(register, u32::from_le_bytes(value));
            self.refresh();
        }
    }

    fn set_register(&mut self, register: u32, value: u32) {
        match register {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.state.device_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.state.driver_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES if !self.has(VIRTIO_CONFIG_S_FEATURES_OK) => {
                let mask = match self.state.driver_features_select {
                    0 => u64::from(u32::MAX),
                    1 => !u64::from(u32::MAX),
                    _ => return,
                };
                let value = u64::from(value) | u64::from(value) << 32;
                self.state.driver_features = self.state.driver_features & !mask | value & mask;
            }
            VIRTIO_MMIO_QUEUE_SEL => self.state.queue_select = value,
            VIRTIO_MMIO_QUEUE_NOTIFY => {
                // Only reached when the VMM did not wire the write to the event descriptor.
                if let Some(kick) = usize::try_from(value).ok().and_then(|q| self.kicks.get(q)) {
                    let _ = kick.write(1);
                }
            }
            VIRTIO_MMIO_INTERRUPT_ACK => {
                self.interrupt.0.status.fetch_and(!value, Ordering::AcqRel);
            }
            VIRTIO_MMIO_STATUS => self.set_status(value),
            MESSAGE_ADDRESS_LOW | MESSAGE_ADDRESS_HIGH => {
                let (kept, shift) =
                    if register == MESSAGE_ADDRESS_LOW { (!0 << 32, 0) } else { (!0 >> 32, 32) };
                self.state.message_address = self.state.message_address & kept | u64::from(value) << shift;
            }
            MESSAGE_DATA => {
                // Interrupt controllers are below 4 GiB; to what is above there is no message, but the line.
                let address = u32::try_from(self.state.message_address).ok();
                self.interrupt.set_message(address.map(|address| (address, value)));
            }
            _ if self.has(VIRTIO_CONFIG_S_FEATURES_OK) && !self.state.active => {
                self.set_queue(register, value)
            }
            _ => {}
        }
    }

    /// Writes to the selected queue's registers; only between feature negotiation and DRIVER_OK.
    fn set_queue(&mut self, register: u32, value: u32) {
        let queue = usize::try_from(self.state.queue_select).ok();
        let Some(queue) = queue.and_then(|q| self.state.queues.get_mut(q)) else { return };
        // A size or an address that the ring can't have leaves the queue as it was.
        let low = |address: u64| GuestAddress(address & !0xffff_ffff | u64::from(value));
        let high = |address: u64| GuestAddress(address & 0xffff_ffff | u64::from(value) << 32);
        let (table, available, used) = (queue.desc_table(), queue.avail_ring(), queue.used_ring());
        let _ = match register {
            VIRTIO_MMIO_QUEUE_NUM => queue.try_set_size(u16::try_from(value).unwrap_or(0)),
            VIRTIO_MMIO_QUEUE_DESC_LOW => queue.try_set_desc_table_address(low(table)),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.try_set_desc_table_address(high(table)),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.try_set_avail_ring_address(low(available)),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.try_set_avail_ring_address(high(available)),
            VIRTIO_MMIO_QUEUE_USED_LOW => queue.try_set_used_ring_address(low(used)),
            VIRTIO_MMIO_QUEUE_USED_HIGH => queue.try_set_used_ring_address(high(used)),
            VIRTIO_MMIO_QUEUE_READY => {
                queue.set_ready(value == 1);
                Ok(())
            }
            _ => Ok(()),
        };
    }

    /// The driver's walk through initialisation (3.1.1): bits are only ever added, in order; zero resets.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let added = value & !self.state.status;
        if value & self.state.status != self.state.status {
            return;
        }
        self.state.status |=
            added & (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FAILED);
        if added & VIRTIO_CONFIG_S_FEATURES_OK != 0 && self.has(VIRTIO_CONFIG_S_DRIVER) && self.acceptable() {
            self.state.status |= VIRTIO_CONFIG_S_FEATURES_OK;
        }
        if added & VIRTIO_CONFIG_S_DRIVER_OK != 0 && self.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            self.state.status |= VIRTIO_CONFIG_S_DRIVER_OK;
            self.activate();
        }
    }

    fn has(&self, bit: u32) -> bool {
        self.state.status & bit != 0
    }

    /// Only what was offered, and the modern interface (6.1).
    fn acceptable(&self) -> bool {
        let chosen = self.state.driver_features;
        chosen & !self.features == 0 && chosen & 1 << VIRTIO_F_VERSION_1 != 0
    }

    fn activate(&mut self) {
        let event_index = self.state.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let mut queues = Vec::with_capacity(self.state.queues.len());
        for (ring, kick) in self.state.queues.iter_mut().zip(&self.kicks) {
            if !ring.ready() && queues.len() >= self.needed_queues {
                break;
            }
            ring.set_event_idx(event_index);
            if !ring.ready() || !ring.is_valid(&*self.memory) {
                self.interrupt.needs_reset();
                return;
            }
            let (interrupt, counters) = (self.interrupt.clone(), self.counters.clone());
            let Some(queue) = Queue::new(ring, &self.memory, interrupt, kick.clone(), counters) else {
                self.interrupt.needs_reset();
                return;
            };
            queues.push(queue);
        }
        self.state.active = true;
        self.send(Command::Activate(Activation {
            features: self.state.driver_features,
            queues,
            memory: self.memory.clone(),
            config: ConfigSpace::of(self.interrupt.clone()),
        }));
    }

    fn reset(&mut self) {
        if std::mem::take(&mut self.state.active) {
            let (done, wait) = sync_channel(1);
            self.send(Command::Reset(done));
            // The driver takes its memory back when this write returns (2.4). An error means that the
            // worker has ended, and then nothing touches that memory either.
            let _ = wait.recv();
        }
        for queue in &mut self.state.queues {
            queue.reset();
        }
        self.interrupt.0.status.store(0, Ordering::Release);
        self.interrupt.0.needs_reset.store(0, Ordering::Release);
        self.interrupt.set_message(None);
        let queues = std::mem::take(&mut self.state.queues);
        self.state = State::new(queues);
    }

    fn send(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // Fails when the worker has ended: the device is dead, as the guest will notice.
            let _ = commands.send(command);
            let _ = self.wake.write(1);
        }
    }

    fn queue(&self) -> Option<&Ring> {
        self.state.queues.get(usize::try_from(self.state.queue_select).ok()?)
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.wake.write(1);
    }
}

/// Which half of the 64 feature bits the driver has selected.
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
