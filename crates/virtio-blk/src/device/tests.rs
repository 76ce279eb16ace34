use std::{
    fs::File,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt},
    },
    sync::LazyLock,
};

use virtio::testing::{Buffer, Driver, Used};

use super::*;
use crate::ImageError;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH_REQUEST: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD_REQUEST: u32 = 11;
const WRITE_ZEROES_REQUEST: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

const SIZE: u64 = 4 << 20;

/// Where an image lies, and who waits for it.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// tmpfs: the device's own thread.
    Memory,
    /// A disk, through io_uring where this machine has it.
    Ring,
    /// A disk, through threads.
    Threads,
    /// A disk, and no threads were started.
    NoThreads,
}

const WAYS: [Way; 4] = [Way::Memory, Way::Ring, Way::Threads, Way::NoThreads];

fn content() -> &'static [u8] {
    static CONTENT: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..SIZE as u32).map(|i| (i ^ i >> 9) as u8).collect());
    &CONTENT
}

/// An image with known content that the test can look into.
fn image(way: Way) -> File {
    let file = match way {
        Way::Memory => tempfile::tempfile_in("/dev/shm").unwrap(),
        _ => tempfile::tempfile_in(std::env::temp_dir()).unwrap(),
    };
    file.write_all_at(content(), 0).unwrap();
    file
}

