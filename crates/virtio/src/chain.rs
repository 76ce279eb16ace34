//! A descriptor chain: the buffers of one request, checked once, then copied from and to.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{GuestAddress, VolatileSlice};

use crate::{
    Memory,
    ring::{DESCRIPTOR_SIZE, Piece},
};

mod framed;

/// The most buffers that one system call takes, and so the longest indirect table that is followed: a guest
/// can't make a chain grow beyond that.
const IOV_MAX: usize = 1024;

/// Why a descriptor chain was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A descriptor index at or over the table's size.
    #[error("descriptor index {index} in a table of {size}")]
    Index {
        /// The index.
        index: u16,
        /// The table's size.
        size: u16,
    },
    /// More descriptors than the table has, so that one must come twice.
    #[error("descriptor chain of more than {0} descriptors: it loops")]
    Loop(u16),
    /// A buffer or a table that is not all in one region of guest memory.
    #[error("{length} bytes at guest address {address:#x} are not memory")]
    Memory {
        /// The guest-physical address.
        address: u64,
        /// The length in bytes.
        length: u64,
    },
    /// An indirect table whose length is not one to 1,024 descriptors.
    #[error("indirect descriptor table of {0} bytes")]
    TableLength(u32),
    /// An indirect table inside an indirect table, or one with a successor (virtio 1.2, 2.7.5.3.1).
    #[error("indirect descriptor table inside another, or with a successor")]
    Nested,
    /// A device-readable buffer after a device-writable one (virtio 1.2, 2.7.4.2).
    #[error("device-readable buffer after a device-writable one")]
    Order,
    /// All buffers together have more than `u32::MAX` bytes (virtio 1.2, 2.7.5.2).
    #[error("descriptor chain of over 4 GiB")]
    Length,
}

/// A buffer that was found to lie in guest memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    address: GuestAddress,
    length: usize,
    /// Where it begins here; null when it is empty.
    start: *mut u8,
}

// SAFETY: it is a place in guest memory, which every thread may look at; the chain that holds it keeps the memory.
unsafe impl Send for Segment {}

impl Segment {
    fn slice(&self) -> VolatileSlice<'_> {
        if self.start.is_null() {
            return VolatileSlice::from(&mut [][..]);
        }
        // SAFETY: the segment was found to lie in guest memory, which its chain keeps mapped and never shrinks.
        unsafe { VolatileSlice::new(self.start, self.length) }
    }
}

/// The buffers of one request. Offsets count from the start of the readable, or of the writable, part,
/// wherever the driver cut it.
#[derive(Debug)]
pub struct Chain {
    head: u16,
    memory: Memory,
    /// First those that the device reads, then those that it writes.
    segments: Vec<Segment>,
    first_writable: usize,
    readable: usize,
    writable: usize,
}

impl Chain {
    /// Walks the chain that starts at `head` in the table of `size` descriptors at `table`; `spare` is
    /// storage from an earlier chain.
    pub(crate) fn walk(
        memory: &Memory,
        table: Piece,
        size: u16,
        head: u16,
        spare: Vec<Segment>,
    ) -> Result<Self, ChainError> {
        let mut segments = spare;
        segments.clear();
        let mut chain =
            Self { head, memory: memory.clone(), segments, first_writable: 0, readable: 0, writable: 0 };
        chain.follow(table, size, head, false)?;
        Ok(chain)
    }

    fn follow(&mut self, table: Piece, size: u16, first: u16, in_table: bool) -> Result<(), ChainError> {
        let mut index = first;
        for _ in 0..size {
            let raw = if index < size { table.descriptor(index) } else { None };
            let [address, rest] = raw.ok_or(ChainError::Index { index, size })?;
            let (length, flags) = (rest as u32, (rest >> 32) as u32 & u32::from(u16::MAX));
            if flags & VRING_DESC_F_INDIRECT != 0 {
                if in_table || flags & VRING_DESC_F_NEXT != 0 {
                    return Err(ChainError::Nested);
                }
                const SIZE: u32 = DESCRIPTOR_SIZE as u32;
                let entries = length / SIZE;
                let entries = match u16::try_from(entries) {
                    Ok(n) if (1..=IOV_MAX).contains(&usize::from(n)) && length.is_multiple_of(SIZE) => n,
                    _ => return Err(ChainError::TableLength(length)),
                };
                let bad = ChainError::Memory { address, length: u64::from(length) };
                let table = Piece::find(&self.memory, GuestAddress(address), length as usize).ok_or(bad)?;
                return self.follow(table, entries, 0, true);
            }
            self.push(address, length, flags & VRING_DESC_F_WRITE != 0)?;
            if flags & VRING_DESC_F_NEXT == 0 {
                return Ok(());
            }
            index = (rest >> 48) as u16;
        }
        Err(ChainError::Loop(size))
    }

