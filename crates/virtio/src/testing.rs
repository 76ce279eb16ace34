//! A driver for tests: lays out rings in guest memory and drives a [`Transport`] through its registers,
//! as a guest's kernel does. No KVM.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use virtio_bindings::{virtio_mmio::*, virtio_ring::*};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{Chain, Device, Memory, Transport, Worker, connect, ring::Piece};

/// Guest memory of a test driver, in bytes. Rings lie in the first half, buffers in the second.
pub const MEMORY_SIZE: usize = 16 << 20;

const RINGS: u64 = 0x1000;
const RING_STRIDE: u64 = 0x20000;
const BUFFERS: u64 = MEMORY_SIZE as u64 / 2;

/// A buffer of a request.
#[derive(Clone, Debug)]
pub enum Buffer<'a> {
    /// The device reads these bytes.
    Readable(&'a [u8]),
    /// The device may write so many bytes.
    Writable(u32),
}

/// A chain that the device handed back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// The chain's head, as [`Driver::add`] returned it.
    pub head: u16,
    /// How many bytes the device says it wrote.
    pub length: u32,
    /// The writable buffers, whole, one after the other.
    pub written: Vec<u8>,
}

/// A running device with its driver.
pub struct Driver {
    /// The device's registers.
    pub transport: Transport,
    /// The guest's memory.
    pub memory: Memory,
    queues: Vec<RingLayout>,
    buffers: u64,
    /// After the transport: without it the thread ends.
    _thread: Joined,
}

/// A thread that is waited for.
struct Joined(Option<JoinHandle<()>>);

impl Drop for Joined {
    fn drop(&mut self) {
        // A thread that panicked has said so.
        let _ = self.0.take().map(JoinHandle::join);
    }
}

struct RingLayout {
    base: u64,
    size: u16,
    free: Vec<u16>,
    /// By head.
    chains: Vec<InFlight>,
    available: u16,
    seen: u16,
}

#[derive(Clone, Default)]
struct InFlight {
    descriptors: Vec<u16>,
    /// Addresses and lengths.
    writable: Vec<(u64, u32)>,
}

impl RingLayout {
    fn available_ring(&self) -> u64 {
        self.base + u64::from(self.size) * 16
    }
    fn used_ring(&self) -> u64 {
        (self.available_ring() + 6 + u64::from(self.size) * 2).next_multiple_of(4096)
    }
}

/// Guest memory as [`Driver`] uses it.
pub fn memory() -> Memory {
    let ranges = [(GuestAddress(0), MEMORY_SIZE)];
    Memory::new(GuestMemoryMmap::from_ranges(&ranges).expect("16 MiB for a test"))
}

/// A chain of these buffers, one behind the other in the second half of `memory`, as a queue would give it
/// to its device.
pub fn chain(memory: &Memory, buffers: &[Buffer]) -> Chain {
    let (mut table, mut address) = (RINGS, BUFFERS);
    for (buffer, next) in buffers.iter().zip(1u16..) {
        let (length, mut flags) = match buffer {
            Buffer::Readable(bytes) => {
                memory.write_slice(bytes, GuestAddress(address)).expect("in memory");
                (bytes.len() as u32, 0)
            }
            Buffer::Writable(length) => (*length, VRING_DESC_F_WRITE),
        };
        if usize::from(next) < buffers.len() {
            flags |= VRING_DESC_F_NEXT;
        }
        let raw = descriptor(address, length, flags as u16, next);
        memory.write_slice(&raw, GuestAddress(table)).expect("in memory");
        table += 16;
        address += u64::from(length).next_multiple_of(16);
    }
    let size = buffers.len() as u16;
    let table = Piece::find(memory, GuestAddress(RINGS), 16 * buffers.len()).expect("in memory");
    Chain::walk(memory, table, size, 0, Vec::new()).expect("a sound chain")
}

fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> [u8; 16] {
    let raw =
        u128::from(address) | u128::from(length) << 64 | u128::from(flags) << 96 | u128::from(next) << 112;
    raw.to_le_bytes()
}

