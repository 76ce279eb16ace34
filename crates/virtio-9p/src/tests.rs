use std::{fs, sync::Barrier, thread};

use ninep::{Access, ExportBuilder, Limits};
use virtio::testing::{Buffer, Driver};

use super::*;

const TVERSION: u8 = 100;
const TATTACH: u8 = 104;
const TWALK: u8 = 110;
const TLOPEN: u8 = 12;
const TREAD: u8 = 116;
const TWRITE: u8 = 118;

fn message(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body: Vec<u8> = parts.concat();
    let mut message = (7 + body.len() as u32).to_le_bytes().to_vec();
    message.push(kind);
    message.extend([1, 0]);
    message.extend(body);
    message
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// Where the server is.
#[derive(Clone, Copy, Debug)]
enum Place {
    Here,
    /// On threads that share nothing with the device but what a process would.
    Apart,
}

const PLACES: [Place; 2] = [Place::Here, Place::Apart];

/// A device by that server, which must not end before it.
fn device(place: Place, server: Server) -> NineP {
    match place {
        Place::Here => NineP::new("t", server).unwrap(),
        Place::Apart => {
            let lost = || panic!("the server has ended");
            let (device, servant) = NineP::apart("t", server.limits(), lost).unwrap();
            thread::spawn(move || servant.serve(&server, || true).unwrap());
            device
        }
    }
}

fn start(place: Place) -> (Driver, tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..300_000u32).map(|i| (i ^ i >> 8) as u8).collect();
    fs::write(dir.path().join("file"), &content).unwrap();
    let export = ExportBuilder::new().directory_with("/", dir.path(), Access::READ_WRITE).unwrap();
    let server = Server::new(export.open().unwrap(), Limits::default());
    (Driver::start(device(place, server)), dir, content)
}

/// Sends a request in one piece, with room for an answer, and returns the answer.
fn ask(driver: &mut Driver, request: &[u8]) -> Vec<u8> {
    let used = driver.request(0, &[Buffer::Readable(request), Buffer::Writable(8192)]);
    used.written[..used.length as usize].to_vec()
}

fn open_file(driver: &mut Driver) {
    open_file_with(driver, 0);
}

fn open_file_with(driver: &mut Driver, flags: u32) {
    let version = message(TVERSION, &[&507_928u32.to_le_bytes(), &string("9P2000.L")]);
    assert_eq!(ask(driver, &version)[4], TVERSION + 1);
    let attach = message(TATTACH, &[&[0; 4], &[0xff; 4], &string("root"), &string(""), &[0xff; 4]]);
    assert_eq!(ask(driver, &attach)[4], TATTACH + 1);
    let walk = message(TWALK, &[&[0; 4], &1u32.to_le_bytes(), &1u16.to_le_bytes(), &string("file")]);
    assert_eq!(ask(driver, &walk)[4], TWALK + 1);
    let open = message(TLOPEN, &[&1u32.to_le_bytes(), &flags.to_le_bytes()]);
    assert_eq!(ask(driver, &open)[4], TLOPEN + 1);
}

#[test]
fn a_large_read_goes_into_the_pages_the_guest_gave() {
    for place in PLACES {
        let (mut driver, _dir, content) = start(place);
        open_file(&mut driver);
        let read = message(TREAD, &[&1u32.to_le_bytes(), &[0; 8], &250_000u32.to_le_bytes()]);
        let mut buffers =
            vec![Buffer::Readable(&read[..10]), Buffer::Readable(&read[10..]), Buffer::Writable(11)];
        buffers.extend(std::iter::repeat_n(Buffer::Writable(4096), 62));
        let used = driver.request(0, &buffers);
        assert_eq!(used.length, 11 + 250_000);
        assert_eq!(used.written[7..11], 250_000u32.to_le_bytes());
        assert_eq!(used.written[11..250_011], content[..250_000]);
    }
}

#[test]
fn a_reply_longer_than_its_room_is_cut_to_it_and_the_device_goes_on() {
    for place in PLACES {
        let (mut driver, _dir, content) = start(place);
        open_file(&mut driver);
        let read = message(TREAD, &[&1u32.to_le_bytes(), &[0; 8], &4000u32.to_le_bytes()]);
        let used = driver.request(0, &[Buffer::Readable(&read), Buffer::Writable(111)]);
        assert_eq!(used.length, 111);
        assert_eq!(used.written[11..], content[..100]);
        let none = driver.request(0, &[Buffer::Readable(&read)]);
        assert_eq!(none.length, 0);
        assert_eq!(ask(&mut driver, &read)[4], TREAD + 1);
    }
}

