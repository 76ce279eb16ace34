//! A message whose first bytes were read and checked, and whose rest is still the driver's: both go out in
//! one system call, and what was checked is what goes.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::{Chain, message, result};

/// So many buffers are sent without an allocation: a segment of 64 KiB in pages, and the first bytes.
const PIECES: usize = 32;

impl Chain {
    /// Writes `first`, then `count` bytes of the readable part from `offset`, in one `writev`. Returns how
    /// many bytes went.
    ///
    /// # Errors
    ///
    /// What `writev(2)` returns.
    pub fn write_after(
        &self,
        first: &[u8],
        offset: usize,
        count: usize,
        to: BorrowedFd,
    ) -> io::Result<usize> {
        self.with_pieces(first, offset, count, |pieces| {
            // SAFETY: each iovec is `first` or lies in guest memory, which `self.memory` keeps alive; they are
            // only read.
            result(unsafe { libc::writev(to.as_raw_fd(), pieces.as_ptr(), pieces.len() as libc::c_int) })
        })
    }

    /// As [`write_after`](Self::write_after) into a socket, without waiting and without SIGPIPE.
    ///
    /// # Errors
    ///
    /// What `sendmsg(2)` returns; `WouldBlock` when there is no room.
    pub fn send_after(&self, first: &[u8], offset: usize, count: usize, to: BorrowedFd) -> io::Result<usize> {
        self.with_pieces(first, offset, count, |pieces| {
            let header = message(pieces);
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: as in `write_after`; the header names no address and no control data.
            result(unsafe { libc::sendmsg(to.as_raw_fd(), &header, flags) })
        })
    }

    /// Reads once, `first` full and then into the writable parts of `chains`, the first of them from `offset` on. None,
    /// and nothing was read, when all of that takes fewer than `length` bytes, or more pieces than one call here: what
    /// the source cuts to the room, as a packet, would be lost.
    ///
    /// # Errors
    ///
    /// What `readv(2)` returns.
    pub fn read_before(
        first: &mut [u8],
        chains: &[Self],
        offset: usize,
        length: usize,
        from: BorrowedFd,
    ) -> Option<io::Result<usize>> {
        let mut pieces = [const { MaybeUninit::<libc::iovec>::uninit() }; PIECES];
        let mut room = first.len();
        pieces[0].write(libc::iovec { iov_base: first.as_mut_ptr().cast(), iov_len: first.len() });
        let mut used = 1;
        let parts = chains.iter().enumerate().flat_map(|(i, chain)| {
            let offset = if i == 0 { offset } else { 0 };
            chain.parts(true, offset, chain.writable.saturating_sub(offset))
        });
        for part in parts {
            if room >= length {
                break;
            }
            pieces.get_mut(used)?.write(libc::iovec { iov_base: part.start.cast(), iov_len: part.length });
            room += part.length;
            used += 1;
        }
        if room < length {
            return None;
        }
        // SAFETY: the first `used` have been written; each is `first` or lies in guest memory, which its chain keeps
        // alive.
        Some(result(unsafe { libc::readv(from.as_raw_fd(), pieces.as_ptr().cast(), used as libc::c_int) }))
    }

    fn with_pieces(
        &self,
        first: &[u8],
        offset: usize,
        count: usize,
        call: impl FnOnce(&mut [libc::iovec]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let first = libc::iovec { iov_base: first.as_ptr().cast_mut().cast(), iov_len: first.len() };
        if self.first_writable >= PIECES {
            // Only a driver that wants to cuts a message like that.
            let mut pieces = vec![first];
            pieces.extend(self.iovecs(false, offset, count));
            // One more than a call takes: the message would go out cut.
            if pieces.len() > super::IOV_MAX {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            return call(&mut pieces);
        }
        let mut pieces = [const { MaybeUninit::<libc::iovec>::uninit() }; PIECES];
        pieces[0].write(first);
        let mut used = 1;
        for (part, to) in self.parts(false, offset, count).zip(&mut pieces[1..]) {
            to.write(libc::iovec { iov_base: part.start.cast(), iov_len: part.length });
            used += 1;
        }
        // SAFETY: the first `used` have been written, and MaybeUninit has the layout of what it holds.
        call(unsafe { std::slice::from_raw_parts_mut(pieces.as_mut_ptr().cast(), used) })
    }
}
