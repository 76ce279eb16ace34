//! Where a reply goes: the room that the client gave for it.

use std::io;
use std::os::fd::BorrowedFd;

/// The buffer of one reply, which a transport provides.
///
/// The server calls it while it serves the request, with offsets in any order and within
/// [`capacity`](Self::capacity); it never reads what it wrote.
pub trait Reply {
    /// Room in bytes. Must stay the same while a request is served.
    fn capacity(&self) -> usize;

    /// Places `bytes` at `offset` of the reply.
    ///
    /// # Errors
    ///
    /// When the room turns out not to be there; the request is then answered with nothing.
    fn write_at(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()>;

    /// Reads up to `count` bytes of `file` from `file_offset` to `offset` of the reply, if possible without
    /// a copy, and returns how many; fewer than asked only at the end of the file or as `pread(2)` does.
    ///
    /// # Errors
    ///
    /// The host's error, which the client is told.
    fn read_file_at(
        &mut self,
        offset: usize,
        count: usize,
        file: BorrowedFd<'_>,
        file_offset: u64,
    ) -> io::Result<usize>;
}

/// A reply in the process's own memory.
impl Reply for [u8] {
    fn capacity(&self) -> usize {
        self.len()
    }

    fn write_at(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        range(self, offset, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    fn read_file_at(
        &mut self,
        offset: usize,
        count: usize,
        file: BorrowedFd<'_>,
        file_offset: u64,
    ) -> io::Result<usize> {
        let buffer = range(self, offset, count)?;
        Ok(rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *buffer, file_offset))?)
    }
}

fn range(buffer: &mut [u8], offset: usize, count: usize) -> io::Result<&mut [u8]> {
    offset
        .checked_add(count)
        .and_then(|end| buffer.get_mut(offset..end))
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
