//! Whether this machine's KVM can start Linux: asked of it by a tiny guest, never guessed from a name.
//!
//! Some machines have a KVM in software that emulates a guest's kernel code, without a few instructions that
//! Linux can't do without. The guest here executes those in 64-bit mode, says after each that it got so far,
//! and is given [`LIMIT`] of time: a breakpoint through an IDT, the `iretq` out of its handler, an `iretq` to
//! another place with another stack, and `xsave`, `xrstor` where the CPU has them.
//!
//! ```no_run
//! use nofear_vmm::probe::{Verdict, linux_capable};
//!
//! match linux_capable() {
//!     Ok(Verdict::Capable) => println!("this KVM starts Linux"),
//!     Ok(Verdict::Incapable { step, found }) => println!("{step}: {found}"),
//!     Err(error) => println!("{error}"),
//! }
//! ```

use std::fmt;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region, kvm_xcrs,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

/// The longest time that the guest is given. A KVM in hardware needs well under a millisecond.
pub const LIMIT: Duration = Duration::from_secs(3);

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The guest came to its end: Linux starts.
    Capable,
    /// It did not.
    Incapable {
        /// The step that it did not survive.
        step: Step,
        /// What happened instead, for a person.
        found: String,
    },
}

/// What the guest does, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Enter 64-bit mode and write to a port.
    LongMode,
    /// `int3` to its handler.
    Breakpoint,
    /// `iretq` out of that handler.
    ReturnFromBreakpoint,
    /// `iretq` to another place with another stack, as the kernel enters a program.
    ReturnElsewhere,
    /// `xsave` and `xrstor` of the x87 and SSE state.
    ExtendedState,
}

impl Step {
    const ALL: [Self; 5] = [
        Self::LongMode,
        Self::Breakpoint,
        Self::ReturnFromBreakpoint,
        Self::ReturnElsewhere,
        Self::ExtendedState,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LongMode => "a port written in 64-bit mode",
            Self::Breakpoint => "int3",
            Self::ReturnFromBreakpoint => "iretq from int3",
            Self::ReturnElsewhere => "iretq to another stack",
            Self::ExtendedState => "xrstor",
        })
    }
}

