//! The guest's serial port: kernel messages, into a bounded ring and, if wanted, to standard error.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_superio::{Serial, Trigger, serial::NoEvents};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::{Console, Error};

/// The ring keeps the last 64 KiB.
const RING: usize = 64 << 10;

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The last messages of the guest's kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ring(Arc<Mutex<VecDeque<u8>>>);

impl Ring {
    pub(crate) fn contents(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    fn push(&self, bytes: &[u8]) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for &byte in bytes {
            if ring.len() == RING {
                ring.pop_front();
            }
            ring.push_back(byte);
        }
    }
}

/// An 8250 at the first PC port.
pub(crate) struct SerialPort {
    uart: Serial<Line, NoEvents, Sink>,
    line: EventFd,
}

impl SerialPort {
    pub(crate) fn new(ring: Ring, console: Console) -> Result<Self, Error> {
        let line =
            EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(Error::system("eventfd for the serial port"))?;
        let end = line.try_clone().map_err(Error::system("eventfd for the serial port"))?;
        Ok(Self { uart: Serial::new(Line(end), Sink { ring, console }), line })
    }

    pub(crate) fn interrupt(&self) -> &EventFd {
        &self.line
    }

    pub(crate) fn read(&mut self, register: u8) -> u8 {
        self.uart.read(register)
    }

    pub(crate) fn write(&mut self, register: u8, value: u8) {
        // Fails only when standard error does, and then the ring has the byte.
        let _ = self.uart.write(register, value);
    }
}

struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

struct Sink {
    ring: Ring,
    console: Console,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.ring.push(bytes);
        if self.console == Console::Stderr {
            // The guest must not speak to the user's terminal in its control sequences.
            let plain: Vec<u8> = bytes.iter().map(|&b| if is_plain(b) { b } else { b'?' }).collect();
            // A reader that stalls must not stall the guest, nor its end: what it does not take is in the ring.
            let stderr = io::stderr();
            if matches!(poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&NOW)), Ok(1)) {
                stderr.lock().write_all(&plain)?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r' | b'\t' | b' '..=b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_end_of_what_the_guest_wrote() {
        let ring = Ring::default();
        let mut port = SerialPort::new(ring.clone(), Console::Ring).unwrap();
        for i in 0..2 * RING {
            port.write(0, (i % 251) as u8);
        }
        let kept = ring.contents();
        assert_eq!(kept.len(), RING);
        assert_eq!(kept.last(), Some(&(((2 * RING - 1) % 251) as u8)));
    }
    #[test]
    fn a_vcpus_filter_lets_the_serial_port_speak() {
        let vcpu = std::thread::spawn(|| {
            let mut port = SerialPort::new(Ring::default(), Console::Stderr).unwrap();
            // A call that is not on the list ends the process.
            crate::confine_thread(crate::ThreadKind::Vcpu).unwrap();
            port.write(0, b'.');
        });
        vcpu.join().unwrap();
    }
}
