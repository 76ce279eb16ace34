//! A hostile guest's driver on a block device: requests whose fields are mostly right, cut anywhere, several
//! under way, on two queues.
//!
//! Found here: a panic or a hang of the device's thread, a request that is never answered, an answer that is not
//! what the disk holds, and a byte outside the disk or of a read-only one that changed.

#![no_main]

use std::{fs::File, os::unix::fs::FileExt};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use virtio::testing::{Buffer, Driver, Used};
use virtio_blk::{Blk, Image};

const SIZES: [u16; 2] = [256; 2];

const SECTOR: usize = 512;
const SECTORS: usize = 128;
const DISK: usize = SECTORS * SECTOR;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

#[derive(Arbitrary, Debug)]
struct Session {
    read_only: bool,
    /// Whether threads wait for the file, or io_uring.
    threads: bool,
    /// Whether the image is in memory, where the device's own thread does everything.
    in_memory: bool,
    actions: Vec<Action>,
}

#[derive(Arbitrary, Debug)]
enum Action {
    Read {
        queue: bool,
        place: Place,
        sectors: u8,
        cut: u8,
    },
    Write {
        queue: bool,
        place: Place,
        sectors: u8,
        cut: u8,
        byte: u8,
    },
    Flush {
        queue: bool,
    },
    Id {
        room: u8,
    },
    Clear {
        zeroes: bool,
        ranges: Vec<(Place, Count, Flags)>,
        cut: u8,
    },
    /// Any header, data and room.
    Raw {
        kind: u32,
        sector: u64,
        data: Vec<u8>,
        room: u8,
        cut: u8,
    },
    Short {
        header: Vec<u8>,
        room: u8,
    },
    /// Requests without waiting for an answer.
    Burst {
        queue: bool,
        count: u8,
        write: bool,
    },
    Reset,
    NoStatus,
    BreakRing {
        queue: bool,
        head: u16,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Place {
    Inside(u8),
    AtEnd(u8),
    Any(u64),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Count {
    Few(u8),
    Any(u32),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Flags {
    Keep,
    Unmap,
    Any(u32),
}

impl Place {
    fn sector(self) -> u64 {
        match self {
            Self::Inside(sector) => u64::from(sector) % SECTORS as u64,
            Self::AtEnd(back) => (SECTORS as u64).wrapping_sub(u64::from(back % 8)),
            Self::Any(sector) => sector,
        }
    }
}

struct Guest {
    driver: Driver,
    file: File,
    read_only: bool,
    /// What the disk must hold.
    model: Vec<u8>,
}

/// Where so many sectors lie on the disk, if they do.
fn place(sector: u64, sectors: u64) -> Option<std::ops::Range<usize>> {
    let end = sector.checked_add(sectors).filter(|&end| end <= SECTORS as u64)?;
    Some(sector as usize * SECTOR..end as usize * SECTOR)
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

impl Guest {
    fn start(session: &Session) -> Self {
        let folder = if session.in_memory { "/dev/shm" } else { "/tmp" };
        let file = tempfile::tempfile_in(folder).expect("a file for an image");
        let model: Vec<u8> = (0..DISK).map(|i| (i / SECTOR + 1) as u8).collect();
        file.write_all_at(&model, 0).expect("write the image");
        let image = Image::from_file(file.try_clone().expect("a descriptor"), session.read_only);
        let image = image.expect("a sound image");
        let device = if session.threads {
            Blk::without_io_uring(image, "fuzz", 2).and_then(|mut device| {
                device.start_threads(|| true)?;
                Ok(device)
            })
        } else {
            Blk::new(image, "fuzz", 2)
        };
        let driver = Driver::start(device.expect("a device"));
        Self { driver, file, read_only: session.read_only, model }
    }

    /// One request, its readable part cut in two; returns the status and what else was written.
    fn ask(&mut self, queue: bool, readable: &[u8], room: u32, cut: u8) -> (u8, Vec<u8>) {
        let (first, second) = readable.split_at(usize::from(cut).min(readable.len()));
        let buffers = [Buffer::Readable(first), Buffer::Readable(second), Buffer::Writable(room)];
        answer(self.driver.request(usize::from(queue), &buffers))
    }

    /// The status is the wanted one, and the disk holds what it should.
    fn check(&self, status: u8, wanted: u8) {
        assert_eq!(status, wanted, "the status");
        let mut there = vec![0; DISK];
        self.file.read_exact_at(&mut there, 0).expect("read the image");
        assert!(there == self.model, "the disk holds something else");
        assert_eq!(self.file.metadata().expect("its size").len(), DISK as u64);
    }

    fn clear(&mut self, zeroes: bool, ranges: &[(Place, Count, Flags)], cut: u8) {
        let ranges = &ranges[..ranges.len().min(70)];
        let mut request = header(if zeroes { 13 } else { 11 }, 0);
        let mut wanted = if ranges.is_empty() || ranges.len() > 64 { IOERR } else { OK };
        let mut cleared = Vec::new();
        for &(at, count, flags) in ranges {
            let sector = at.sector();
            let sectors = match count {
                Count::Few(count) => u32::from(count % 16),
                Count::Any(count) => count,
            };
            let flags = match flags {
                Flags::Keep => 0,
                Flags::Unmap => u32::from(zeroes),
                Flags::Any(flags) => flags,
            };
            request.extend(sector.to_le_bytes());
            request.extend(sectors.to_le_bytes());
            request.extend(flags.to_le_bytes());
            let range = place(sector, u64::from(sectors));
            if wanted == OK {
                // The first that is wrong says how.
                if flags & !u32::from(zeroes) != 0 {
                    wanted = UNSUPP;
                } else if range.is_none() {
                    wanted = IOERR;
                }
            }
            cleared.extend(range);
        }
        if self.read_only {
            wanted = IOERR;
        }
        if wanted == OK {
            cleared.into_iter().for_each(|range| self.model[range].fill(0));
        }
        let (status, _) = self.ask(false, &request, 1, cut);
        self.check(status, wanted);
    }

    fn burst(&mut self, queue: bool, count: u8, write: bool) {
        let queue = usize::from(queue);
        // Writes of what is there already: whatever their order, nothing changes.
        let count = usize::from(count % 60);
        for i in 0..count {
            let range = i * SECTOR..(i + 1) * SECTOR;
            let data = self.model[range].to_vec();
            let head = header(u32::from(write), i as u64);
            let buffers = if write {
                [Buffer::Readable(&head), Buffer::Readable(&data), Buffer::Writable(1)]
            } else {
                [Buffer::Readable(&head), Buffer::Readable(&[]), Buffer::Writable(513)]
            };
            let head = self.driver.prepare(queue, &buffers);
            self.driver.publish(queue, head);
        }
        for _ in 0..count {
            let (status, _) = answer(self.driver.wait_used(queue));
            assert_eq!(status, if write && self.read_only { IOERR } else { OK });
        }
        self.check(OK, OK);
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Read { queue, place: at, sectors, cut } => {
                let (sector, sectors) = (at.sector(), usize::from(sectors % 32));
                let room = (sectors * SECTOR + 1) as u32;
                let (status, data) = self.ask(queue, &header(0, sector), room, cut);
                match place(sector, sectors as u64) {
                    None => self.check(status, IOERR),
                    Some(range) => {
                        self.check(status, OK);
                        assert!(data == self.model[range], "it read something else");
                    }
                }
            }
            Action::Write { queue, place: at, sectors, cut, byte } => {
                let (sector, sectors) = (at.sector(), usize::from(sectors % 32));
                let data = vec![byte; sectors * SECTOR];
                let range = place(sector, sectors as u64).filter(|_| !self.read_only);
                let wanted = if range.is_some() { OK } else { IOERR };
                if let Some(range) = range {
                    self.model[range].fill(byte);
                }
                let (status, _) = self.ask(queue, &[header(1, sector), data].concat(), 1, cut);
                self.check(status, wanted);
            }
            Action::Flush { queue } => {
                let (status, _) = self.ask(queue, &header(4, 0), 1, 16);
                self.check(status, OK);
            }
            Action::Id { room } => {
                let (status, data) = self.ask(false, &header(8, 0), u32::from(room % 64) + 1, 16);
                self.check(status, OK);
                let length = data.len().min(20);
                assert_eq!(data[..length], b"fuzz\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..length]);
            }
            Action::Clear { zeroes, ref ranges, cut } => self.clear(zeroes, ranges, cut),
            Action::Raw { kind, sector, ref data, room, cut } => {
                let known = matches!(kind, 0 | 1 | 4 | 8 | 11 | 13);
                let request = [&header(kind, sector)[..], data].concat();
                let (status, _) = self.ask(false, &request, u32::from(room) + 1, cut);
                assert!(status <= UNSUPP && (known || status == UNSUPP), "status {status}");
                // It may have been a sound write.
                self.file.read_exact_at(&mut self.model, 0).expect("read the image");
            }
            Action::Short { ref header, room } => {
                let header = &header[..header.len().min(15)];
                let (status, _) = self.ask(false, header, u32::from(room) + 1, room);
                self.check(status, IOERR);
            }
            Action::Burst { queue, count, write } => self.burst(queue, count, write),
            Action::Reset => {
                self.driver.add(0, &[Buffer::Readable(&header(0, 0)), Buffer::Writable(4097)]);
                self.driver.add(1, &[Buffer::Readable(&header(4, 0)), Buffer::Writable(1)]);
                self.driver.initialise(&SIZES);
            }
            Action::NoStatus => {
                self.driver.add(0, &[Buffer::Readable(&header(0, 0))]);
                self.driver.wait_needs_reset();
                self.driver.initialise(&SIZES);
            }
            Action::BreakRing { queue, head } => {
                self.driver.publish(usize::from(queue), head.max(SIZES[0]));
                self.driver.wait_needs_reset();
                self.driver.initialise(&SIZES);
            }
        }
    }
}

/// The status byte, and what was written before it.
fn answer(used: Used) -> (u8, Vec<u8>) {
    let mut written = used.written;
    assert!(used.length as usize <= written.len(), "more than there was room for");
    let status = written.pop().expect("room for a status byte");
    (status, written)
}

fuzz_target!(|session: Session| {
    let mut guest = Guest::start(&session);
    for action in session.actions.iter().take(48) {
        guest.act(action);
    }
    // However it was treated, it serves the next driver.
    guest.driver.initialise(&SIZES);
    guest.act(&Action::Read { queue: true, place: Place::Inside(0), sectors: 8, cut: 16 });
});