impl Driver {
    /// Starts `device` on a thread of its own and negotiates every feature it offers; its queues are set
    /// up at their full size.
    pub fn start<D: Device + 'static>(device: D) -> Self {
        Self::start_with(device, memory())
    }

    /// As [`start`](Self::start), in memory that the test made (at least [`MEMORY_SIZE`] from zero).
    pub fn start_with<D: Device + 'static>(device: D, memory: Memory) -> Self {
        Self::start_on(device, memory, |worker| worker.run().expect("a device's worker"))
    }

    /// As [`start_with`](Self::start_with); the device's thread runs `body`, which runs the worker.
    pub fn start_on<D: Device + 'static>(
        device: D,
        memory: Memory,
        body: impl FnOnce(Worker<D>) + Send + 'static,
    ) -> Self {
        let sizes = device.queue_sizes();
        let (transport, worker) = connect(device, memory.clone()).expect("descriptors for a device");
        let thread = Joined(Some(std::thread::spawn(move || body(worker))));
        let mut driver = Self { transport, memory, queues: Vec::new(), buffers: BUFFERS, _thread: thread };
        driver.initialise(&sizes);
        driver
    }

    /// Resets the device and sets it up anew, with rings of these sizes.
    pub fn initialise(&mut self, sizes: &[u16]) {
        self.set(VIRTIO_MMIO_STATUS, 0);
        for status in [1, 3] {
            self.set(VIRTIO_MMIO_STATUS, status);
        }
        for half in [0, 1] {
            self.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
            let offered = self.get(VIRTIO_MMIO_DEVICE_FEATURES);
            self.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
            self.set(VIRTIO_MMIO_DRIVER_FEATURES, offered);
        }
        self.set(VIRTIO_MMIO_STATUS, 11);
        assert_eq!(self.get(VIRTIO_MMIO_STATUS), 11, "the device accepts its own features");
        self.queues.clear();
        for (index, &size) in (0..).zip(sizes) {
            let base = RINGS + u64::from(index) * RING_STRIDE;
            self.memory.write_slice(&vec![0; RING_STRIDE as usize], GuestAddress(base)).expect("in memory");
            let ring = RingLayout {
                base,
                size,
                free: (0..size).rev().collect(),
                chains: vec![InFlight::default(); usize::from(size)],
                available: 0,
                seen: 0,
            };
            self.set(VIRTIO_MMIO_QUEUE_SEL, index);
            self.set(VIRTIO_MMIO_QUEUE_NUM, u32::from(size));
            for (register, address) in [
                (VIRTIO_MMIO_QUEUE_DESC_LOW, ring.base),
                (VIRTIO_MMIO_QUEUE_AVAIL_LOW, ring.available_ring()),
                (VIRTIO_MMIO_QUEUE_USED_LOW, ring.used_ring()),
            ] {
                self.set(register, address as u32);
            }
            self.set(VIRTIO_MMIO_QUEUE_READY, 1);
            self.queues.push(ring);
        }
        self.set(VIRTIO_MMIO_STATUS, 15);
    }

    /// Writes a register.
    pub fn set(&mut self, register: u32, value: u32) {
        self.transport.write(u64::from(register), &value.to_le_bytes());
    }

    /// Reads a register.
    pub fn get(&mut self, register: u32) -> u32 {
        let mut value = [0; 4];
        self.transport.read(u64::from(register), &mut value);
        u32::from_le_bytes(value)
    }

    /// Puts a request of these buffers into a queue and notifies the device; returns the chain's head.
    pub fn add(&mut self, queue: usize, buffers: &[Buffer]) -> u16 {
        let head = self.prepare(queue, buffers);
        self.publish(queue, head);
        head
    }

    /// Writes a request's descriptors, without making it available.
    pub fn prepare(&mut self, queue: usize, buffers: &[Buffer]) -> u16 {
        let indices: Vec<u16> = {
            let free = &mut self.queues[queue].free;
            let at = free.len().checked_sub(buffers.len()).expect("free descriptors");
            free.split_off(at).into_iter().rev().collect()
        };
        let mut writable = Vec::new();
        for (i, buffer) in buffers.iter().enumerate() {
            let (length, mut flags) = match buffer {
                Buffer::Readable(bytes) => (bytes.len() as u32, 0),
                Buffer::Writable(length) => (*length, VRING_DESC_F_WRITE),
            };
            let address = self.allocate(length);
            match buffer {
                Buffer::Readable(bytes) => {
                    self.memory.write_slice(bytes, GuestAddress(address)).expect("in memory");
                }
                Buffer::Writable(_) => writable.push((address, length)),
            }
            let next = indices.get(i + 1).copied();
            if next.is_some() {
                flags |= VRING_DESC_F_NEXT;
            }
            self.write_descriptor(queue, indices[i], address, length, flags as u16, next.unwrap_or(0));
        }
        let head = indices[0];
        self.queues[queue].chains[usize::from(head)] = InFlight { descriptors: indices, writable };
        head
    }

    /// Writes one raw descriptor.
    pub fn write_descriptor(
        &mut self,
        queue: usize,
        index: u16,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        let raw = descriptor(address, length, flags, next);
        let at = self.queues[queue].base + u64::from(index) * 16;
        self.memory.write_slice(&raw, GuestAddress(at)).expect("in memory");
    }

    /// Makes a chain available and notifies the device.
    pub fn publish(&mut self, queue: usize, head: u16) {
        let ring = &mut self.queues[queue];
        let at = ring.available_ring();
        let slot = at + 4 + u64::from(ring.available % ring.size) * 2;
        self.memory.write_obj(head, GuestAddress(slot)).expect("in memory");
        ring.available = ring.available.wrapping_add(1);
        // Interrupts for every used buffer: used_event is where the driver stands.
        self.memory.write_obj(ring.seen, GuestAddress(at + 4 + u64::from(ring.size) * 2)).expect("in memory");
        self.memory
            .store(ring.available, GuestAddress(at + 2), std::sync::atomic::Ordering::Release)
            .expect("in memory");
        self.set(VIRTIO_MMIO_QUEUE_NOTIFY, queue as u32);
    }

    /// The next chain that the device has handed back, if there is one.
    pub fn used(&mut self, queue: usize) -> Option<Used> {
        let ring = &mut self.queues[queue];
        let at = ring.used_ring();
        let index: u16 =
            self.memory.load(GuestAddress(at + 2), std::sync::atomic::Ordering::Acquire).expect("in memory");
        if index == ring.seen {
            return None;
        }
        let slot = at + 4 + u64::from(ring.seen % ring.size) * 8;
        let [head, length]: [u32; 2] = self.memory.read_obj(GuestAddress(slot)).expect("in memory");
        ring.seen = ring.seen.wrapping_add(1);
        let head = head as u16;
        let InFlight { descriptors, writable } = std::mem::take(&mut ring.chains[usize::from(head)]);
        ring.free.extend(descriptors.iter().rev());
        let mut written = Vec::new();
        for (address, length) in writable {
            let mut bytes = vec![0; length as usize];
            self.memory.read_slice(&mut bytes, GuestAddress(address)).expect("in memory");
            written.extend(bytes);
        }
        Some(Used { head, length, written })
    }

    /// Waits, at most ten seconds, for the next chain that the device hands back.
    pub fn wait_used(&mut self, queue: usize) -> Used {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(used) = self.used(queue) {
                return used;
            }
            assert!(Instant::now() < end, "the device did not answer on queue {queue}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Waits, at most ten seconds, until the device says that it needs a reset.
    pub fn wait_needs_reset(&mut self) {
        let end = Instant::now() + Duration::from_secs(10);
        while self.get(VIRTIO_MMIO_STATUS) & 0x40 == 0 {
            assert!(Instant::now() < end, "the device goes on");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Puts a request and waits for its answer.
    pub fn request(&mut self, queue: usize, buffers: &[Buffer]) -> Used {
        let head = self.add(queue, buffers);
        let used = self.wait_used(queue);
        assert_eq!(used.head, head);
        used
    }

    /// Buffers come from a ring of memory that starts over, around the writable ones in flight: tests keep
    /// few readable ones.
    fn allocate(&mut self, length: u32) -> u64 {
        assert!(u64::from(length) <= BUFFERS / 2, "a buffer too large for a test");
        for _ in 0..1 << 16 {
            if self.buffers + u64::from(length) > MEMORY_SIZE as u64 {
                self.buffers = BUFFERS;
            }
            let address = self.buffers;
            match self.in_flight(address, length) {
                Some(end) => self.buffers = end.next_multiple_of(16),
                None => {
                    self.buffers += u64::from(length).next_multiple_of(16);
                    return address;
                }
            }
        }
        panic!("no memory for {length} bytes beside the buffers in flight");
    }

    /// The end of a writable buffer in flight that overlaps these bytes.
    fn in_flight(&self, address: u64, length: u32) -> Option<u64> {
        let chains = self.queues.iter().flat_map(|ring| &ring.chains);
        chains
            .flat_map(|chain| &chain.writable)
            .map(|&(start, length)| (start, start + u64::from(length)))
            .find(|&(start, end)| start < address + u64::from(length) && address < end)
            .map(|(_, end)| end)
    }
}
