//! A client that speaks 9P by itself, against the example server: another process, over a Unix socket. The
//! server serves the others whatever one of them sends.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use tempfile::TempDir;

const TVERSION: u8 = 100;
const TATTACH: u8 = 104;
const TFLUSH: u8 = 108;
const TWALK: u8 = 110;
const TLOPEN: u8 = 12;
const TREAD: u8 = 116;
const TWRITE: u8 = 118;
const TCLUNK: u8 = 120;
const RLERROR: u8 = 7;
const EBADF: u32 = 9;
const ENFILE: u32 = 23;

/// The example, a folder that it serves, and a file beside that.
struct Setting {
    server: Child,
    folder: TempDir,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("share")).unwrap();
        fs::write(folder.path().join("share/file"), vec![7; 1 << 20]).unwrap();
        fs::write(folder.path().join("outside"), "the file outside").unwrap();
        // Beside this test's program, in the folder above.
        let test = std::env::current_exe().unwrap();
        let example = test.parent().unwrap().parent().unwrap().join("examples/unix_server");
        let server = Command::new(example)
            .args([folder.path().join("socket"), folder.path().join("share"), PathBuf::from("rw")])
            .spawn()
            .unwrap();
        Self { server, folder }
    }

    fn connect(&self) -> Raw {
        for _ in 0..500 {
            if let Ok(stream) = UnixStream::connect(self.folder.path().join("socket")) {
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                return Raw(stream);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the example does not listen");
    }

    /// Resident memory of the server in bytes.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

/// A connection, and nothing that knows better than its user.
struct Raw(UnixStream);

impl Raw {
    fn send(&mut self, kind: u8, tag: u16, body: &[&[u8]]) {
        let body = body.concat();
        let mut message = (7 + body.len() as u32).to_le_bytes().to_vec();
        message.push(kind);
        message.extend(tag.to_le_bytes());
        message.extend(body);
        self.0.write_all(&message).unwrap();
    }

    fn receive(&mut self) -> (u8, u16, Vec<u8>) {
        let mut head = [0; 7];
        self.0.read_exact(&mut head).unwrap();
        let size = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        let mut body = vec![0; size - 7];
        self.0.read_exact(&mut body).unwrap();
        (head[4], u16::from_le_bytes([head[5], head[6]]), body)
    }

    /// The body of the reply, or the error number.
    fn call(&mut self, kind: u8, body: &[&[u8]]) -> Result<Vec<u8>, u32> {
        self.send(kind, 1, body);
        let (reply, tag, body) = self.receive();
        assert_eq!(tag, 1);
        match reply {
            RLERROR => Err(u32::from_le_bytes(body[..4].try_into().unwrap())),
            reply => {
                assert_eq!(reply, kind + 1);
                Ok(body)
            }
        }
    }

    fn start(&mut self) {
        self.call(TVERSION, &[&65_536_u32.to_le_bytes(), b"\x08\x009P2000.L"]).unwrap();
        self.call(TATTACH, &[&[0; 4], &[0xff; 4], &[0; 4], &[0; 4]]).unwrap();
    }

    fn walk(&mut self, fid: u32, new_fid: u32, names: &[&[u8]]) -> Result<Vec<u8>, u32> {
        let mut body = [fid.to_le_bytes(), new_fid.to_le_bytes()].concat();
        body.extend((names.len() as u16).to_le_bytes());
        for name in names {
            body.extend((name.len() as u16).to_le_bytes());
            body.extend(*name);
        }
        self.call(TWALK, &[&body])
    }
}

/// A client that behaves is served.
fn is_served(setting: &Setting) {
    let mut good = setting.connect();
    good.start();
    good.walk(0, 1, &[b"file"]).unwrap();
    good.call(TLOPEN, &[&1_u32.to_le_bytes(), &[0; 4]]).unwrap();
    let read = good.call(TREAD, &[&1_u32.to_le_bytes(), &[0; 8], &100_u32.to_le_bytes()]).unwrap();
    assert_eq!(read[4..], [7; 100]);
}

#[test]
fn messages_of_any_size_and_connections_cut_anywhere_harm_nobody() {
    let setting = Setting::new();
    for size in [0_u32, 1, 6, 7, 8, 512_001, 1 << 31, u32::MAX] {
        let mut raw = setting.connect();
        raw.0.write_all(&size.to_le_bytes()).unwrap();
        let _ = raw.0.write_all(&[0xff; 64]);
    }
    for kept in 1..30 {
        let mut raw = setting.connect();
        raw.start();
        let message = [&23_u32.to_le_bytes()[..], &[TREAD, 1, 0], &[0; 16]].concat();
        raw.0.write_all(&message[..kept.min(message.len())]).unwrap();
    }
    for kind in 0..=u8::MAX {
        let mut raw = setting.connect();
        raw.start();
        for body in [&[][..], &[0xff; 3], &[0; 40], &[0xff; 200]] {
            raw.send(kind, 5, &[body]);
            let (_, tag, _) = raw.receive();
            assert_eq!(tag, 5, "type {kind}");
        }
    }
    is_served(&setting);
    assert_eq!(fs::read(setting.folder.path().join("outside")).unwrap(), b"the file outside");
}

#[test]
fn any_msize_is_refused_or_kept_to() {
    let setting = Setting::new();
    let mut raw = setting.connect();
    for asked in (0..32).flat_map(|bit| [1_u32 << bit, (1 << bit) - 1, (1 << bit) + 1]).chain([u32::MAX]) {
        let reply = raw.call(TVERSION, &[&asked.to_le_bytes(), b"\x08\x009P2000.L"]);
        let Ok(body) = reply else {
            assert!(asked < 4096, "{asked}");
            continue;
        };
        let msize = u32::from_le_bytes(body[..4].try_into().unwrap());
        assert!(asked >= 4096 && msize == asked.min(512_000), "{asked}: {msize}");
        raw.call(TATTACH, &[&[0; 4], &[0xff; 4], &[0; 4], &[0; 4]]).unwrap();
        raw.walk(0, 1, &[b"file"]).unwrap();
        raw.call(TLOPEN, &[&1_u32.to_le_bytes(), &[0; 4]]).unwrap();
        let read = raw.call(TREAD, &[&1_u32.to_le_bytes(), &[0; 8], &[0xff; 4]]).unwrap();
        assert_eq!(read.len() + 7, msize as usize, "a reply as long as msize");
    }
    // A request that is longer than what was agreed on.
    raw.call(TVERSION, &[&4096_u32.to_le_bytes(), b"\x08\x009P2000.L"]).unwrap();
    raw.call(TATTACH, &[&[0; 4], &[0xff; 4], &[0; 4], &[0; 4]]).unwrap();
    let count = 5000_u32;
    let write = raw.call(TWRITE, &[&[0; 12], &count.to_le_bytes(), &vec![1; count as usize]]);
    assert_eq!(write, Err(90), "EMSGSIZE");
}

#[test]
fn requests_in_flight_with_flushes_between_are_all_answered() {
    let setting = Setting::new();
    let mut raw = setting.connect();
    raw.start();
    raw.walk(0, 1, &[b"file"]).unwrap();
    raw.call(TLOPEN, &[&1_u32.to_le_bytes(), &[0; 4]]).unwrap();
    for tag in 0..128_u16 {
        raw.send(TREAD, tag, &[&1_u32.to_le_bytes(), &[0; 8], &64_u32.to_le_bytes()]);
        raw.send(TFLUSH, 1000 + tag, &[&tag.to_le_bytes()]);
    }
    // Tversion in the middle of it all ends the session, and what comes after it finds no fid.
    raw.send(TVERSION, 0xffff, &[&8192_u32.to_le_bytes(), b"\x08\x009P2000.L"]);
    raw.send(TREAD, 2000, &[&1_u32.to_le_bytes(), &[0; 8], &64_u32.to_le_bytes()]);
    let mut answered = vec![0; 128];
    loop {
        match raw.receive() {
            (kind, 2000, body) => {
                assert_eq!((kind, body), (RLERROR, EBADF.to_le_bytes().to_vec()));
                break;
            }
            (_, 0xffff, _) => {}
            (_, tag, _) => answered[usize::from(tag % 1000)] += 1,
        }
    }
    assert!(answered.iter().all(|count| *count == 2), "{answered:?}");
    is_served(&setting);
}

#[test]
fn fids_without_end_are_refused_and_cost_what_is_stated() {
    let setting = Setting::new();
    let mut raw = setting.connect();
    raw.start();
    is_served(&setting);
    let before = setting.memory();
    // All lead to one file by one name, and share its node.
    for fid in 1..=65_536_u32 {
        raw.walk(0, fid, &[b"file"]).unwrap();
    }
    let shared = (setting.memory() - before) / 65_536;
    println!("{shared} bytes a fid of a shared node");
    assert!(shared < 200, "{shared} bytes a fid");
    let mut refused = None;
    for fid in 65_537..400_000_u32 {
        if let Err(errno) = raw.walk(0, fid, &[]) {
            refused = Some((fid, errno));
            break;
        }
    }
    assert_eq!(refused, Some((1 << 18, ENFILE)));
    for fid in 1..1 << 18 {
        raw.call(TCLUNK, &[&u32::to_le_bytes(fid)]).unwrap();
    }
    is_served(&setting);
}

#[test]
fn a_walk_through_a_large_tree_costs_little_and_gives_it_back() {
    const FILES: u32 = 20_000;
    let setting = Setting::new();
    for index in 0..FILES {
        fs::write(setting.folder.path().join(format!("share/a file of some length {index:06}")), "").unwrap();
    }
    let mut raw = setting.connect();
    raw.start();
    let before = setting.memory();
    for fid in 1..=FILES {
        raw.walk(0, fid, &[format!("a file of some length {:06}", fid - 1).as_bytes()]).unwrap();
    }
    let each = (setting.memory() - before) / u64::from(FILES);
    println!("{each} bytes for each of {FILES} files, {} in all", setting.memory());
    assert!(each < 600, "{each} bytes for each file");
    for fid in 1..=FILES {
        raw.call(TCLUNK, &[&fid.to_le_bytes()]).unwrap();
    }
    println!("{} bytes after all are forgotten", setting.memory());
    // And again: what was given back is what is taken.
    let before = setting.memory();
    for fid in 1..=FILES {
        raw.walk(0, fid, &[format!("a file of some length {:06}", fid - 1).as_bytes()]).unwrap();
    }
    assert!(setting.memory() - before.min(setting.memory()) < u64::from(FILES) * 600);
}