    fn push(&mut self, address: u64, length: u32, writable: bool) -> Result<(), ChainError> {
        // An empty buffer is odd but harmless; a driver may cut a message anywhere.
        let start = match length {
            0 => std::ptr::null_mut(),
            _ => {
                let bad = ChainError::Memory { address, length: u64::from(length) };
                Piece::find(&self.memory, GuestAddress(address), length as usize).ok_or(bad)?.start()
            }
        };
        let total = self.readable + self.writable + length as usize;
        u32::try_from(total).map_err(|_| ChainError::Length)?;
        if writable {
            self.writable += length as usize;
        } else {
            if self.segments.len() > self.first_writable {
                return Err(ChainError::Order);
            }
            self.readable += length as usize;
            self.first_writable += 1;
        }
        self.segments.push(Segment { address: GuestAddress(address), length: length as usize, start });
        Ok(())
    }

    /// A chain of a readable and a writable buffer that is in no ring. None: they are not in memory.
    pub(crate) fn of_two(
        memory: &Memory,
        readable: (GuestAddress, usize),
        writable: (GuestAddress, usize),
    ) -> Option<Self> {
        let mut chain = Self {
            head: 0,
            memory: memory.clone(),
            segments: Vec::with_capacity(2),
            first_writable: 0,
            readable: 0,
            writable: 0,
        };
        chain.push(readable.0.0, u32::try_from(readable.1).ok()?, false).ok()?;
        chain.push(writable.0.0, u32::try_from(writable.1).ok()?, true).ok()?;
        Some(chain)
    }

    /// The index of the chain's first descriptor: its name in the rings.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes that the driver wrote for the device.
    pub fn readable(&self) -> usize {
        self.readable
    }

    /// Bytes of room for the device's answer.
    pub fn writable(&self) -> usize {
        self.writable
    }

    /// Where the writable part's buffers lie in guest memory, and how long each is.
    pub fn writable_ranges(&self) -> impl Iterator<Item = (GuestAddress, usize)> {
        self.segments[self.first_writable..].iter().map(|segment| (segment.address, segment.length))
    }

    /// Copies from the readable part, at `offset`, all of `to`; false, and nothing done, when the part is
    /// shorter.
    #[must_use]
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> bool {
        if offset.checked_add(to.len()).is_none_or(|end| end > self.readable) {
            return false;
        }
        let mut rest = to;
        for part in self.parts(false, offset, rest.len()) {
            let (now, later) = rest.split_at_mut(part.length);
            part.slice().copy_to(now);
            rest = later;
        }
        true
    }

    /// Copies all of `from` into the writable part, at `offset`; false, and nothing done, when the part
    /// is shorter.
    #[must_use]
    pub fn write_at(&self, offset: usize, from: &[u8]) -> bool {
        if offset.checked_add(from.len()).is_none_or(|end| end > self.writable) {
            return false;
        }
        let mut rest = from;
        for part in self.parts(true, offset, rest.len()) {
            let (now, later) = rest.split_at(part.length);
            part.slice().copy_from(now);
            rest = later;
        }
        true
    }

    /// As [`read_at`](Self::read_at) from the start, to other memory that may change meanwhile.
    pub(crate) fn read_to(&self, to: &VolatileSlice) -> bool {
        self.copy(false, to, |part, other| part.copy_to_volatile_slice(other))
    }

    /// As [`write_at`](Self::write_at) at the start, from other memory that may change meanwhile.
    pub(crate) fn write_from(&self, from: &VolatileSlice) -> bool {
        self.copy(true, from, |part, other| other.copy_to_volatile_slice(part))
    }

    fn copy(
        &self,
        writable: bool,
        other: &VolatileSlice,
        copy: impl Fn(VolatileSlice, VolatileSlice),
    ) -> bool {
        if other.len() > if writable { self.writable } else { self.readable } {
            return false;
        }
        let mut done = 0;
        for part in self.parts(writable, 0, other.len()) {
            let Ok(piece) = other.subslice(done, part.length) else { return false };
            copy(part.slice(), piece);
            done += part.length;
        }
        true
    }

    /// Reads at most `count` bytes of a file, from `position`, straight into the writable part at
    /// `offset`: one system call, no copy. Returns how many bytes came.
    ///
    /// # Errors
    ///
    /// What `preadv2(2)` returns.
    pub fn read_from_file(
        &self,
        offset: usize,
        count: usize,
        file: BorrowedFd,
        position: u64,
    ) -> io::Result<usize> {
        self.read(offset, count, file, position, 0)
    }

    /// As [`read_from_file`](Self::read_from_file), but only what the host has in its page cache: it may end
    /// before what is not there.
    ///
    /// # Errors
    ///
    /// What `preadv2(2)` returns with `RWF_NOWAIT`; `WouldBlock` when nothing is there, `Unsupported` when the file
    /// system can't say.
    pub fn read_from_page_cache(
        &self,
        offset: usize,
        count: usize,
        file: BorrowedFd,
        position: u64,
    ) -> io::Result<usize> {
        self.read(offset, count, file, position, libc::RWF_NOWAIT).map_err(|e| match e.raw_os_error() {
            Some(libc::EOPNOTSUPP) => io::ErrorKind::Unsupported.into(),
            _ => e,
        })
    }

