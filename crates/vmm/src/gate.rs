//! Where vCPUs stop, and go on: between two visits of the guest.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use vmm_sys_util::signal::SIGRTMIN;

use crate::Error;

/// How long a vCPU may take to come out of the guest, for who asks for its registers.
const COMES_WITHIN: Duration = Duration::from_secs(1);

/// A vCPU's registers, as far as they say where it is and what it does there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// The instruction, and the stack.
    pub rip: u64,
    /// Its stack.
    pub rsp: u64,
    /// Its flags.
    pub rflags: u64,
    /// rax, rbx, rcx, rdx, rsi, rdi, rbp, r8 to r15.
    pub general: [u64; 15],
    /// cr0, cr2, cr3, cr4.
    pub control: [u64; 4],
    /// The code segment's selector: its last two bits are 0 in the guest's kernel, and 3 in its programs.
    pub cs: u16,
}

/// How often a vCPU came out of the guest to this process, by the reason. KVM itself serves others, which are not
/// counted here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exits {
    /// Reads of device registers.
    pub memory_reads: u64,
    /// Writes to device registers.
    pub memory_writes: u64,
    /// Reads of ports.
    pub port_reads: u64,
    /// Writes to ports.
    pub port_writes: u64,
    /// Signals of this process, and what else has no meaning for the guest.
    pub other: u64,
}

/// What a vCPU counts while it runs.
#[derive(Debug, Default)]
pub(crate) struct Counters([AtomicU64; 5]);

/// Which of the [`Counters`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Counter {
    MemoryRead,
    MemoryWrite,
    PortRead,
    PortWrite,
    Other,
}

impl Counters {
    pub(crate) fn count(&self, counter: Counter) {
        self.0[counter as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn exits(&self) -> Exits {
        let [memory_reads, memory_writes, port_reads, port_writes, other] =
            [0, 1, 2, 3, 4].map(|at: usize| self.0[at].load(Ordering::Relaxed));
        Exits { memory_reads, memory_writes, port_reads, port_writes, other }
    }
}

/// The gate of all vCPUs of a VM.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    /// Whether a vCPU has to look at the rest. Alone, so that the way into the guest costs a load.
    closed: AtomicBool,
    state: Mutex<State>,
    /// The gate opens, or a vCPU has come to it.
    changed: Condvar,
    counters: Vec<Counters>,
}

#[derive(Debug, Default)]
struct State {
    paused: bool,
    /// Somebody wants the registers; then it opens again, unless paused.
    asked: u32,
    ending: bool,
    vcpus: Vec<Place>,
}

#[derive(Clone, Debug, Default)]
struct Place {
    /// The thread, while it may be signalled.
    thread: Option<libc::pthread_t>,
    /// Its registers, while it waits at the gate.
    waits: Option<Registers>,
    /// When it goes on, it is interrupted.
    nmi: bool,
}

/// How a vCPU goes on behind the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    /// Not at all: the VM ends.
    End,
    /// Into the guest.
    On {
        /// With an interrupt that can't be masked.
        nmi: bool,
    },
}

impl State {
    fn opens(&self) -> bool {
        self.ending || !self.paused && self.asked == 0
    }

    /// Calls everyone out of the guest.
    fn call(&self) {
        for thread in self.vcpus.iter().filter_map(|place| place.thread) {
            // SAFETY: the thread takes itself off the list, under the same lock, before it ends.
            unsafe { libc::pthread_kill(thread, SIGRTMIN()) };
        }
    }
}

