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
const TLCREATE: u8 = 14;
const TLINK: u8 = 70;
const TMKDIR: u8 = 72;
const TRENAMEAT: u8 = 74;
const TUNLINKAT: u8 = 76;
const RLERROR: u8 = 7;
const ENOENT: u32 = 2;
const EBADF: u32 = 9;
const EACCES: u32 = 13;
const EBUSY: u32 = 16;
const EXDEV: u32 = 18;
const EROFS: u32 = 30;
const ENFILE: u32 = 23;

/// The example, a folder that it serves, and a file beside that.
struct Setting {
    server: Child,
    folder: TempDir,
}

impl Setting {
    fn new() -> Self {
        let folder = folder();
        let server = Command::new(example())
            .args([folder.path().join("socket"), folder.path().join("share"), PathBuf::from("rw")])
            .spawn()
            .unwrap();
        Self { server, folder }
    }

    /// The server in a mount namespace of its own, which a script has prepared. None: this machine has none for
    /// its users.
    fn with_mounts(script: &str) -> Option<Self> {
        let unshare = || {
            let mut unshare = Command::new("unshare");
            unshare.args(["--map-root-user", "--mount"]);
            unshare
        };
        if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
            assert!(std::env::var_os("CI").is_none(), "no namespaces for users here");
            eprintln!("SKIPPED: no namespaces for users here");
            return None;
        }
        let folder = folder();
        let script = format!("{script}\nexec {} socket share rw", example().display());
        let server = unshare().args(["sh", "-euc", &script]).current_dir(folder.path()).spawn().unwrap();
        Some(Self { server, folder })
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

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("share")).unwrap();
    fs::write(folder.path().join("share/file"), vec![7; 1 << 20]).unwrap();
    fs::write(folder.path().join("outside"), "the file outside").unwrap();
    folder
}

/// Beside this test's program, in the folder above.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/unix_server")
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

fn name(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat()
}

#[test]
fn mounts_in_a_share_are_in_the_share_as_the_hosts_user_sees_them_and_are_devices_of_their_own() {
    let Some(setting) = Setting::with_mounts(
        "mkdir share/folder share/disk share/proc share/fixed readable
         echo below > readable/file; echo hidden > share/disk/hidden
         mount -t tmpfs tmpfs share/disk; mkdir share/disk/in; echo on-disk > share/disk/file
         mount --bind readable share/fixed; mount -o remount,bind,ro share/fixed
         mount --rbind /proc share/proc",
    ) else {
        return;
    };
    let mut raw = setting.connect();
    raw.start();
    let read = |raw: &mut Raw, path: &[&[u8]]| {
        raw.walk(0, 9, path).unwrap();
        raw.call(TLOPEN, &[&9_u32.to_le_bytes(), &[0; 4]]).unwrap();
        let read = raw.call(TREAD, &[&9_u32.to_le_bytes(), &[0; 8], &100_u32.to_le_bytes()]).unwrap();
        raw.call(TCLUNK, &[&9_u32.to_le_bytes()]).unwrap();
        read[4..].to_vec()
    };
    let root = 0_u32.to_le_bytes();
    assert_eq!(read(&mut raw, &[b"disk", b"file"]), b"on-disk\n");
    assert_eq!(read(&mut raw, &[b"fixed", b"file"]), b"below\n");
    raw.walk(0, 1, &[b"disk"]).unwrap();
    assert_eq!(raw.walk(1, 2, &[b"hidden"]), Err(ENOENT), "what a mount hides stays hidden");
    // The way out of a mount is the share's own tree, and ends at its root.
    assert_eq!(read(&mut raw, &[b"disk", b"in", b"..", b"..", b"..", b"file"])[..3], [7; 3]);
    assert_eq!(raw.walk(1, 2, &[b"..", b"..", b"outside"]).unwrap()[..2], [2, 0]);

    // The folder is a fid on the mounted file system, and nothing moves between that and the share's.
    let disk = 1_u32.to_le_bytes();
    raw.call(TMKDIR, &[&disk, &name("new"), &0o755_u32.to_le_bytes(), &[0; 4]]).unwrap();
    let rename = |raw: &mut Raw, from: &[u8], old: &str, to: &[u8], new: &str| {
        raw.call(TRENAMEAT, &[from, &name(old), to, &name(new)])
    };
    assert_eq!(rename(&mut raw, &disk, "file", &root, "taken"), Err(EXDEV));
    assert_eq!(rename(&mut raw, &root, "folder", &disk, "given"), Err(EXDEV));
    rename(&mut raw, &disk, "new", &disk, "renamed").unwrap();
    raw.walk(1, 3, &[b"file"]).unwrap();
    assert_eq!(raw.call(TLINK, &[&root, &3_u32.to_le_bytes(), &name("hard")]), Err(EXDEV));
    // A place where something is mounted stays.
    for mounted in ["disk", "fixed", "proc"] {
        let remove = raw.call(TUNLINKAT, &[&root, &name(mounted), &0x200_u32.to_le_bytes()]);
        assert_eq!(remove, Err(EBUSY), "{mounted}");
        assert_eq!(rename(&mut raw, &root, mounted, &root, "moved"), Err(EBUSY), "{mounted}");
    }
    // Writing to the share is no writing to what the host mounted read-only.
    raw.walk(0, 4, &[b"fixed"]).unwrap();
    let create = raw.call(TLCREATE, &[&4_u32.to_le_bytes(), &name("new"), &0o102_u32.to_le_bytes(), &[0; 8]]);
    assert_eq!(create, Err(EROFS));
    // Nobody's memory, whatever is mounted where.
    assert_eq!(raw.walk(0, 5, &[b"proc"]), Err(EACCES));
    assert_eq!(raw.walk(0, 5, &[b"proc", b"self", b"mem"]), Err(EACCES));
    is_served(&setting);
}