    fn read(
        &self,
        offset: usize,
        count: usize,
        file: BorrowedFd,
        position: u64,
        flags: libc::c_int,
    ) -> io::Result<usize> {
        let position = libc::off_t::try_from(position).map_err(|_| io::ErrorKind::InvalidInput)?;
        let iov = self.iovecs(true, offset, count);
        let pieces = iov.len() as libc::c_int;
        // SAFETY: every iovec lies in a mapping of guest memory, which `self.memory` keeps alive.
        result(unsafe { libc::preadv2(file.as_raw_fd(), iov.as_ptr(), pieces, position, flags) })
    }

    /// Writes at most `count` bytes of the readable part, from `offset`, straight into a file at
    /// `position`. Returns how many bytes went.
    ///
    /// # Errors
    ///
    /// What `pwritev(2)` returns.
    pub fn write_to_file(
        &self,
        offset: usize,
        count: usize,
        file: BorrowedFd,
        position: u64,
    ) -> io::Result<usize> {
        let position = libc::off_t::try_from(position).map_err(|_| io::ErrorKind::InvalidInput)?;
        let iov = self.iovecs(false, offset, count);
        // SAFETY: every iovec lies in a mapping of guest memory, which `self.memory` keeps alive.
        result(unsafe { libc::pwritev(file.as_raw_fd(), iov.as_ptr(), iov.len() as libc::c_int, position) })
    }

    /// Receives at most `count` bytes from a socket straight into the writable part at `offset`, without
    /// waiting. Zero is the peer's end.
    ///
    /// # Errors
    ///
    /// What `recvmsg(2)` returns; `WouldBlock` when nothing is there.
    pub fn read_from_socket(&self, offset: usize, count: usize, socket: BorrowedFd) -> io::Result<usize> {
        let mut iov = self.iovecs(true, offset, count);
        let mut message = message(&mut iov);
        // SAFETY: the header names iovecs that lie in guest memory, which `self.memory` keeps alive, and
        // no control buffer or address.
        result(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) })
    }

    /// Sends at most `count` bytes of the readable part, from `offset`, straight into a socket, without
    /// waiting and without SIGPIPE. Returns how many bytes went.
    ///
    /// # Errors
    ///
    /// What `sendmsg(2)` returns; `WouldBlock` when there is no room.
    pub fn write_to_socket(&self, offset: usize, count: usize, socket: BorrowedFd) -> io::Result<usize> {
        let mut iov = self.iovecs(false, offset, count);
        let message = message(&mut iov);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: as in `read_from_socket`.
        result(unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags) })
    }

    /// The pieces of guest memory that hold `count` bytes from `offset` of one part, or up to its end.
    fn parts(&self, writable: bool, offset: usize, count: usize) -> impl Iterator<Item = Segment> {
        let (readable, rest) = self.segments.split_at(self.first_writable);
        let (mut skip, mut left) = (offset, count);
        let side = if writable { rest } else { readable };
        side.iter().filter_map(move |segment| {
            if skip >= segment.length {
                skip -= segment.length;
                return None;
            }
            let length = (segment.length - skip).min(left);
            let address = GuestAddress(segment.address.0 + skip as u64);
            let start = segment.start.wrapping_add(skip);
            (skip, left) = (0, left - length);
            (length > 0).then_some(Segment { address, length, start })
        })
    }

    /// Where at most `count` bytes of the readable part lie, from `offset`: at most 1,024 pieces of this
    /// process's memory. The guest can change them at any time; they stay mapped as long as the chain lives.
    pub fn readable_pieces(&self, offset: usize, count: usize) -> Vec<libc::iovec> {
        self.iovecs(false, offset, count)
    }

    /// Where at most `count` bytes of the writable part lie, from `offset`, as for
    /// [`readable_pieces`](Self::readable_pieces).
    pub fn writable_pieces(&self, offset: usize, count: usize) -> Vec<libc::iovec> {
        self.iovecs(true, offset, count)
    }

    fn iovecs(&self, writable: bool, offset: usize, count: usize) -> Vec<libc::iovec> {
        let mut iovecs: Vec<libc::iovec> = Vec::with_capacity(self.segments.len().min(IOV_MAX));
        for part in self.parts(writable, offset, count) {
            let base = part.start;
            // Pages that follow each other are one piece: the kernel does less.
            let full = iovecs.len() == IOV_MAX;
            let end = iovecs.last().map(|last| last.iov_base.cast::<u8>().wrapping_add(last.iov_len));
            match iovecs.last_mut() {
                Some(last) if end == Some(base) => last.iov_len += part.length,
                _ if full => break,
                _ => iovecs.push(libc::iovec { iov_base: base.cast(), iov_len: part.length }),
            }
        }
        iovecs
    }

    pub(crate) fn into_spare(self) -> Vec<Segment> {
        self.segments
    }
}

fn message(iov: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: all zeroes is a valid msghdr: no address, no buffers, no control data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = iov.as_mut_ptr();
    header.msg_iovlen = iov.len();
    header
}

fn result(returned: isize) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests;