/// Why the question could not even be asked.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// `/dev/kvm` is missing or may not be used.
    #[error("open /dev/kvm")]
    Open(#[source] io::Error),
    /// An ioctl on the way to the guest's first instruction failed.
    #[error("{ioctl} for the probe's guest")]
    Ioctl {
        /// Which.
        ioctl: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The host has no memory or threads for a 64 KiB guest.
    #[error("{what} for the probe's guest")]
    Host {
        /// What was asked of it.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

fn ioctl(ioctl: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> ProbeError {
    move |error| ProbeError::Ioctl { ioctl, source: io::Error::from_raw_os_error(error.errno()) }
}

/// Asks.
///
/// # Errors
///
/// [`ProbeError`] if no guest can be made; a guest that fails is a [`Verdict::Incapable`].
pub fn linux_capable() -> Result<Verdict, ProbeError> {
    let kvm = Kvm::new().map_err(|error| ProbeError::Open(io::Error::from_raw_os_error(error.errno())))?;
    let vm = kvm.create_vm().map_err(ioctl("KVM_CREATE_VM"))?;
    let memory = Memory::new()?;
    let extended = prepare_memory(&kvm, &memory)?;
    memory.give_to(&vm)?;
    let vcpu = prepare_vcpu(&kvm, &vm, extended)?;
    let verdict = watch(vcpu)?;
    // The order matters: no vCPU and no VM is left that could touch the memory.
    drop(vm);
    drop(memory);
    Ok(verdict)
}

// The guest's 64 KiB, at guest-physical address 0.
const SIZE: usize = 0x1_0000;
const GDT: usize = 0x1000;
const IDT: usize = 0x2000;
/// Page tables that map the first 2 MiB to itself, by one page.
const PML4: usize = 0x3000;
const PDPT: usize = 0x4000;
const DIRECTORY: usize = 0x5000;
const CODE: usize = 0x6000;
const XSAVE_AREA: usize = 0x8000;
const STACK: usize = 0xc000;
const OTHER_STACK: usize = 0xe000;

const CODE_SELECTOR: u16 = 0x08;
const DATA_SELECTOR: u16 = 0x10;
const BREAKPOINT_VECTOR: usize = 3;

/// The port that the guest reports its steps on; no device is there.
const PORT: u16 = 0xf4;

struct Memory {
    start: *mut u8,
}

impl Memory {
    fn new() -> Result<Self, ProbeError> {
        // SAFETY: a new anonymous mapping touches no memory that exists.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(ProbeError::Host { what: "map memory", source: io::Error::last_os_error() });
        }
        Ok(Self { start: start.cast() })
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= SIZE, "the probe's layout fits its memory");
        // SAFETY: the range lies in the mapping, by the line above; nobody else has a reference to it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(at), bytes.len()) };
    }

    fn give_to(&self, vm: &VmFd) -> Result<(), ProbeError> {
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: SIZE as u64,
            userspace_addr: self.start as u64,
        };
        // SAFETY: the mapping is SIZE bytes long and outlives the VM: linux_capable drops it last.
        unsafe { vm.set_user_memory_region(region) }.map_err(ioctl("KVM_SET_USER_MEMORY_REGION"))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whole.
        unsafe { libc::munmap(self.start.cast(), SIZE) };
    }
}

/// Writes tables and code; says whether the CPU has `xsave`.
fn prepare_memory(kvm: &Kvm, memory: &Memory) -> Result<bool, ProbeError> {
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(ioctl("KVM_GET_SUPPORTED_CPUID"))?;
    // CPUID.1:ECX bit 26.
    let extended = cpuid.as_slice().iter().any(|entry| entry.function == 1 && entry.ecx & (1 << 26) != 0);

    let quad = |at: usize, value: u64| memory.write(at, &value.to_le_bytes());
    // Present, writable; the last with bit 7: a page of 2 MiB.
    quad(PML4, PDPT as u64 | 3);
    quad(PDPT, DIRECTORY as u64 | 3);
    quad(DIRECTORY, 0x83);
    // Flat 64-bit code and data, accessed.
    quad(GDT + usize::from(CODE_SELECTOR), 0x00af_9b00_0000_ffff);
    quad(GDT + usize::from(DATA_SELECTOR), 0x00cf_9300_0000_ffff);

    let (code, handler) = code(extended);
    memory.write(CODE, &code);
    // An interrupt gate of ring 0, present (Intel SDM 3A, 7.14.1).
    let target = (CODE + handler) as u64;
    let gate =
        (target & 0xffff) | u64::from(CODE_SELECTOR) << 16 | 0x8e00 << 32 | (target >> 16 & 0xffff) << 48;
    quad(IDT + 16 * BREAKPOINT_VECTOR, gate);
    Ok(extended)
}

/// The guest's code, and where in it the breakpoint's handler is.
fn code(extended: bool) -> (Vec<u8>, usize) {
    let mut code = Vec::new();
    let report = |code: &mut Vec<u8>, step: Step| {
        // mov al, step; out PORT, al
        code.extend([0xb0, step as u8, 0xe6, PORT as u8]);
    };
    report(&mut code, Step::LongMode);
    code.push(0xcc); // int3
    report(&mut code, Step::ReturnFromBreakpoint);

    code.extend([0x6a, DATA_SELECTOR as u8]); // push ss
    code.push(0x68); // push rsp
    code.extend((OTHER_STACK as u32).to_le_bytes());
    code.extend([0x6a, 0x02]); // push rflags: only the bit that is always set
    code.extend([0x6a, CODE_SELECTOR as u8]); // push cs
    code.push(0x68); // push rip: what follows the iretq and the halt
    let after = CODE + code.len() + 4 + 2 + 1;
    code.extend((after as u32).to_le_bytes());
    code.extend([0x48, 0xcf]); // iretq
    code.push(0xf4); // hlt: it fell through
    code.extend([0x48, 0x81, 0xfc]); // cmp rsp, OTHER_STACK
    code.extend((OTHER_STACK as u32).to_le_bytes());
    code.extend([0x74, 0x01, 0xf4]); // je +1; hlt: not that stack
    report(&mut code, Step::ReturnElsewhere);

    if extended {
        code.push(0xbf); // mov edi, XSAVE_AREA
        code.extend((XSAVE_AREA as u32).to_le_bytes());
        code.extend([0xb8, 3, 0, 0, 0, 0x31, 0xd2]); // mov eax, x87 and SSE; xor edx, edx
        code.extend([0x48, 0x0f, 0xae, 0x27]); // xsave64 [rdi]
        code.extend([0x48, 0x0f, 0xae, 0x2f]); // xrstor64 [rdi]
    }
    report(&mut code, Step::ExtendedState);
    code.push(0xf4); // hlt

    let handler = code.len();
    report(&mut code, Step::Breakpoint);
    code.extend([0x48, 0xcf]); // iretq
    (code, handler)
}

fn prepare_vcpu(kvm: &Kvm, vm: &VmFd, extended: bool) -> Result<VcpuFd, ProbeError> {
    let vcpu = vm.create_vcpu(0).map_err(ioctl("KVM_CREATE_VCPU"))?;
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(ioctl("KVM_GET_SUPPORTED_CPUID"))?;
    vcpu.set_cpuid2(&cpuid).map_err(ioctl("KVM_SET_CPUID2"))?;
    let mut sregs = vcpu.get_sregs().map_err(ioctl("KVM_GET_SREGS"))?;
    enter_long_mode(&mut sregs, extended);
    vcpu.set_sregs(&sregs).map_err(ioctl("KVM_SET_SREGS"))?;
    if extended {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0].value = 3;
        vcpu.set_xcrs(&xcrs).map_err(ioctl("KVM_SET_XCRS"))?;
    }
    let regs = kvm_regs { rip: CODE as u64, rsp: STACK as u64, rflags: 2, ..Default::default() };
    vcpu.set_regs(&regs).map_err(ioctl("KVM_SET_REGS"))?;
    Ok(vcpu)
}

