//! Where a reply goes, and where the data of a Twrite comes from: a transport's memory.

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

/// The data of one Twrite, which a transport may leave where the client put it.
pub trait Data {
    /// Bytes. Must stay the same while the request is served.
    fn count(&self) -> usize;

    /// Writes the data into `file` from `position` on, if possible without a copy, and returns how many bytes
    /// went; fewer only as `pwrite(2)` does.
    ///
    /// # Errors
    ///
    /// The host's error, which the client is told.
    fn write_file_at(&self, file: BorrowedFd<'_>, position: u64) -> io::Result<usize>;

    /// Copies the data into `to`, which is as long.
    ///
    /// # Errors
    ///
    /// When the data turns out not to be there.
    fn copy_to(&self, to: &mut [u8]) -> io::Result<()>;
}

/// Data in the process's own memory.
impl Data for [u8] {
    fn count(&self) -> usize {
        self.len()
    }

    fn write_file_at(&self, file: BorrowedFd<'_>, position: u64) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::pwrite(file, self, position))?)
    }

    fn copy_to(&self, to: &mut [u8]) -> io::Result<()> {
        if self.len() != to.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        to.copy_from_slice(self);
        Ok(())
    }
}

fn range(buffer: &mut [u8], offset: usize, count: usize) -> io::Result<&mut [u8]> {
    offset
        .checked_add(count)
        .and_then(|end| buffer.get_mut(offset..end))
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
