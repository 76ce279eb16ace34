//! A split ring (virtio 1.2, 2.7) where it lies in this process's memory.
//!
//! Its three parts are looked up once, when the driver is ready, and not in each access: those are a handful for every
//! buffer, and a look-up costs more than what it finds. The driver can change all of it at any time, so each field is
//! read once, whole, and checked as a copy.

use std::{
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering, fence},
};

use virtio_queue::{Queue as Setup, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::Memory;

/// A descriptor is 16 bytes: address, length, flags, next (virtio 1.2, 2.7.5).
pub(crate) const DESCRIPTOR_SIZE: usize = 16;

// Sizes of the other parts in bytes (virtio 1.2, 2.7.6 and 2.7.8).
const AVAIL_HEADER: usize = 4;
const AVAIL_ELEMENT: usize = 2;
const USED_HEADER: usize = 4;
const USED_ELEMENT: usize = 8;
/// Behind the last element: the event index.
const EVENT: usize = 2;

/// Where flags and index are in either ring's header.
const FLAGS: usize = 0;
const INDEX: usize = 2;

/// In the used ring's flags: no notification is wanted.
const NO_NOTIFY: u16 = 1;

/// A piece of guest memory, as this process sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a piece is a place in guest memory, which every thread may look at; who holds one keeps the memory.
unsafe impl Send for Piece {}

impl Piece {
    /// None: not all of it is in one region of guest memory.
    pub(crate) fn find(memory: &Memory, address: GuestAddress, length: usize) -> Option<Self> {
        let slice = memory.get_slice(address, length).ok()?;
        Some(Self { start: NonNull::new(slice.ptr_guard_mut().as_ptr())?, length })
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// A descriptor of this table.
    pub(crate) fn descriptor(&self, index: u16) -> Option<[u64; 2]> {
        let offset = usize::from(index) * DESCRIPTOR_SIZE;
        if offset + DESCRIPTOR_SIZE > self.length {
            return None;
        }
        let at = self.start.as_ptr().wrapping_add(offset).cast::<u64>();
        if at.is_aligned() {
            // SAFETY: in the piece, which is mapped, and aligned.
            let raw = unsafe { [at.read_volatile(), at.wrapping_add(1).read_volatile()] };
            return Some(raw.map(u64::from_le));
        }
        // An indirect table may lie anywhere, though no driver's does.
        // SAFETY: in the piece, which is mapped; bytes need no alignment.
        let raw = unsafe { at.cast::<[u8; DESCRIPTOR_SIZE]>().read_volatile() };
        let [a, b, c, d, e, f, g, h, rest @ ..] = raw;
        Some([u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes(rest)])
    }

    /// None unless it is aligned, and in the piece.
    fn u16(&self, offset: usize) -> Option<&AtomicU16> {
        let at = self.start.as_ptr().wrapping_add(offset).cast::<u16>();
        let fits = offset + size_of::<u16>() <= self.length && at.is_aligned();
        // SAFETY: aligned and in the piece, which is mapped for as long as its holder lives; a guest's accesses are
        // no data race of this program's.
        fits.then(|| unsafe { AtomicU16::from_ptr(at) })
    }
}

/// A ring of a running device.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Keeps the pieces mapped.
    memory: Memory,
    table: Piece,
    avail: Piece,
    used: Piece,
    size: u16,
    event_index: bool,
    next_avail: u16,
    next_used: u16,
}

/// The driver's index has gone further than the ring is long; or, which was checked when it began, the ring is not
/// where it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Malformed;

type Result<T> = std::result::Result<T, Malformed>;

impl Ring {
    /// None: a part that is not aligned (2.7), or not all in one region of guest memory.
    pub(crate) fn new(setup: &Setup, memory: &Memory) -> Option<Self> {
        let size = setup.size();
        let entries = usize::from(size);
        let find = |address, length, alignment| {
            let piece = Piece::find(memory, GuestAddress(address), length)?;
            piece.start.as_ptr().addr().is_multiple_of(alignment).then_some(piece)
        };
        Some(Self {
            memory: memory.clone(),
            table: find(setup.desc_table(), entries * DESCRIPTOR_SIZE, DESCRIPTOR_SIZE)?,
            avail: find(setup.avail_ring(), AVAIL_HEADER + entries * AVAIL_ELEMENT + EVENT, 2)?,
            used: find(setup.used_ring(), USED_HEADER + entries * USED_ELEMENT + EVENT, 4)?,
            size,
            event_index: setup.event_idx_enabled(),
            next_avail: setup.next_avail(),
            next_used: setup.next_used(),
        })
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn table(&self) -> Piece {
        self.table
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    pub(crate) fn next_used(&self) -> u16 {
        self.next_used
    }

    /// The head of the next chain that the driver has put in.
    pub(crate) fn take(&mut self) -> Result<Option<u16>> {
        // What was put in is to be seen after the index that says so.
        let index = load(&self.avail, INDEX, Ordering::Acquire)?;
        let waiting = index.wrapping_sub(self.next_avail);
        if waiting > self.size {
            return Err(Malformed);
        }
        if waiting == 0 {
            return Ok(None);
        }
        let slot = usize::from(self.next_avail % self.size);
        self.next_avail = self.next_avail.wrapping_add(1);
        load(&self.avail, AVAIL_HEADER + slot * AVAIL_ELEMENT, Ordering::Relaxed).map(Some)
    }

    /// The last head is the next one again.
    pub(crate) fn take_back(&mut self) {
        self.next_avail = self.next_avail.wrapping_sub(1);
    }

    /// Says that notifications are wanted from the next chain on; true when it is there already.
    pub(crate) fn sleep(&mut self) -> Result<bool> {
        if self.event_index {
            let at = USED_HEADER + usize::from(self.size) * USED_ELEMENT;
            store(&self.used, at, self.next_avail, Ordering::Relaxed)?;
        } else {
            let flags = load(&self.used, FLAGS, Ordering::Relaxed)? & !NO_NOTIFY;
            store(&self.used, FLAGS, flags, Ordering::Relaxed)?;
        }
        // The driver writes its index, then looks at ours; we wrote ours, and look at its.
        fence(Ordering::SeqCst);
        Ok(load(&self.avail, INDEX, Ordering::Acquire)? != self.next_avail)
    }

    /// Hands a chain back; the driver does not see it before [`show`](Self::show).
    pub(crate) fn put(&mut self, head: u16, written: u32) -> Result<()> {
        let slot = usize::from(self.next_used % self.size);
        let at = USED_HEADER + slot * USED_ELEMENT;
        let to = self.used.start.as_ptr().wrapping_add(at).cast::<u32>();
        if at + USED_ELEMENT > self.used.length || !to.is_aligned() {
            return Err(Malformed);
        }
        // SAFETY: in the piece, which is mapped, and aligned.
        unsafe {
            to.write_volatile(u32::from(head).to_le());
            to.wrapping_add(1).write_volatile(written.to_le());
        }
        self.next_used = self.next_used.wrapping_add(1);
        Ok(())
    }

    /// Shows the driver all chains that were handed back.
    pub(crate) fn show(&self) -> Result<()> {
        store(&self.used, INDEX, self.next_used, Ordering::Release)
    }

    /// The used index that the driver wants to be told of; none: of each.
    pub(crate) fn event(&self) -> Result<Option<u16>> {
        if !self.event_index {
            return Ok(None);
        }
        // As in `sleep`.
        fence(Ordering::SeqCst);
        let at = AVAIL_HEADER + usize::from(self.size) * AVAIL_ELEMENT;
        load(&self.avail, at, Ordering::Relaxed).map(Some)
    }
}

fn load(piece: &Piece, offset: usize, order: Ordering) -> Result<u16> {
    piece.u16(offset).map(|field| u16::from_le(field.load(order))).ok_or(Malformed)
}

fn store(piece: &Piece, offset: usize, value: u16, order: Ordering) -> Result<()> {
    piece.u16(offset).map(|field| field.store(value.to_le(), order)).ok_or(Malformed)
}