fn enter_long_mode(sregs: &mut kvm_sregs, extended: bool) {
    let segment = |selector: u16, type_: u8| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(selector != CODE_SELECTOR),
        s: 1,
        l: u8::from(selector == CODE_SELECTOR),
        g: 1,
        ..Default::default()
    };
    sregs.cs = segment(CODE_SELECTOR, 11);
    let data = segment(DATA_SELECTOR, 3);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    (sregs.gdt.base, sregs.gdt.limit) = (GDT as u64, 0x17);
    (sregs.idt.base, sregs.idt.limit) = (IDT as u64, 0xfff);
    sregs.cr3 = PML4 as u64;
    sregs.cr0 = 1 << 31 | 1 << 5 | 1 << 4 | 1 << 1 | 1; // PG, NE, ET, MP, PE
    sregs.cr4 = 1 << 10 | 1 << 9 | 1 << 5; // OSXMMEXCPT, OSFXSR, PAE
    if extended {
        sregs.cr4 |= 1 << 18; // OSXSAVE
    }
    sregs.efer = 1 << 10 | 1 << 8; // LMA, LME
}

/// Runs the guest in a thread of its own and ends it when the time is over.
fn watch(vcpu: VcpuFd) -> Result<Verdict, ProbeError> {
    install_kick()?;
    let (done, result) = mpsc::channel();
    let runner = thread::Builder::new()
        .name("kvm-probe".into())
        .spawn(move || {
            // The other side gave up only if it no longer wants to know.
            let _ = done.send(run(vcpu));
        })
        .map_err(|source| ProbeError::Host { what: "start a thread", source })?;
    let mut verdict = result.recv_timeout(LIMIT);
    while verdict.is_err() && !runner.is_finished() {
        // A signal takes the thread out of KVM_RUN; again, as the first may come just before it goes in.
        // SAFETY: the thread was not joined, so its handle is valid.
        unsafe { libc::pthread_kill(runner.as_pthread_t() as libc::pthread_t, kick()) };
        verdict = result.recv_timeout(Duration::from_millis(10));
    }
    let verdict = verdict.or_else(|_| result.try_recv());
    // It ends after it sent, or it panicked and there is no verdict.
    let _ = runner.join();
    Ok(verdict.unwrap_or(Verdict::Incapable { step: Step::LongMode, found: "its thread died".into() }))
}

fn kick() -> libc::c_int {
    libc::SIGRTMIN() + 1
}

/// A handler that does nothing: without one the signal would end the process.
fn install_kick() -> Result<(), ProbeError> {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: all zero is a valid sigaction; the handler touches nothing, so it is safe at any moment.
    let failed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigaction(kick(), &action, ptr::null_mut()) != 0
    };
    if failed {
        return Err(ProbeError::Host { what: "set a signal handler", source: io::Error::last_os_error() });
    }
    Ok(())
}

fn run(mut vcpu: VcpuFd) -> Verdict {
    let end = Instant::now() + LIMIT;
    let mut steps = Step::ALL.into_iter().peekable();
    let found = loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(PORT, [number])) => match steps.peek() {
                Some(step) if *step as u8 == *number => {
                    steps.next();
                }
                _ => break format!("it reported step {number}"),
            },
            Ok(VcpuExit::Hlt) if steps.peek().is_none() => return Verdict::Capable,
            Ok(exit) => break format!("KVM said {exit:?}"),
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {
                if Instant::now() >= end {
                    break format!("no end within {} s", LIMIT.as_secs());
                }
            }
            Err(error) => break format!("KVM_RUN: {error}"),
        }
    };
    Verdict::Incapable { step: steps.peek().copied().unwrap_or(Step::ExtendedState), found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_fits_before_the_xsave_area() {
        for extended in [false, true] {
            let (code, handler) = code(extended);
            assert!(handler < code.len() && CODE + code.len() <= XSAVE_AREA);
        }
    }

    #[test]
    fn the_probe_ends_with_a_verdict_where_there_is_a_kvm() {
        if !std::path::Path::new("/dev/kvm").exists() {
            eprintln!("SKIPPED: no /dev/kvm on this machine");
            return;
        }
        let start = Instant::now();
        let verdict = linux_capable();
        assert!(start.elapsed() < LIMIT + Duration::from_secs(2));
        assert!(verdict.is_ok(), "{verdict:?}");
    }
}