#[test]
fn no_message_at_all_and_a_message_of_nonsense_are_answered() {
    for place in PLACES {
        let (mut driver, _dir, _) = start(place);
        assert!(driver.request(0, &[Buffer::Writable(100)]).length <= 100);
        let used = driver.request(0, &[Buffer::Readable(&[0xff; 5000]), Buffer::Writable(100)]);
        assert!(used.length <= 100);
        open_file(&mut driver);
    }
}

#[test]
fn a_write_goes_into_the_file_however_it_is_cut() {
    for place in PLACES {
        let (mut driver, dir, mut content) = start(place);
        open_file_with(&mut driver, 2);
        let data: Vec<u8> = (0..20_000u32).map(|i| (i >> 2) as u8).collect();
        let count = data.len() as u32;
        let write =
            message(TWRITE, &[&1u32.to_le_bytes(), &1000u64.to_le_bytes(), &count.to_le_bytes(), &data]);
        for cuts in [&[][..], &[23], &[3, 22], &[7, 11, 24, 4096, 8192], &[23, 23, 20_022]] {
            let mut buffers = Vec::new();
            let mut last = 0;
            for &at in cuts.iter().chain([&write.len()]) {
                buffers.push(Buffer::Readable(&write[last..at]));
                last = at;
            }
            buffers.push(Buffer::Writable(11));
            let used = driver.request(0, &buffers);
            assert_eq!((used.length, used.written[4]), (11, TWRITE + 1), "{cuts:?}");
            assert_eq!(used.written[7..], count.to_le_bytes());
        }
        content[1000..21_000].copy_from_slice(&data);
        assert!(fs::read(dir.path().join("file")).unwrap() == content);
        // One that claims more or less than came changes nothing.
        for claimed in [0, count - 1, count + 1, u32::MAX] {
            let mut wrong = write.clone();
            wrong[19..23].copy_from_slice(&claimed.to_le_bytes());
            wrong[23..].fill(0xee);
            assert_eq!(ask(&mut driver, &wrong)[4], 7, "{claimed}");
        }
        assert!(fs::read(dir.path().join("file")).unwrap() == content);
    }
}

#[test]
fn a_message_longer_than_agreed_on_is_refused_with_its_tag() {
    for place in PLACES {
        let (mut driver, _dir, _) = start(place);
        let version = message(TVERSION, &[&4096u32.to_le_bytes(), &string("9P2000.L")]);
        assert_eq!(ask(&mut driver, &version)[4], TVERSION + 1);
        for kind in [TREAD, TWRITE, TWALK] {
            for length in [4090, 600_000] {
                let reply = ask(&mut driver, &message(kind, &[&vec![0; length]]));
                assert_eq!(
                    (reply[4], &reply[5..7], &reply[7..11]),
                    (7, &[1, 0][..], &90u32.to_le_bytes()[..])
                );
            }
        }
        open_file(&mut driver);
    }
}

#[test]
fn a_reset_forgets_the_session() {
    for place in PLACES {
        let (mut driver, _dir, _) = start(place);
        open_file(&mut driver);
        driver.initialise(&[128]);
        let read = message(TREAD, &[&1u32.to_le_bytes(), &[0; 8], &10u32.to_le_bytes()]);
        assert_eq!(ask(&mut driver, &read)[4], 7, "an Rlerror: the fid is gone");
    }
}

#[test]
fn a_tag_of_no_or_too_many_bytes_is_refused() {
    for tag in [String::new(), "x".repeat(37)] {
        let export = ExportBuilder::new().directory("/", "/usr").unwrap().open().unwrap();
        assert!(NineP::new(&tag, Server::new(export, Limits::default())).is_err());
    }
}

