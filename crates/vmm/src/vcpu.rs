//! A vCPU's thread: runs the guest, serves its exits, stops at once when asked.

use std::{
    cell::Cell,
    io, ptr,
    sync::Arc,
    thread::{self, JoinHandle},
};

use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::{
    Error, Exit, ThreadKind,
    bus::Bus,
    confine_thread,
    cpu::{Cpu, Start},
    exit::Ends,
    gate::{Counter, Gate, Passed, Registers},
};

const STACK: usize = 256 << 10;

/// A vCPU that has not started.
pub(crate) struct Vcpu {
    pub fd: VcpuFd,
    pub id: u8,
    pub cpu: Cpu,
    /// For the first vCPU.
    pub start: Option<Start>,
    pub bus: Arc<Bus>,
    pub gate: Gate,
    pub ends: Ends,
    pub confined: bool,
}

/// A vCPU's running thread.
pub(crate) struct Running(JoinHandle<()>);

thread_local! {
    /// `kvm_run.immediate_exit` of this thread's vCPU; null elsewhere.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

impl Vcpu {
    pub(crate) fn start(self) -> Result<Running, Error> {
        thread::Builder::new()
            .name(format!("vcpu{}", self.id))
            .stack_size(STACK)
            .spawn(move || {
                let panicked = SayPanic(self.ends.clone());
                let end = self.run();
                let SayPanic(ends) = &panicked;
                match end {
                    Ok(Some(exit)) => ends.send(Ok(exit)),
                    Ok(None) => {}
                    Err(e) => ends.send(Err(e)),
                }
                std::mem::forget(panicked);
            })
            .map(Running)
            .map_err(Error::system("start a vCPU's thread"))
    }

    /// Runs until the guest ends the VM (how), or somebody else does (none).
    fn run(mut self) -> Result<Option<Exit>, Error> {
        self.cpu.set_up(&self.fd, self.id, self.start.as_ref())?;
        let run: *mut kvm_bindings::kvm_run = self.fd.get_kvm_run();
        // SAFETY: `run` points to the vCPU's shared page, mapped as long as `self.fd`.
        IMMEDIATE_EXIT.set(unsafe { &raw mut (*run).immediate_exit });
        if self.confined {
            confine_thread(ThreadKind::Vcpu)?;
        }
        self.gate.enter(self.id);
        let end = self.serve();
        self.gate.leave(self.id);
        // A late signal must not find a page that is gone.
        IMMEDIATE_EXIT.set(ptr::null_mut());
        end
    }

    fn serve(&mut self) -> Result<Option<Exit>, Error> {
        let gate = self.gate.clone();
        let counters = gate.counters(self.id);
        while !gate.is_closed() || self.pass(&gate)? {
            match self.fd.run() {
                Ok(VcpuExit::MmioRead(address, data)) => {
                    counters.count(Counter::MemoryRead);
                    self.bus.read_memory(address, data);
                }
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    counters.count(Counter::MemoryWrite);
                    self.bus.write_memory(address, data);
                }
                Ok(VcpuExit::IoIn(port, data)) => {
                    counters.count(Counter::PortRead);
                    self.bus.read_port(port, data);
                }
                Ok(VcpuExit::IoOut(port, data)) => {
                    counters.count(Counter::PortWrite);
                    match self.bus.write_port(port, data) {
                        // It has more to say.
                        Some(Exit::Panic) => self.ends.send(Ok(Exit::Panic)),
                        Some(exit) => return Ok(Some(exit)),
                        None => {}
                    }
                }
                Ok(VcpuExit::Shutdown) => return Ok(Some(Exit::TripleFault)),
                Ok(VcpuExit::FailEntry(reason, _)) => {
                    return Err(Error::KvmGaveUp(format!("entry failed, reason {reason:#x}")));
                }
                Ok(VcpuExit::InternalError) => return Err(self.internal_error()),
                // What has no meaning for a guest of ours, and is no harm.
                Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::Hlt) => {
                    counters.count(Counter::Other)
                }
                Ok(other) => return Err(Error::KvmGaveUp(format!("unexpected exit {other:?}"))),
                // A signal, or an AP that still waits for its start.
                Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {
                    counters.count(Counter::Other);
                    // The signal was seen.
                    self.fd.set_kvm_immediate_exit(0);
                }
                Err(source) => return Err(Error::Kvm { call: "KVM_RUN", source }),
            }
        }
        Ok(None)
    }

    /// Passes the gate; `false`: the VM ends.
    fn pass(&mut self, gate: &Gate) -> Result<bool, Error> {
        let passed = gate.pass(self.id, || registers(&self.fd))?;
        // A guest that watches its own clock learns that it was stopped; one without kvm-clock can't (EINVAL).
        let _ = self.fd.kvmclock_ctrl();
        if passed == (Passed::On { nmi: true }) {
            self.fd.nmi().map_err(Error::kvm("KVM_NMI"))?;
        }
        Ok(passed != Passed::End)
    }

    fn internal_error(&mut self) -> Error {
        let rip = self.fd.get_regs().map(|r| r.rip).unwrap_or_default();
        let run = self.fd.get_kvm_run();
        // SAFETY: KVM fills this member of the union for this exit.
        let suberror = unsafe { run.__bindgen_anon_1.internal.suberror };
        let what = match suberror {
            1 => "can't emulate an instruction",
            2 => "a fault while another was delivered",
            3 => "an exit while an event was delivered",
            _ => "unknown internal error",
        };
        Error::KvmGaveUp(format!("{what}, at {rip:#x}"))
    }
}

fn registers(vcpu: &VcpuFd) -> Result<Registers, Error> {
    let general = vcpu.get_regs().map_err(Error::kvm("KVM_GET_REGS"))?;
    let special = vcpu.get_sregs().map_err(Error::kvm("KVM_GET_SREGS"))?;
    let r = &general;
    Ok(Registers {
        rip: r.rip,
        rsp: r.rsp,
        rflags: r.rflags,
        general: [
            r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14,
            r.r15,
        ],
        control: [special.cr0, special.cr2, special.cr3, special.cr4],
        cs: special.cs.selector,
    })
}

/// Ends the VM when a vCPU's thread unwinds, where panics do that.
struct SayPanic(Ends);

impl Drop for SayPanic {
    fn drop(&mut self) {
        self.0.send(Err(Error::KvmGaveUp("a vCPU's thread panicked".into())));
    }
}

impl Running {
    pub(crate) fn join(self) {
        // A thread that panicked has said so.
        let _ = self.0.join();
    }
}

/// Prepares this process for the signal by which the [`Gate`] calls vCPUs.
pub(crate) fn handle_kicks() -> Result<(), Error> {
    extern "C" fn kicked(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        let flag = IMMEDIATE_EXIT.get();
        if !flag.is_null() {
            // SAFETY: this thread's vCPU is alive: it clears the pointer before it goes. A signal that
            // comes just before KVM_RUN thus still ends it.
            unsafe { ptr::write_volatile(flag, 1) };
        }
    }
    register_signal_handler(SIGRTMIN(), kicked).map_err(|e| {
        Error::System("handle the signal that stops vCPUs", io::Error::from_raw_os_error(e.errno()))
    })
}
