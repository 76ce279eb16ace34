//! What a vCPU is at its first instruction: CPUID, registers, MSRs, local APIC.

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_lapic_state, kvm_msr_entry, kvm_regs,
    kvm_segment,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use loader::{BootRegisters, entry};

use crate::Error;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MSR_MTRR_DEFAULT_TYPE: u32 = 0x2ff;

/// CR0: protection and paging; CR4: PAE; EFER: long mode enabled and active.
const CR0: u64 = 1 | 1 << 4 | 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;

/// The local APIC's interrupt pin 1 register and its delivery mode NMI (SDM 3A, 11.5.1).
const LAPIC_LVT1: usize = 0x360;
const LAPIC_MODE_NMI: u8 = 4;

/// What the host's KVM and processor give to every vCPU of a VM.
#[derive(Clone)]
pub(crate) struct Cpu {
    supported: CpuId,
    tsc_deadline: bool,
    vcpus: u8,
}

/// Where the first vCPU starts.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    pub registers: BootRegisters,
    pub page_tables: u64,
    pub gdt: (u64, u16),
}

impl Cpu {
    pub(crate) fn new(kvm: &Kvm, vcpus: u8) -> Result<Self, Error> {
        let supported =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::kvm("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(Self { supported, tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer), vcpus })
    }

    /// Makes `vcpu` number `id`; `start` is for the first alone, the others wait for its signal.
    pub(crate) fn set_up(&self, vcpu: &VcpuFd, id: u8, start: Option<&Start>) -> Result<(), Error> {
        vcpu.set_cpuid2(&self.cpuid(id)?).map_err(Error::kvm("KVM_SET_CPUID2"))?;
        self.set_msrs(vcpu)?;
        set_lapic(vcpu)?;
        if let Some(start) = start {
            set_registers(vcpu, start)?;
        }
        Ok(())
    }

    /// One package, a core for each vCPU, no hyper-threads.
    fn cpuid(&self, id: u8) -> Result<CpuId, Error> {
        let mut entries: Vec<_> = self.supported.as_slice().to_vec();
        entries.retain(|e| !matches!(e.function, 0xb | 0x1f));
        for entry in &mut entries {
            adjust(entry, id, self.vcpus, self.tsc_deadline);
        }
        entries.extend([(0u32, 0, 1, 1 << 8), (1, id_bits(self.vcpus), u32::from(self.vcpus), 2 << 8)].map(
            |(index, shift, count, kind)| kvm_cpuid_entry2 {
                function: 0xb,
                index,
                flags: kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                eax: shift,
                ebx: count,
                ecx: kind | index,
                edx: u32::from(id),
                ..Default::default()
            },
        ));
        CpuId::from_entries(&entries).map_err(|_| Error::KvmLacks("a CPUID list that fits its own limit"))
    }

    fn set_msrs(&self, vcpu: &VcpuFd) -> Result<(), Error> {
        let msr = |index, data| kvm_msr_entry { index, data, ..Default::default() };
        // MTRRs on, memory write-back: else Linux does without PAT.
        let mut entries = vec![msr(MSR_MTRR_DEFAULT_TYPE, 1 << 11 | 6)];
        if self.is_intel() {
            // Fast string instructions.
            entries.push(msr(MSR_MISC_ENABLE, 1));
        }
        let msrs = Msrs::from_entries(&entries).map_err(|_| Error::KvmLacks("room for two MSRs"))?;
        let set = vcpu.set_msrs(&msrs).map_err(Error::kvm("KVM_SET_MSRS"))?;
        if set == entries.len() { Ok(()) } else { Err(Error::KvmLacks("memory type registers (MTRR)")) }
    }

    fn is_intel(&self) -> bool {
        self.supported.as_slice().iter().any(|e| e.function == 0 && e.ebx.to_le_bytes() == *b"Genu")
    }
}

fn adjust(entry: &mut kvm_cpuid_entry2, id: u8, vcpus: u8, tsc_deadline: bool) {
    let (apic, count, bits) = (u32::from(id), u32::from(vcpus), id_bits(vcpus));
    let set = |word: &mut u32, bit: u32, on: bool| *word = *word & !(1 << bit) | u32::from(on) << bit;
    match entry.function {
        1 => {
            entry.ebx = entry.ebx & 0xffff | count << 16 | apic << 24;
            // Without a TSC deadline Linux calibrates the APIC timer against clocks that are not there.
            set(&mut entry.ecx, 24, tsc_deadline);
            // It is a virtual machine; and there are none inside it: their code is a wide attack surface.
            set(&mut entry.ecx, 31, true);
            set(&mut entry.ecx, 5, false);
            set(&mut entry.edx, 28, count > 1);
        }
        // Caches: the third level is shared by all cores, the others by none.
        4 | 0x8000_001d => {
            let shared = if entry.eax >> 5 & 7 >= 3 { count - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | shared << 14;
            if entry.function == 4 {
                entry.eax |= (count - 1) << 26;
            }
        }
        // No power management, no performance counters.
        6 | 0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        0x8000_0001 => {
            set(&mut entry.ecx, 1, count > 1);
            set(&mut entry.ecx, 2, false);
        }
        0x8000_0008 => entry.ecx = (count - 1) | bits << 12,
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (apic, apic, 0),
        _ => {}
    }
}

/// How many bits hold the APIC identifiers of so many vCPUs.
fn id_bits(vcpus: u8) -> u32 {
    vcpus.next_power_of_two().trailing_zeros()
}

fn set_lapic(vcpu: &VcpuFd) -> Result<(), Error> {
    let mut lapic: kvm_lapic_state = vcpu.get_lapic().map_err(Error::kvm("KVM_GET_LAPIC"))?;
    // Bits 8 to 10 are the delivery mode.
    lapic.regs[LAPIC_LVT1 + 1] = LAPIC_MODE_NMI as _;
    vcpu.set_lapic(&lapic).map_err(Error::kvm("KVM_SET_LAPIC"))
}

fn set_registers(vcpu: &VcpuFd, start: &Start) -> Result<(), Error> {
    let mut sregs = vcpu.get_sregs().map_err(Error::kvm("KVM_GET_SREGS"))?;
    let segment = |selector: u16| {
        let descriptor = entry::GDT[usize::from(selector / 8)];
        let bit = |n: u32| (descriptor >> n & 1) as u8;
        kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector,
            type_: (descriptor >> 40 & 0xf) as u8,
            s: bit(44),
            dpl: (descriptor >> 45 & 3) as u8,
            present: bit(47),
            avl: bit(52),
            l: bit(53),
            db: bit(54),
            g: bit(55),
            ..Default::default()
        }
    };
    let data = segment(entry::DATA_SELECTOR);
    sregs.cs = segment(entry::CODE_SELECTOR);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    (sregs.gdt.base, sregs.gdt.limit) = start.gdt;
    sregs.cr0 = CR0;
    sregs.cr3 = start.page_tables;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LONG_MODE;
    vcpu.set_sregs(&sregs).map_err(Error::kvm("KVM_SET_SREGS"))?;

    let registers = kvm_regs {
        // Bit 1 is always one.
        rflags: 2,
        rip: start.registers.rip,
        rsi: start.registers.rsi,
        ..Default::default()
    };
    vcpu.set_regs(&registers).map_err(Error::kvm("KVM_SET_REGS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apic_identifiers_fit_their_bits() {
        assert_eq!([1, 2, 3, 4, 5, 8, 17, 32].map(id_bits), [0, 1, 2, 2, 3, 3, 5, 5]);
    }

    #[test]
    fn a_guest_is_told_that_it_is_one_and_that_it_has_no_virtualisation() {
        let mut entry = kvm_cpuid_entry2 { function: 1, ecx: 1 << 5, ..Default::default() };
        adjust(&mut entry, 3, 4, true);
        assert_eq!(entry.ecx, 1 << 31 | 1 << 24);
        assert_eq!(entry.ebx, 3 << 24 | 4 << 16);
    }
}