impl Gate {
    /// An open one, for so many vCPUs.
    pub(crate) fn new(vcpus: u8) -> Self {
        let count = usize::from(vcpus);
        Self(Arc::new(Inside {
            closed: AtomicBool::new(false),
            state: Mutex::new(State { vcpus: vec![Place::default(); count], ..State::default() }),
            changed: Condvar::new(),
            counters: std::iter::repeat_with(Counters::default).take(count).collect(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, state: &State) {
        self.0.closed.store(true, Ordering::Release);
        state.call();
    }

    fn open(&self, state: &State) {
        if state.opens() {
            self.0.closed.store(state.ending, Ordering::Release);
            self.0.changed.notify_all();
        }
    }

    pub(crate) fn counters(&self, vcpu: u8) -> &Counters {
        &self.0.counters[usize::from(vcpu)]
    }

    /// Whether there is such a vCPU.
    pub(crate) fn has(&self, vcpu: u8) -> bool {
        usize::from(vcpu) < self.0.counters.len()
    }

    /// A vCPU's thread, from now on until [`leave`](Self::leave), can be called.
    pub(crate) fn enter(&self, vcpu: u8) {
        // SAFETY: asks for a name.
        let thread = unsafe { libc::pthread_self() };
        self.state().vcpus[usize::from(vcpu)].thread = Some(thread);
    }

    pub(crate) fn leave(&self, vcpu: u8) {
        self.state().vcpus[usize::from(vcpu)] = Place::default();
        self.0.changed.notify_all();
    }

    /// Whether a vCPU must come to the gate before it goes on.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Waits until the gate opens, if it is closed. `registers` is asked for once the vCPU has to wait.
    pub(crate) fn pass(
        &self,
        vcpu: u8,
        registers: impl FnOnce() -> Result<Registers, Error>,
    ) -> Result<Passed, Error> {
        let mut state = self.state();
        if !state.opens() {
            let registers = registers()?;
            while !state.opens() {
                state.vcpus[usize::from(vcpu)].waits = Some(registers);
                self.0.changed.notify_all();
                state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.vcpus[usize::from(vcpu)].waits = None;
        }
        let nmi = std::mem::take(&mut state.vcpus[usize::from(vcpu)].nmi);
        Ok(if state.ending { Passed::End } else { Passed::On { nmi } })
    }

    pub(crate) fn pause(&self) {
        let mut state = self.state();
        state.paused = true;
        self.close(&state);
    }

    pub(crate) fn resume(&self) {
        let mut state = self.state();
        state.paused = false;
        self.open(&state);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.state().paused
    }

    /// Opens for good, and calls everyone out of the guest: the VM ends.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.ending = true;
        self.open(&state);
        state.call();
    }

    /// The registers of each vCPU; of one that does not come out of the guest in time, nothing. The one that is
    /// `interrupted` gets an NMI when it goes on.
    pub(crate) fn registers(&self, interrupted: Option<u8>) -> Vec<Option<Registers>> {
        let mut state = self.state();
        if let Some(vcpu) = interrupted.and_then(|vcpu| state.vcpus.get_mut(usize::from(vcpu))) {
            vcpu.nmi = true;
        }
        state.asked += 1;
        self.close(&state);
        let late = |state: &mut State| {
            !state.ending && state.vcpus.iter().any(|vcpu| vcpu.thread.is_some() && vcpu.waits.is_none())
        };
        let (mut state, _) = self
            .0
            .changed
            .wait_timeout_while(state, COMES_WITHIN, late)
            .unwrap_or_else(PoisonError::into_inner);
        let registers = state.vcpus.iter().map(|vcpu| vcpu.waits).collect();
        state.asked -= 1;
        self.open(&state);
        registers
    }

    pub(crate) fn exits(&self) -> Vec<Exits> {
        self.0.counters.iter().map(Counters::exits).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc::channel, thread};

    use super::*;

    /// Stands for a guest: goes round until the gate is closed.
    fn vcpu(gate: &Gate, id: u8) {
        gate.enter(id);
        let registers = || Ok(Registers { rip: u64::from(id) + 1, ..Registers::default() });
        while !gate.is_closed() || gate.pass(id, registers).unwrap() != Passed::End {
            gate.counters(id).count(Counter::PortWrite);
            thread::yield_now();
        }
        gate.leave(id);
    }

    #[test]
    fn vcpus_stop_tell_their_registers_and_go_on() {
        crate::vcpu::handle_kicks().unwrap();
        let gate = Gate::new(2);
        let (done, end) = channel();
        for id in 0..2 {
            let (gate, done) = (gate.clone(), done.clone());
            thread::spawn(move || {
                vcpu(&gate, id);
                done.send(()).unwrap();
            });
        }
        let moves = || {
            let before = gate.exits();
            thread::sleep(Duration::from_millis(20));
            gate.exits().iter().zip(before).all(|(after, before)| *after != before)
        };
        let registers = || gate.registers(None).iter().map(|one| one.unwrap().rip).collect::<Vec<_>>();
        while !moves() {}
        assert_eq!(registers(), [1, 2]);
        while !moves() {}
        gate.pause();
        assert_eq!(registers(), [1, 2]);
        assert!(!moves() && gate.is_paused());
        gate.resume();
        while !moves() {}
        gate.pause();
        gate.end();
        for _ in 0..2 {
            end.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        // Those that have gone are not waited for, nor signalled.
        assert_eq!(gate.registers(Some(9)), [None, None]);
    }
}
