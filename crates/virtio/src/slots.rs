//! Memory that a device shares with a process that does its work.

use std::{io, sync::Arc};

use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, VolatileSlice,
    mmap::MmapRegionBuilder,
};

use crate::{Chain, Memory};

const PAGE: usize = 4096;

/// Places of one size for requests and their answers, in memory that a process shares with those that it forks. What
/// is not used takes none.
///
/// Each side may be hostile to the other: what lies in a slot can change at any time, as guest memory can.
#[derive(Clone, Debug)]
pub struct Slots {
    memory: Memory,
    count: u32,
    size: usize,
}

impl Slots {
    /// So many slots of at least `size` bytes.
    ///
    /// # Errors
    ///
    /// There is no room in the address space.
    pub fn new(count: u32, size: usize) -> io::Result<Self> {
        let size = size.checked_next_multiple_of(PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let all = size.checked_mul(count as usize).ok_or(io::ErrorKind::OutOfMemory)?;
        let region = MmapRegionBuilder::new(all)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
            .build()
            .map_err(io::Error::other)?;
        let region = GuestRegionMmap::new(region, GuestAddress(0)).ok_or(io::ErrorKind::OutOfMemory)?;
        let memory = GuestMemoryMmap::from_regions(vec![region]).map_err(io::Error::other)?;
        Ok(Self { memory: Arc::new(memory), count, size })
    }

    /// Leaves them out of the processes that this one forks from now on.
    ///
    /// # Errors
    ///
    /// What `madvise(2)` returns.
    pub fn keep_from_forks(&self) -> io::Result<()> {
        self.advise(libc::MADV_DONTFORK)
    }

    /// Gives back the memory that they take. What was in them is lost.
    ///
    /// # Errors
    ///
    /// What `madvise(2)` returns.
    pub fn clear(&self) -> io::Result<()> {
        self.advise(libc::MADV_REMOVE)
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        let slice = self
            .memory
            .get_slice(GuestAddress(0), self.count as usize * self.size)
            .map_err(io::Error::other)?;
        let guard = slice.ptr_guard_mut();
        // SAFETY: the range is all of the mapping, whose content may change at any time.
        match unsafe { libc::madvise(guard.as_ptr().cast(), slice.len(), advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// How many bytes a slot has.
    pub fn size(&self) -> usize {
        self.size
    }

    fn at(&self, slot: u32, length: usize) -> Option<GuestAddress> {
        (slot < self.count && length <= self.size).then(|| GuestAddress(u64::from(slot) * self.size as u64))
    }

    fn slice(&self, slot: u32, length: usize) -> Option<VolatileSlice<'_>> {
        self.memory.get_slice(self.at(slot, length)?, length).ok()
    }

    /// A slot as a chain whose readable and writable part both begin at its start, so that an answer takes its request's
    /// place. None: there is no such slot, or it is smaller.
    pub fn chain(&self, slot: u32, readable: usize, writable: usize) -> Option<Chain> {
        let at = self.at(slot, readable.max(writable))?;
        Chain::of_two(&self.memory, (at, readable), (at, writable))
    }

    /// Copies the first `count` bytes of the readable part of `chain` to a slot; false, and nothing done, if either has
    /// not as many.
    #[must_use]
    pub fn put(&self, slot: u32, chain: &Chain, count: usize) -> bool {
        self.slice(slot, count).is_some_and(|to| chain.read_to(&to))
    }

    /// Copies the first `count` bytes of a slot to the writable part of `chain`; false, and nothing done, if either has
    /// not as many.
    #[must_use]
    pub fn take(&self, slot: u32, chain: &Chain, count: usize) -> bool {
        self.slice(slot, count).is_some_and(|from| chain.write_from(&from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_read_and_what_is_written_is_taken() {
        let slots = Slots::new(2, 5000).unwrap();
        assert_eq!(slots.size(), 8192);
        // A guest's chain of pieces; another set of slots serves as its memory.
        let guest = Slots::new(1, 8192).unwrap();
        let asked = guest.chain(0, 6000, 6000).unwrap();
        let text: Vec<u8> = (0..6000_u32).map(|i| (i ^ i >> 5) as u8).collect();
        assert!(asked.write_at(0, &text));
        assert!(slots.put(1, &asked, 5999));
        let work = slots.chain(1, 5999, 100).unwrap();
        let mut seen = vec![0; 5999];
        assert!(work.read_at(0, &mut seen) && seen == text[..5999]);
        assert!(work.write_at(0, b"answer") && slots.take(1, &asked, 6));
        let mut answer = [0; 8];
        assert!(asked.read_at(0, &mut answer));
        assert_eq!(answer[..6], *b"answer");
        assert_eq!(answer[6..], text[6..8]);
    }

    #[test]
    fn what_is_cleared_is_nothing_and_can_be_used_again() {
        let slots = Slots::new(3, 4096).unwrap();
        let chain = slots.chain(2, 4096, 4096).unwrap();
        assert!(chain.write_at(0, b"x"));
        slots.clear().unwrap();
        let mut byte = [1];
        assert!(chain.read_at(0, &mut byte) && byte == [0]);
        assert!(chain.write_at(4095, b"y"));
        slots.keep_from_forks().unwrap();
    }

    #[test]
    fn what_no_slot_has_is_refused() {
        let slots = Slots::new(2, 4096).unwrap();
        assert!(slots.chain(2, 0, 0).is_none() && slots.chain(u32::MAX, 1, 1).is_none());
        assert!(slots.chain(1, 4097, 0).is_none() && slots.chain(1, 0, usize::MAX).is_none());
        let chain = slots.chain(1, 0, 4096).unwrap();
        assert!(!slots.put(0, &chain, 1) && !slots.take(0, &chain, 4097) && slots.take(0, &chain, 0));
    }
}
