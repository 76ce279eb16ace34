//! Guest memory that goes back to the host.

use std::io;

use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::Memory;

/// The pages of this process, and so the least that goes back.
const PAGE: usize = 4096;

/// Gives the whole pages in a range of guest memory back to the host: they read as zeros, until they are written to.
/// Returns how many bytes that were. The memory must be anonymous and private to this process, as a VMM's usually is;
/// of other memory the host keeps what it has.
///
/// # Errors
///
/// A range that is not all in one region of guest memory; what `madvise(2)` returns.
pub fn discard(memory: &Memory, address: GuestAddress, length: usize) -> io::Result<usize> {
    let slice = memory.get_slice(address, length).map_err(io::Error::other)?;
    let guard = slice.ptr_guard_mut();
    let start = guard.as_ptr();
    let skip = start.align_offset(PAGE);
    let whole = length.saturating_sub(skip) / PAGE * PAGE;
    if whole == 0 {
        return Ok(0);
    }
    // SAFETY: the range lies in the slice, which is guest memory: anything may happen to its content at any time.
    match unsafe { libc::madvise(start.wrapping_add(skip).cast(), whole, libc::MADV_DONTNEED) } {
        0 => Ok(whole),
        _ => Err(io::Error::last_os_error()),
    }
}
