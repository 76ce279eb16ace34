//! The guest's serial port: kernel messages, into a bounded ring and, if wanted, to standard error.

use std::{
    collections::VecDeque,
    io::{self, Write},
    os::fd::{AsRawFd, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_superio::{Serial, Trigger, serial::NoEvents};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::{Console, Error};

/// The ring keeps the last 64 KiB.
const RING: usize = 64 << 10;

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The last messages of the guest's kernel.
#[derive(Clone, Debug)]
pub(crate) struct Ring(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    said: Mutex<Said>,
    /// Readable when there is more, while somebody watches.
    news: EventFd,
    watched: AtomicBool,
}

#[derive(Debug, Default)]
struct Said {
    last: VecDeque<u8>,
    /// All that there ever was, in bytes.
    count: u64,
}

impl Ring {
    pub(crate) fn new() -> Result<Self, Error> {
        let news =
            EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(Error::system("eventfd for the console"))?;
        Ok(Self(Arc::new(Inside { said: Mutex::default(), news, watched: AtomicBool::new(false) })))
    }

    pub(crate) fn contents(&self) -> Vec<u8> {
        self.said().last.iter().copied().collect()
    }

    /// What was said behind so many bytes, as far as it is still there, and the number for the next time.
    pub(crate) fn since(&self, count: u64) -> (Vec<u8>, u64) {
        // Before it is read, so that nothing is missed.
        let _ = self.0.news.read();
        let said = self.said();
        let new = usize::try_from(said.count.saturating_sub(count)).unwrap_or(usize::MAX);
        let old = said.last.len().saturating_sub(new);
        (said.last.iter().skip(old).copied().collect(), said.count)
    }

    pub(crate) fn watch(&self, watched: bool) {
        self.0.watched.store(watched, Ordering::Release);
    }

    pub(crate) fn news(&self) -> BorrowedFd<'_> {
        // SAFETY: it is open for as long as the ring is there, and so the borrow.
        unsafe { BorrowedFd::borrow_raw(self.0.news.as_raw_fd()) }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, bytes: &[u8]) {
        let mut said = self.said();
        for &byte in bytes {
            if said.last.len() == RING {
                said.last.pop_front();
            }
            said.last.push_back(byte);
        }
        said.count = said.count.wrapping_add(bytes.len() as u64);
        drop(said);
        if self.0.watched.load(Ordering::Acquire) {
            // Fails when it is full of news.
            let _ = self.0.news.write(1);
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

    /// Gives the guest as many of these bytes as there is room for, and says how many.
    pub(crate) fn type_in(&mut self, bytes: &[u8]) -> usize {
        let room = self.uart.fifo_capacity().min(bytes.len());
        if room == 0 {
            return 0;
        }
        self.uart.enqueue_raw_bytes(&bytes[..room]).unwrap_or(0)
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
        let ring = Ring::new().unwrap();
        ring.watch(true);
        let mut port = SerialPort::new(ring.clone(), Console::Ring).unwrap();
        for i in 0..2 * RING {
            port.write(0, (i % 251) as u8);
        }
        let kept = ring.contents();
        assert_eq!(kept.len(), RING);
        assert_eq!(kept.last(), Some(&(((2 * RING - 1) % 251) as u8)));
        let all = 2 * RING as u64;
        assert_eq!(ring.since(0), (kept.clone(), all));
        assert_eq!(ring.since(all - 2), (kept[RING - 2..].to_vec(), all));
        assert_eq!((ring.since(all), ring.since(u64::MAX)), ((Vec::new(), all), (Vec::new(), all)));
    }

    #[test]
    fn what_is_typed_comes_to_the_guest_and_no_more_than_fits() {
        let mut port = SerialPort::new(Ring::new().unwrap(), Console::Ring).unwrap();
        let taken = port.type_in(&[b'k'; 1000]);
        assert!((1..1000).contains(&taken), "{taken}");
        assert_eq!(port.type_in(b"x"), 0);
        assert_eq!((0..taken).map(|_| port.read(0)).collect::<Vec<_>>(), vec![b'k'; taken]);
        assert_eq!(port.type_in(b"x"), 1);
        // A guest that turns the port on itself gets none.
        port.write(4, 0x10);
        assert_eq!(port.type_in(b"x"), 0);
    }

    #[test]
    fn a_vcpus_filter_lets_the_serial_port_speak() {
        let vcpu = std::thread::spawn(|| {
            let mut port = SerialPort::new(Ring::new().unwrap(), Console::Stderr).unwrap();
            // A call that is not on the list ends the process.
            crate::confine_thread(crate::ThreadKind::Vcpu).unwrap();
            port.write(0, b'.');
        });
        vcpu.join().unwrap();
    }
}
