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
            to.write(self.piece(part)?);
            used += 1;
        }
        // SAFETY: the first `used` have been written, and MaybeUninit has the layout of what it holds.
        call(unsafe { std::slice::from_raw_parts_mut(pieces.as_mut_ptr().cast(), used) })
    }

    fn piece(&self, part: super::Segment) -> io::Result<libc::iovec> {
        // Checked when the chain was walked, and guest memory never shrinks.
        let slice = vm_memory::GuestMemoryBackend::get_slice(&*self.memory, part.address, part.length)
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: part.length })
    }
}
