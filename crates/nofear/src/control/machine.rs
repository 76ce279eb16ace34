//! What a VM's clients want of the machine itself, and not of its session: answered at once.

use std::os::fd::BorrowedFd;

use super::protocol::{Ask, DeviceCounts, Event, Exits, Registers, Statistics};
use crate::profile::image::human;

/// A VM that runs.
pub trait Machine {
    /// Stops its CPUs.
    fn pause(&self);
    /// Lets them go on.
    fn resume(&self);
    /// Whether it was paused.
    fn is_paused(&self) -> bool;
    /// The guest is to do without so many bytes; `false`: there is no way to say so.
    fn set_balloon(&self, bytes: u64) -> bool;
    /// What was counted; the size of the memory is not looked at.
    fn statistics(&self) -> Statistics;
    /// Of each CPU.
    fn registers(&self) -> Vec<Option<Registers>>;
    /// The same, with an NMI for the CPU of this number; none: there is no such CPU.
    fn interrupt(&self, cpu: u8) -> Option<Vec<Option<Registers>>>;
    /// The last messages of its kernel.
    fn log(&self) -> Vec<u8>;
    /// What came on its serial port behind so many bytes, and the number for the next time.
    fn console_since(&self, from: u64) -> (Vec<u8>, u64);
    /// Puts bytes into its serial port, and says how many.
    fn type_to_console(&self, bytes: &[u8]) -> usize;
    /// What is readable when more has come on its serial port, while somebody watches; none: there is none.
    fn console_changed(&self) -> Option<BorrowedFd<'_>>;
    /// Whether somebody watches.
    fn watch_console(&self, watched: bool);
}

impl Machine for vmm::Handle {
    fn pause(&self) {
        self.pause();
    }

    fn resume(&self) {
        self.resume();
    }

    fn is_paused(&self) -> bool {
        self.is_paused()
    }

    fn set_balloon(&self, bytes: u64) -> bool {
        self.set_balloon(bytes)
    }

    fn statistics(&self) -> Statistics {
        let balloon = self.balloon().unwrap_or_default();
        Statistics {
            cpus: self.exits().into_iter().map(Exits::from).collect(),
            memory: 0,
            balloon_asked: balloon.asked,
            balloon_held: balloon.held,
            reported_free: balloon.reported,
            devices: self.devices().into_iter().map(DeviceCounts::from).collect(),
        }
    }

    fn registers(&self) -> Vec<Option<Registers>> {
        self.registers().into_iter().map(|cpu| cpu.map(Registers::from)).collect()
    }

    fn interrupt(&self, cpu: u8) -> Option<Vec<Option<Registers>>> {
        let registers = self.interrupt(cpu)?;
        Some(registers.into_iter().map(|cpu| cpu.map(Registers::from)).collect())
    }

    fn log(&self) -> Vec<u8> {
        self.console()
    }

    fn console_since(&self, from: u64) -> (Vec<u8>, u64) {
        self.console_since(from)
    }

    fn type_to_console(&self, bytes: &[u8]) -> usize {
        self.type_to_console(bytes)
    }

    fn console_changed(&self) -> Option<BorrowedFd<'_>> {
        Some(self.console_changed())
    }

    fn watch_console(&self, watched: bool) {
        self.watch_console(watched);
    }
}

impl From<vmm::Exits> for Exits {
    fn from(exits: vmm::Exits) -> Self {
        let vmm::Exits { memory_reads, memory_writes, port_reads, port_writes, other } = exits;
        Self { memory_reads, memory_writes, port_reads, port_writes, other }
    }
}

impl From<(String, vmm::virtio::Counts)> for DeviceCounts {
    fn from((name, counts): (String, vmm::virtio::Counts)) -> Self {
        let vmm::virtio::Counts { requests, from_guest, to_guest, errors } = counts;
        Self { name, requests, from_guest, to_guest, errors }
    }
}

/// In the order of [`vmm::Registers::general`].
const GENERAL: [&str; 15] =
    ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

impl From<vmm::Registers> for Registers {
    fn from(registers: vmm::Registers) -> Self {
        let named = GENERAL.into_iter().zip(registers.general);
        let control = ["cr0", "cr2", "cr3", "cr4"].into_iter().zip(registers.control);
        let others = [
            ("rip", registers.rip),
            ("rsp", registers.rsp),
            ("rflags", registers.rflags),
            ("cs", registers.cs.into()),
        ];
        let all = named.chain(control).chain(others);
        Self(all.map(|(name, value)| (name.to_string(), format!("{value:#x}"))).collect())
    }
}

/// The least that a guest keeps.
const LEAST: u64 = vmm::MIN_MEMORY;

/// The answer to what is for the machine; `memory` is what the guest was given.
pub fn answer(machine: &dyn Machine, memory: u64, ask: &Ask) -> Option<Event> {
    Some(match ask {
        Ask::Pause => {
            machine.pause();
            Event::Done
        }
        Ask::Resume => {
            machine.resume();
            Event::Done
        }
        Ask::Balloon { memory: kept } if !(LEAST..=memory).contains(kept) => Event::Error {
            text: format!("the guest can keep {} to {} of its memory", human(LEAST), human(memory)),
        },
        Ask::Balloon { memory: kept } => match machine.set_balloon(memory - kept) {
            true => Event::Done,
            false => Event::Error { text: "the VM has no balloon".into() },
        },
        Ask::Statistics => Event::Statistics(Statistics { memory, ..machine.statistics() }),
        Ask::Registers => Event::Registers { cpus: machine.registers() },
        Ask::Nmi { cpu } => match machine.interrupt(*cpu) {
            Some(cpus) => Event::Registers { cpus },
            None => Event::Error { text: format!("it has no CPU {cpu}") },
        },
        Ask::Log => Event::Log { text: machine.log().into() },
        Ask::Status
        | Ask::Stop { .. }
        | Ask::Exec(_)
        | Ask::NetLog { .. }
        | Ask::Wait
        | Ask::Show { .. }
        | Ask::Console => return None,
    })
}
