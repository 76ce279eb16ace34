//! A disk's threads get through every kind of request under their filter: it would end this process.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{env, fs::File};

use nofear_vmm::{ThreadKind, confine_thread};
use rustix::fs::{Advice, fadvise, fsync, unlink};
use virtio::testing::{Buffer, Driver, memory};
use virtio_blk::{Blk, Image};

const SIZE: u64 = 1 << 20;

fn file(folder: &str, name: &str) -> File {
    let path = format!("{folder}/nofear-filter-{}-{name}", std::process::id());
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    unlink(path).unwrap();
    file.set_len(SIZE).unwrap();
    file
}

/// A request of this type at sector 8, with data either way; returns its status.
fn ask(driver: &mut Driver, kind: u32, data: &[u8], room: u32) -> u8 {
    let header = [&kind.to_le_bytes()[..], &[0; 4], &8u64.to_le_bytes()].concat();
    let buffers = [Buffer::Readable(&header), Buffer::Readable(data), Buffer::Writable(room + 1)];
    *driver.request(0, &buffers).written.last().unwrap()
}

fn every_request(device: Blk, file: &File) {
    let mut driver = Driver::start_on(device, memory(), |worker| {
        confine_thread(ThreadKind::Disk).unwrap();
        worker.run().unwrap();
    });
    let range = [&8u64.to_le_bytes()[..], &8u32.to_le_bytes(), &[0; 4]].concat();
    for _ in 0..2 {
        assert_eq!(ask(&mut driver, 1, &[7; 4096], 0), 0, "write");
        assert_eq!(ask(&mut driver, 0, &[], 4096), 0, "read");
        assert_eq!(ask(&mut driver, 4, &[], 0), 0, "flush");
        fsync(file).unwrap();
        fadvise(file, 0, None, Advice::DontNeed).unwrap();
        assert_eq!(ask(&mut driver, 0, &[], 65_536), 0, "read from the disk");
        assert_eq!(ask(&mut driver, 8, &[], 20), 0, "name");
        assert_eq!(ask(&mut driver, 13, &range, 0), 0, "write zeroes");
        assert_eq!(ask(&mut driver, 11, &range, 0), 0, "discard");
        assert_eq!(ask(&mut driver, 99, &[], 0), 2, "unknown");
        driver.initialise(&[256]);
    }
    file.set_len(0).unwrap();
    assert_eq!(ask(&mut driver, 0, &[], 4096), 1, "an error, which is logged");
}

#[test]
fn every_request_is_served_under_the_filter_of_a_disk() {
    for folder in ["/dev/shm", env::temp_dir().to_str().unwrap()] {
        let image = file(folder, "ring");
        let device = Image::from_file(image.try_clone().unwrap(), false).unwrap();
        every_request(Blk::new(device, "disk", 1).unwrap(), &image);

        let image = file(folder, "threads");
        let device = Image::from_file(image.try_clone().unwrap(), false).unwrap();
        let mut device = Blk::without_io_uring(device, "disk", 1).unwrap();
        device.start_threads(|| confine_thread(ThreadKind::Disk).is_ok()).unwrap();
        every_request(device, &image);
    }
}