#[test]
fn a_read_that_must_wait_is_given_away_and_one_that_need_not_is_served_at_once() {
    // In memory, where the host can't say what is at hand; and in a file system that may be on a disk.
    for folder in ["/dev/shm", "/var/tmp"] {
        let dir = tempfile::tempdir_in(folder).unwrap();
        fs::write(dir.path().join("file"), vec![7; 10_000]).unwrap();
        let export = ExportBuilder::new().directory("/", dir.path()).unwrap().open().unwrap();
        let file = fs::File::open(dir.path().join("file")).unwrap();
        file.sync_all().unwrap();
        let mut device = NineP::new("t", Server::new(export, Limits::default())).unwrap();
        device.start_threads("test", || true).unwrap();
        let mut driver = Driver::start(device);
        open_file(&mut driver);
        for (at, count, expected) in [
            (0, 4096, 4096),
            (8192, 4096, 1808),
            (10_000, 100, 0),
            (1 << 40, 100, 0),
            (0, 8000, 8000),
            (1, 9999, 9999),
        ] {
            let read =
                message(TREAD, &[&1u32.to_le_bytes(), &u64::to_le_bytes(at), &u32::to_le_bytes(count)]);
            let used = driver.request(0, &[Buffer::Readable(&read), Buffer::Writable(11 + 10_000)]);
            assert_eq!(
                (used.length as usize, used.written[4]),
                (11 + expected, TREAD + 1),
                "{folder} {at} {count}"
            );
            assert!(used.written[11..11 + expected].iter().all(|byte| *byte == 7));
        }
    }
}

const TFSYNC: u8 = 50;
const TFLUSH: u8 = 108;

fn tagged(tag: u16, kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut message = message(kind, parts);
    message[5..7].copy_from_slice(&tag.to_le_bytes());
    message
}

/// A device whose threads begin when the gate is opened, and an open file.
fn start_gated() -> (Driver, Arc<Barrier>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    let export = ExportBuilder::new().directory_with("/", dir.path(), Access::READ_WRITE).unwrap();
    let server = Server::new(export.open().unwrap(), Limits::default());
    let mut device = NineP::new("t", server).unwrap();
    let gate = Arc::new(Barrier::new(THREADS + 1));
    let enter = gate.clone();
    device
        .start_threads("test", move || {
            enter.wait();
            true
        })
        .unwrap();
    let mut driver = Driver::start(device);
    open_file_with(&mut driver, 2);
    (driver, gate, dir)
}

#[test]
fn a_flush_is_answered_after_what_it_is_about_and_a_session_ends_when_nothing_is_under_way() {
    let (mut driver, gate, _dir) = start_gated();
    let sync = tagged(10, TFSYNC, &[&1u32.to_le_bytes(), &0u32.to_le_bytes()]);
    let flush = tagged(11, TFLUSH, &[&10u16.to_le_bytes()]);
    let other = tagged(12, TFLUSH, &[&99u16.to_le_bytes()]);
    for request in [&sync, &flush, &other] {
        driver.add(0, &[Buffer::Readable(request), Buffer::Writable(100)]);
    }
    let tag = |driver: &mut Driver| {
        let used = driver.wait_used(0);
        u16::from_le_bytes([used.written[5], used.written[6]])
    };
    assert_eq!(tag(&mut driver), 12, "what nobody waits for");
    gate.wait();
    assert_eq!([tag(&mut driver), tag(&mut driver)], [10, 11]);
    // A new session waits for the old one's requests.
    driver.add(0, &[Buffer::Readable(&sync), Buffer::Writable(100)]);
    let version = message(TVERSION, &[&8192u32.to_le_bytes(), &string("9P2000.L")]);
    driver.add(0, &[Buffer::Readable(&version), Buffer::Writable(100)]);
    assert_eq!([tag(&mut driver), tag(&mut driver)], [10, 1]);
    // And a reset does.
    driver.add(0, &[Buffer::Readable(&sync), Buffer::Writable(100)]);
    driver.initialise(&[128]);
    open_file(&mut driver);
}

#[test]
fn requests_put_in_without_end_wait_in_the_ring() {
    let (mut driver, gate, _dir) = start_gated();
    let sync = tagged(10, TFSYNC, &[&1u32.to_le_bytes(), &0u32.to_le_bytes()]);
    let head = driver.add(0, &[Buffer::Readable(&sync), Buffer::Writable(100)]);
    // The same one, more often than a ring has entries: what is beyond them stays where it is.
    let publish = |driver: &mut Driver, count: u32| (0..count).for_each(|_| driver.publish(0, head));
    publish(&mut driver, 99);
    // An answer says that all before it have been taken.
    let flush = tagged(12, TFLUSH, &[&99u16.to_le_bytes()]);
    assert_eq!(ask(&mut driver, &flush)[4], TFLUSH + 1);
    publish(&mut driver, 100);
    let end = Instant::now() + Duration::from_millis(200);
    while Instant::now() < end {
        assert!(driver.used(0).is_none());
    }
    gate.wait();
    for _ in 0..200 {
        assert_eq!(driver.wait_used(0).head, head);
    }
    open_file(&mut driver);
}

