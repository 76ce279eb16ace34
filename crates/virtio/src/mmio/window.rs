//! A device's registers as memory that the guest may read.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::{CONFIG, MMIO_SIZE};

/// The register windows of several devices, one after the other, in memory of this process.
///
/// A VMM maps it into the guest, to be read but not written, where the devices' windows are: then a read costs no
/// exit. Writes go to [`super::Transport::write`] as before, which keeps the memory what the guest is to read.
#[derive(Clone, Debug)]
pub struct Windows(Arc<MmapRegion>);

/// One device's part of [`Windows`].
#[derive(Debug)]
pub struct Window {
    memory: Windows,
    start: usize,
}

impl Windows {
    /// Windows for `count` devices.
    ///
    /// # Errors
    ///
    /// No more memory.
    pub fn new(count: usize) -> io::Result<Self> {
        let size = count.checked_mul(MMIO_SIZE as usize).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self(Arc::new(MmapRegion::new(size).map_err(io::Error::other)?)))
    }

    /// The window of the device with this number, counted from 0.
    pub fn window(&self, index: usize) -> Option<Window> {
        let start = index.checked_mul(MMIO_SIZE as usize).filter(|start| *start < self.size())?;
        Some(Window { memory: self.clone(), start })
    }

    /// Where it lies in this process's memory; on a page's boundary.
    pub fn address(&self) -> *const u8 {
        self.0.as_ptr()
    }

    /// Its size in bytes.
    pub fn size(&self) -> usize {
        self.0.size()
    }
}

impl Window {
    /// What the guest reads at a register, from now on.
    pub(super) fn set(&self, register: u32, value: u32) {
        let at = self.start + register as usize;
        let stored = self.memory.0.as_volatile_slice().store(value.to_le(), at, Ordering::Release);
        debug_assert!(stored.is_ok(), "a register outside its window");
    }

    pub(super) fn set_config(&self, bytes: &[u8]) {
        let room = (MMIO_SIZE - CONFIG) as usize;
        let bytes = &bytes[..bytes.len().min(room)];
        let written = self.memory.0.as_volatile_slice().write_slice(bytes, self.start + CONFIG as usize);
        debug_assert!(written.is_ok(), "a configuration outside its window");
    }

    #[cfg(test)]
    pub(super) fn read(&self, offset: usize, data: &mut [u8]) {
        self.memory.0.as_volatile_slice().read_slice(data, self.start + offset).expect("in the window");
    }
}
