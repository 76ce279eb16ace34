//! The guest's memory: anonymous pages of this process.

use std::{io, ptr, sync::Arc};

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, VmFd};
use virtio::{Memory, Windows};
use vm_memory::{
    Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, mmap::MmapRegionBuilder,
};

use crate::{Error, bus::MMIO_BASE};

/// Huge pages are 2 MiB; memory that starts at a multiple of that takes far fewer nested page faults.
const HUGE_PAGE: usize = 2 << 20;

/// The guest's memory. Unmapped when this goes: after every vCPU and every device thread.
pub(crate) struct GuestRam {
    memory: Memory,
    mappings: Vec<Mapping>,
}

impl GuestRam {
    /// Maps `bytes` of memory, around the hole below 4 GiB.
    pub(crate) fn new(bytes: u64) -> Result<Self, Error> {
        let refuse = |why: String| Error::Memory { mib: bytes >> 20, why };
        let mut mappings = Vec::new();
        let mut regions = Vec::new();
        for (start, size) in loader::layout::ram_regions(bytes) {
            let size = usize::try_from(size).map_err(|e| refuse(e.to_string()))?;
            let mapping = Mapping::new(size)
                .map_err(|e| refuse(format!("{e}. Free memory on the host, or ask for less")))?;
            // SAFETY: the mapping is `size` bytes long, private to this VM, and outlives the region:
            // `GuestRam` is dropped after all threads that hold the region have ended.
            let region = unsafe {
                MmapRegionBuilder::new(size)
                    .with_raw_mmap_pointer(mapping.start.cast())
                    .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                    .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
            };
            let region = region.build().map_err(|e| refuse(e.to_string()))?;
            let region = GuestRegionMmap::new(region, start)
                .ok_or_else(|| refuse("beyond the end of the address space".into()))?;
            regions.push(region);
            mappings.push(mapping);
        }
        let memory = GuestMemoryMmap::from_regions(regions).map_err(|e| refuse(e.to_string()))?;
        Ok(Self { memory: Arc::new(memory), mappings })
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// How many of KVM's memory slots it takes, from the first.
    pub(crate) fn slots(&self) -> u32 {
        self.mappings.len() as u32
    }

    /// Gives the memory to a KVM VM.
    pub(crate) fn register(&self, vm: &VmFd) -> Result<(), Error> {
        for (slot, (region, mapping)) in (0..).zip(self.memory.iter().zip(&self.mappings)) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: mapping.size as u64,
                userspace_addr: mapping.start as u64,
            };
            // SAFETY: the range is mapped for as long as the VM: `GuestRam` goes last.
            unsafe { vm.set_user_memory_region(region) }.map_err(Error::kvm("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }
}

/// Lets the guest read the registers of `count` devices without an exit: memory that it can't write, in the KVM
/// slot of this number. Nothing where KVM has no such memory: then reads are exits.
///
/// What is returned must outlive the VM.
pub(crate) fn show_windows(vm: &VmFd, slot: u32, count: usize) -> Result<Option<Windows>, Error> {
    if !vm.check_extension(Cap::ReadonlyMem) {
        return Ok(None);
    }
    let windows = Windows::new(count).map_err(Error::system("memory for the devices' registers"))?;
    let region = kvm_userspace_memory_region {
        slot,
        flags: KVM_MEM_READONLY,
        guest_phys_addr: MMIO_BASE,
        memory_size: windows.size() as u64,
        userspace_addr: windows.address() as u64,
    };
    // SAFETY: the range is mapped for as long as the VM: the caller keeps it.
    unsafe { vm.set_user_memory_region(region) }.map_err(Error::kvm("KVM_SET_USER_MEMORY_REGION"))?;
    Ok(Some(windows))
}

impl Drop for GuestRam {
    fn drop(&mut self) {
        debug_assert_eq!(Arc::strong_count(&self.memory), 1, "guest memory outlives its VM");
    }
}

/// A range of this process's address space, owned.
struct Mapping {
    start: *mut u8,
    size: usize,
    whole: (*mut libc::c_void, usize),
}

// SAFETY: the pointer is only handed to KVM and to vm-memory, which treats it as shared volatile memory.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(size: usize) -> io::Result<Self> {
        let room = size.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        // NORESERVE: a guest may have more memory than it ever touches. The check against what the host
        // has free is the caller's.
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let whole = unsafe {
            libc::mmap(
                ptr::null_mut(),
                room,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if whole == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let skip = whole.cast::<u8>().align_offset(HUGE_PAGE);
        let mapping = Self { start: whole.cast::<u8>().wrapping_add(skip), size, whole: (whole, room) };
        // Advice that a host without huge pages refuses; and the guest's secrets stay out of core dumps.
        // SAFETY: the range is ours.
        unsafe {
            libc::madvise(mapping.start.cast(), size, libc::MADV_HUGEPAGE);
            libc::madvise(mapping.start.cast(), size, libc::MADV_DONTDUMP);
        }
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing uses it any more.
        unsafe { libc::munmap(self.whole.0, self.whole.1) };
    }
}

/// Refuses more memory than this host could ever give.
pub(crate) fn check(bytes: u64) -> Result<(), Error> {
    let refuse = |why: String| Err(Error::Memory { mib: bytes >> 20, why });
    if bytes < crate::MIN_MEMORY {
        return refuse(format!("a guest needs at least {} MiB", crate::MIN_MEMORY >> 20));
    }
    if !bytes.is_multiple_of(HUGE_PAGE as u64) {
        return refuse("not a multiple of 2 MiB".into());
    }
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit);
    let total = (info.totalram as u64).saturating_mul(unit);
    if bytes > total {
        return refuse(format!("this host has {} MiB in all", total >> 20));
    }
    Ok(())
}