fn blk(way: Way, file: &File, read_only: bool) -> Blk {
    let image = Image::from_file(file.try_clone().unwrap(), read_only).unwrap();
    match way {
        Way::Memory | Way::Ring => Blk::new(image, "serial-1", 2).unwrap(),
        Way::NoThreads => Blk::without_io_uring(image, "serial-1", 2).unwrap(),
        Way::Threads => {
            let mut blk = Blk::without_io_uring(image, "serial-1", 2).unwrap();
            blk.start_threads(|| true).unwrap();
            blk
        }
    }
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

/// The status byte of an answer.
fn status(used: &Used) -> u8 {
    *used.written.last().unwrap()
}

fn read(driver: &mut Driver, sector: u64, bytes: u32) -> (u8, Vec<u8>) {
    let used = driver
        .request(0, &[Buffer::Readable(&header(IN, sector)), Buffer::Writable(bytes), Buffer::Writable(1)]);
    (status(&used), used.written[..bytes as usize].to_vec())
}

fn write(driver: &mut Driver, sector: u64, data: &[u8]) -> u8 {
    let used = driver
        .request(0, &[Buffer::Readable(&header(OUT, sector)), Buffer::Readable(data), Buffer::Writable(1)]);
    status(&used)
}

/// A request without data for the guest.
fn ask(driver: &mut Driver, kind: u32, data: &[u8]) -> u8 {
    let used =
        driver.request(0, &[Buffer::Readable(&header(kind, 0)), Buffer::Readable(data), Buffer::Writable(1)]);
    status(&used)
}

#[test]
fn what_is_written_is_read_again_and_lies_in_the_image() {
    for way in WAYS {
        let file = image(way);
        let mut driver = Driver::start(blk(way, &file, false));
        assert_eq!(read(&mut driver, 3, 8192), (OK, content()[1536..9728].to_vec()), "{way:?}");
        let data: Vec<u8> = (0..4096u32).map(|i| (i * 7) as u8).collect();
        assert_eq!(write(&mut driver, 5, &data), OK, "{way:?}");
        assert_eq!(ask(&mut driver, FLUSH_REQUEST, &[]), OK, "{way:?}");
        assert_eq!(read(&mut driver, 5, 4096), (OK, data.clone()), "{way:?}");
        let mut there = vec![0; 4096];
        file.read_exact_at(&mut there, 5 * 512).unwrap();
        assert_eq!(there, data, "{way:?}");
        let last = SIZE / 512 - 1;
        assert_eq!(read(&mut driver, last, 512), (OK, content()[SIZE as usize - 512..].to_vec()));
    }
}

#[test]
fn a_request_may_be_cut_anywhere() {
    let file = image(Way::Ring);
    let mut driver = Driver::start(blk(Way::Ring, &file, false));
    let request = [header(OUT, 1), vec![9; 1024]].concat();
    let pieces = [&request[..3], &request[3..16], &request[16..17], &request[17..700], &request[700..]];
    let mut buffers: Vec<_> = pieces.iter().map(|piece| Buffer::Readable(piece)).collect();
    buffers.push(Buffer::Writable(1));
    assert_eq!(status(&driver.request(0, &buffers)), OK);
    // Header and data in one buffer, data and status byte in one.
    let used = driver.request(0, &[Buffer::Readable(&header(IN, 1)), Buffer::Writable(1025)]);
    assert_eq!((used.length, &used.written[..1024], status(&used)), (1025, &[9; 1024][..], OK));
}

#[test]
fn sectors_beyond_the_end_are_an_error_and_nothing_is_done() {
    for way in WAYS {
        let file = image(way);
        let mut driver = Driver::start(blk(way, &file, false));
        let end = SIZE / 512;
        for sector in [end, end - 1, u64::MAX, u64::MAX - 1, u64::MAX / 512, i64::MAX as u64 / 512] {
            assert_eq!(read(&mut driver, sector, 1024).0, IOERR, "{way:?} {sector}");
            assert_eq!(write(&mut driver, sector, &[1; 1024]), IOERR, "{way:?} {sector}");
            for kind in [DISCARD_REQUEST, WRITE_ZEROES_REQUEST] {
                assert_eq!(ask(&mut driver, kind, &range(sector, 2, 0)), IOERR, "{way:?} {sector}");
            }
        }
        assert_eq!(file.metadata().unwrap().len(), SIZE);
        assert_eq!(read(&mut driver, 0, 4096), (OK, content()[..4096].to_vec()));
    }
}

#[test]
fn lengths_that_are_no_sectors_and_short_headers_are_errors() {
    let file = image(Way::Ring);
    let mut driver = Driver::start(blk(Way::Ring, &file, false));
    for bytes in [1, 511, 513] {
        assert_eq!(read(&mut driver, 0, bytes).0, IOERR);
        assert_eq!(write(&mut driver, 0, &vec![1; bytes as usize]), IOERR);
    }
    for cut in 0..16 {
        let used = driver.request(0, &[Buffer::Readable(&header(IN, 0)[..cut]), Buffer::Writable(513)]);
        assert_eq!(status(&used), IOERR);
    }
    assert_eq!(read(&mut driver, 0, 0).0, OK, "nothing at all is a whole number of sectors");
    assert_eq!(write(&mut driver, 0, &[]), OK);
    assert_eq!(read(&mut driver, 0, 512).1, content()[..512]);
}

#[test]
fn a_request_without_room_for_its_status_stops_the_device_until_it_is_reset() {
    let file = image(Way::Ring);
    let mut driver = Driver::start(blk(Way::Ring, &file, false));
    driver.add(0, &[Buffer::Readable(&header(OUT, 0)), Buffer::Readable(&[0; 512])]);
    driver.wait_needs_reset();
    driver.initialise(&[QUEUE_SIZE; 2]);
    assert_eq!(read(&mut driver, 0, 512), (OK, content()[..512].to_vec()));
}

#[test]
fn unknown_requests_are_unsupported() {
    let file = image(Way::Ring);
    let mut driver = Driver::start(blk(Way::Ring, &file, false));
    for kind in [2, 3, 5, 7, 9, 14, 15, 24, u32::MAX] {
        assert_eq!(ask(&mut driver, kind, &[]), UNSUPP, "{kind}");
    }
}

#[test]
fn the_name_fills_as_much_as_there_is_room_for() {
    let file = image(Way::Ring);
    let mut driver = Driver::start(blk(Way::Ring, &file, false));
    let used = driver.request(0, &[Buffer::Readable(&header(GET_ID, 0)), Buffer::Writable(21)]);
    assert_eq!((used.length, status(&used)), (21, OK));
    assert_eq!(&used.written[..20], b"serial-1\0\0\0\0\0\0\0\0\0\0\0\0");
    let used = driver.request(0, &[Buffer::Readable(&header(GET_ID, 0)), Buffer::Writable(4)]);
    assert_eq!((&used.written[..3], status(&used)), (&b"ser"[..], OK));
}

#[test]
fn a_read_only_disk_offers_and_does_no_change() {
    let file = image(Way::Ring);
    let mut driver = Driver::start(blk(Way::Ring, &file, true));
    let features = u64::from(driver.get(0x10));
    driver.set(0x14, 0);
    assert_ne!(u64::from(driver.get(0x10)) & RO, 0, "{features:#x}");
    assert_eq!(u64::from(driver.get(0x10)) & (DISCARD | WRITE_ZEROES), 0);
    assert_eq!(write(&mut driver, 0, &[1; 512]), IOERR);
    for kind in [DISCARD_REQUEST, WRITE_ZEROES_REQUEST] {
        assert_eq!(ask(&mut driver, kind, &range(0, 8, 0)), IOERR);
    }
    assert_eq!(ask(&mut driver, FLUSH_REQUEST, &[]), OK);
    assert_eq!(read(&mut driver, 0, 512), (OK, content()[..512].to_vec()));
}

#[test]
fn a_discard_gives_space_back_and_zeroes_are_read() {
    for way in WAYS {
        let file = image(way);
        let before = file.metadata().unwrap().blocks();
        let mut driver = Driver::start(blk(way, &file, false));
        let ranges = [range(2048, 2048, 0), range(0, 0, 0), range(4096, 1024, 0)].concat();
        assert_eq!(ask(&mut driver, DISCARD_REQUEST, &ranges), OK, "{way:?}");
        let after = file.metadata().unwrap().blocks();
        assert!(after + 3072 <= before + 64, "{way:?}: {before} blocks, then {after}");
        assert_eq!(read(&mut driver, 2048, 4096), (OK, vec![0; 4096]), "{way:?}");
        assert_eq!(read(&mut driver, 2047, 512).1, content()[2047 * 512..2048 * 512], "{way:?}");
        // As zeroes whose space may go, the same; as others, zeroes all the same.
        for (sector, flags) in [(6144, 1), (7168, 0)] {
            assert_eq!(ask(&mut driver, WRITE_ZEROES_REQUEST, &range(sector, 512, flags)), OK, "{way:?}");
            assert_eq!(read(&mut driver, sector, 262_144), (OK, vec![0; 262_144]), "{way:?}");
            let there = read(&mut driver, sector - 1, 512).1;
            assert_eq!(there, content()[(sector as usize - 1) * 512..sector as usize * 512], "{way:?}");
        }
        assert_eq!(file.metadata().unwrap().len(), SIZE);
    }
}

#[test]
fn ranges_of_a_wrong_form_are_refused() {
    let file = image(Way::Ring);
    let mut driver = Driver::start(blk(Way::Ring, &file, false));
    for kind in [DISCARD_REQUEST, WRITE_ZEROES_REQUEST] {
        assert_eq!(ask(&mut driver, kind, &[]), IOERR, "no range");
        assert_eq!(ask(&mut driver, kind, &range(0, 1, 0)[..15]), IOERR, "part of a range");
        assert_eq!(ask(&mut driver, kind, &range(0, 1, 0).repeat(MAX_RANGES + 1)), IOERR, "too many");
        assert_eq!(ask(&mut driver, kind, &range(0, 0, 0).repeat(MAX_RANGES)), OK);
        assert_eq!(ask(&mut driver, kind, &range(0, u32::MAX, 0)), IOERR);
        assert_eq!(ask(&mut driver, kind, &range(0, 1, 2)), UNSUPP, "an unknown flag");
    }
    assert_eq!(ask(&mut driver, DISCARD_REQUEST, &range(0, 1, 1)), UNSUPP, "unmap is for zeroes");
    assert_eq!(read(&mut driver, 0, 512).1, content()[..512]);
}

#[test]
fn a_sparse_image_stays_sparse() {
    let file = tempfile::tempfile_in(std::env::temp_dir()).unwrap();
    file.set_len(1 << 40).unwrap();
    let mut driver = Driver::start(blk(Way::Ring, &file, false));
    let last = (1u64 << 40) / 512 - 8;
    assert_eq!(read(&mut driver, last, 4096), (OK, vec![0; 4096]));
    assert_eq!(write(&mut driver, last, &[1; 4096]), OK);
    assert_eq!(ask(&mut driver, WRITE_ZEROES_REQUEST, &range(0, MAX_RANGE_SECTORS, 1)), OK);
    assert!(file.metadata().unwrap().blocks() < 1024);
}

#[test]
fn many_requests_at_once_on_both_queues_are_all_answered() {
    for way in WAYS {
        let file = image(way);
        let mut driver = Driver::start(blk(way, &file, false));
        for round in 0..4u64 {
            // Not in the page cache, where the host can be told so.
            rustix::fs::fsync(&file).unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            let mut waiting = std::collections::HashMap::new();
            for queue in [0, 1] {
                for i in 0..60 {
                    let sector = (round * 977 + queue as u64 * 1999 + i * 131) % (SIZE / 512 - 8);
                    let buffers =
                        [Buffer::Readable(&header(IN, sector)), Buffer::Writable(4096), Buffer::Writable(1)];
                    let head = driver.prepare(queue, &buffers);
                    waiting.insert((queue, head), sector as usize);
                    driver.publish(queue, head);
                }
            }
            for queue in [0, 1] {
                for _ in 0..60 {
                    let used = driver.wait_used(queue);
                    let from = waiting.remove(&(queue, used.head)).unwrap() * 512;
                    assert_eq!((status(&used), used.length), (OK, 4097), "{way:?}");
                    assert_eq!(used.written[..4096], content()[from..from + 4096], "{way:?}");
                }
            }
            assert!(waiting.is_empty());
        }
    }
}

#[test]
fn a_reset_in_the_middle_leaves_a_device_that_works() {
    for way in WAYS {
        let file = image(way);
        let mut driver = Driver::start(blk(way, &file, false));
        for _ in 0..20 {
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            for i in 0..30 {
                driver.add(0, &[Buffer::Readable(&header(IN, i * 200)), Buffer::Writable(65_537)]);
                driver.add(1, &[Buffer::Readable(&header(FLUSH_REQUEST, 0)), Buffer::Writable(1)]);
            }
            driver.initialise(&[QUEUE_SIZE; 2]);
        }
        assert_eq!(read(&mut driver, 9, 512), (OK, content()[4608..5120].to_vec()), "{way:?}");
    }
}

#[test]
fn an_image_that_became_shorter_is_an_error_to_the_guest() {
    for way in WAYS {
        let file = image(way);
        let mut driver = Driver::start(blk(way, &file, false));
        file.set_len(SIZE / 2).unwrap();
        assert_eq!(read(&mut driver, SIZE / 512 - 8, 4096).0, IOERR, "{way:?}");
        assert_eq!(read(&mut driver, SIZE / 1024 - 4, 4096).0, IOERR, "{way:?}");
        assert_eq!(read(&mut driver, 0, 4096).0, OK, "{way:?}");
    }
}

#[test]
fn nothing_is_discarded_after_a_write_that_failed_until_a_reset() {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    // A file that can't grow any more.
    let file: File = memfd_create("image", MemfdFlags::ALLOW_SEALING).unwrap().into();
    file.write_all_at(content(), 0).unwrap();
    let mut driver = Driver::start(blk(Way::Memory, &file, false));
    file.set_len(SIZE / 2).unwrap();
    fcntl_add_seals(&file, SealFlags::GROW).unwrap();
    let sector = |driver: &mut Driver, sector: usize| read(driver, sector as u64, 512).1;
    // A read that fails changes nothing of that.
    assert_eq!(read(&mut driver, SIZE / 512 - 1, 512).0, IOERR);
    assert_eq!(ask(&mut driver, DISCARD_REQUEST, &range(0, 8, 0)), OK);
    assert_eq!(sector(&mut driver, 7), [0; 512]);
    assert_eq!(write(&mut driver, SIZE / 512 - 1, &[1; 512]), IOERR);
    assert_eq!(ask(&mut driver, DISCARD_REQUEST, &range(8, 8, 0)), OK);
    assert_eq!(sector(&mut driver, 8), content()[8 * 512..9 * 512]);
    // Zeroes are asked for to be read.
    assert_eq!(ask(&mut driver, WRITE_ZEROES_REQUEST, &range(16, 8, 1)), OK);
    assert_eq!(sector(&mut driver, 16), [0; 512]);
    assert_eq!(write(&mut driver, 24, &[1; 512]), OK);
    driver.initialise(&[QUEUE_SIZE; 2]);
    assert_eq!(ask(&mut driver, DISCARD_REQUEST, &range(8, 8, 0)), OK);
    assert_eq!(sector(&mut driver, 8), [0; 512]);
}

#[test]
fn the_configuration_space_says_what_the_disk_is() {
    let file = image(Way::Ring);
    let mut driver = Driver::start(blk(Way::Ring, &file, false));
    let mut config = [0; 60];
    for (offset, byte) in (0x100..).zip(&mut config) {
        let mut one = [0];
        driver.transport.read(offset, &mut one);
        *byte = one[0];
    }
    let word = |at: usize| u32::from_le_bytes(config[at..at + 4].try_into().unwrap());
    assert_eq!(u64::from_le_bytes(config[..8].try_into().unwrap()), SIZE / 512, "capacity");
    assert_eq!(word(12), 254, "seg_max");
    assert_eq!(word(20), 512, "blk_size");
    assert_eq!(config[24], 3, "physical_block_exp");
    assert_eq!(config[34..36], [2, 0], "num_queues");
    assert_eq!((word(36), word(40), word(44)), (MAX_RANGE_SECTORS, 64, 8), "discard");
    assert_eq!((word(48), word(52), config[56]), (MAX_RANGE_SECTORS, 64, 1), "write zeroes");
}

#[test]
fn a_driver_may_use_one_queue_of_two() {
    let file = image(Way::Ring);
    let mut driver = Driver::start(blk(Way::Ring, &file, false));
    driver.initialise(&[QUEUE_SIZE]);
    assert_eq!(read(&mut driver, 8, 4096), (OK, content()[4096..8192].to_vec()));
    driver.set(0x50, 1);
    assert_eq!(read(&mut driver, 8, 4096).0, OK, "the other's notification is nothing");
    driver.initialise(&[QUEUE_SIZE; 2]);
    assert_eq!(read(&mut driver, 8, 4096).0, OK);
}

#[test]
fn a_device_that_is_gone_leaves_its_image_unlocked() {
    for way in WAYS {
        let file = image(way);
        let again =
            || File::options().read(true).write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let device = blk(way, &again().unwrap(), false);
        let refused = Image::from_file(again().unwrap(), false);
        assert!(matches!(refused, Err(ImageError::InUse)), "{way:?}");
        drop(device);
        Image::from_file(again().unwrap(), false).unwrap();
    }
}

#[test]
fn names_that_do_not_fit_are_refused() {
    for id in ["123456789012345678901", "two words", "naïve", "a\0b"] {
        let file = image(Way::Memory);
        let error = Blk::new(Image::from_file(file, false).unwrap(), id, 1).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{id:?}");
    }
}