#[test]
fn a_server_that_ends_is_noticed_and_the_device_needs_a_reset() {
    let (lost, told) = std::sync::mpsc::channel();
    let limits = Limits::default();
    let (device, servant) = NineP::apart("t", limits, move || lost.send(()).unwrap()).unwrap();
    let mut driver = Driver::start(device);
    drop(servant);
    let version = message(TVERSION, &[&8192u32.to_le_bytes(), &string("9P2000.L")]);
    driver.add(0, &[Buffer::Readable(&version), Buffer::Writable(100)]);
    driver.wait_needs_reset();
    told.recv().unwrap();
}

#[test]
fn what_no_server_says_is_not_believed() {
    // A slot that was given nothing, one that there is not, an answer longer than its slot, or than there is room.
    for answer in
        [[5, 10, 0, 0], [1 << 20, 10, 0, 0], [0, u32::MAX, 0, 0], [0, 101, 0, 0], [u32::MAX, 0, 0, 0]]
    {
        let (device, servant) = NineP::apart("t", Limits::default(), || ()).unwrap();
        let mut driver = Driver::start(device);
        driver.add(0, &[Buffer::Readable(&[0; 30]), Buffer::Writable(100)]);
        let mut request = [0; 16];
        assert_eq!(rustix::io::read(servant.socket(), &mut request), Ok(16));
        assert_eq!(request[..4], [0; 4]);
        let bytes: Vec<u8> = answer.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
        rustix::io::write(servant.socket(), &bytes).unwrap();
        driver.wait_needs_reset();
    }
}

#[test]
fn a_device_that_has_fallen_ends_the_server_and_nothing_else() {
    let limits = Limits { msize: 8192, ..Limits::default() };
    for request in [[1000, 7, 7, 0], [0, 1 << 20, 7, 0], [0, 7, 1 << 20, 0]] {
        let (device, servant) = NineP::apart("t", limits, || ()).unwrap();
        let export = ExportBuilder::new().directory("/", "/usr").unwrap().open().unwrap();
        let server = Server::new(export, limits);
        let bytes: Vec<u8> = request.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
        let Work::Apart(remote) = &device.work else { panic!() };
        rustix::io::write(remote.socket(), &bytes).unwrap();
        drop(device);
        assert_eq!(servant.serve(&server, || true).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

#[test]
fn a_server_that_ends_or_speaks_unasked_while_nothing_is_under_way_is_noticed() {
    for speaks in [false, true] {
        let (lost, told) = std::sync::mpsc::channel();
        let (device, servant) = NineP::apart("t", Limits::default(), move || lost.send(()).unwrap()).unwrap();
        let mut driver = Driver::start(device);
        if speaks {
            rustix::io::write(servant.socket(), &[0; 16]).unwrap();
        } else {
            drop(servant);
        }
        told.recv().unwrap();
        driver.wait_needs_reset();
    }
}

#[test]
fn a_server_that_ends_with_its_last_answer_is_noticed_after_that() {
    for says_more in [false, true] {
        let (lost, told) = std::sync::mpsc::channel();
        let (device, servant) = NineP::apart("t", Limits::default(), move || lost.send(()).unwrap()).unwrap();
        let mut driver = Driver::start(device);
        driver.add(0, &[Buffer::Readable(&[0; 30]), Buffer::Writable(100)]);
        let mut request = [0; 16];
        assert_eq!(rustix::io::read(servant.socket(), &mut request), Ok(16));
        let answer: Vec<u8> = [0_u32, 7, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        rustix::io::write(servant.socket(), &answer).unwrap();
        if says_more {
            rustix::io::write(servant.socket(), &answer).unwrap();
        }
        drop(servant);
        told.recv().unwrap();
        driver.wait_needs_reset();
    }
}

#[test]
fn nothing_is_served_unless_every_thread_is_confined() {
    for refuses in 0..=THREADS {
        let (device, servant) = NineP::apart("t", Limits::default(), || ()).unwrap();
        let export = ExportBuilder::new().directory("/", "/usr").unwrap().open().unwrap();
        let server = Server::new(export, Limits::default());
        let count = std::sync::atomic::AtomicUsize::new(0);
        let enter = || count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) != refuses;
        // The device is there, so it would serve for ever.
        assert_eq!(servant.serve(&server, enter).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        drop(device);
    }
}
