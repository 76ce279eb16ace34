//! The same operations on a file system of the host and, in a guest, on a writable share of it: every result
//! and every error is the same, but for what `docs/9p.md` lists.
//!
//! This program is its own guest: in the VM it runs one of its tests, which only prints.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    env,
    ffi::OsStr,
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::AsFd,
        unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use nofear_tests::{output, run};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, XattrFlags};

/// Says to [`operations`] where to work.
const DIRECTORY: &str = "CONFORMANCE_DIRECTORY";

/// Generated operations, from this seed.
const GENERATED: u32 = 1500;
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

#[test]
fn a_share_in_a_guest_is_like_the_hosts_file_system() {
    let program = env::current_exe().unwrap();
    let (host, share) = (tempfile::tempdir_in("/tmp").unwrap(), tempfile::tempdir_in("/tmp").unwrap());
    let test = ["operations", "--exact", "--ignored", "--nocapture"];
    let options = [
        "--root".to_string(),
        "--share".into(),
        format!("{}:/conformance", program.display()),
        "--share".into(),
        format!("{}:/data:rw", share.path().display()),
        "-e".into(),
        format!("{DIRECTORY}=/data"),
        "--".into(),
        "/conformance".into(),
    ];
    let Some(guest) = run(options.iter().map(String::as_str).chain(test)) else { return };
    let mut own = std::process::Command::new(&program);
    own.args(test).env(DIRECTORY, host.path());
    let (own, guest) = (output(own).ok(), output(guest).ok());
    let lines = |ran: &nofear_tests::Ran| -> Vec<String> {
        ran.text().lines().filter(|line| line.starts_with("- ")).map(Into::into).collect()
    };
    let (own, guest) = (lines(&own), lines(&guest));
    assert!(own.len() > 1500, "{} operations", own.len());
    let differ: Vec<_> = own.iter().zip(&guest).filter(|(own, guest)| own != guest).take(20).collect();
    assert!(differ.is_empty(), "host and guest differ: {differ:#?}");
    assert_eq!(own.len(), guest.len());
    // What the guest left is what the host left.
    assert_eq!(tree(host.path()), tree(share.path()));
}

/// Every entry below a directory with its attributes and content.
fn tree(directory: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut left = vec![directory.to_path_buf()];
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            // A FIFO would wait for a writer.
            let is_file = path.is_file() && !path.is_symlink();
            let content = is_file.then(|| fs::read(&path).ok());
            let short = path.strip_prefix(directory).unwrap().display();
            all.push(format!("{short} {} {:?} {:?}", describe(&path), content, fs::read_link(&path).ok()));
            if path.is_dir() && !path.is_symlink() {
                left.push(path);
            }
        }
    }
    all.sort();
    all
}

/// In the guest and on the host: prints what each operation gives.
#[test]
#[ignore = "a part of the other test, which says where to work"]
fn operations() {
    let directory = PathBuf::from(env::var_os(DIRECTORY).unwrap());
    rustix::process::umask(Mode::from_raw_mode(0o022));
    env::set_current_dir(directory).unwrap();
    written_by_hand();
    generated(SEED, GENERATED);
}

/// Prints the result of an operation, of an error its number only.
fn say<T: Debug>(operation: impl AsRef<str>, result: io::Result<T>) {
    let result = result.map_err(|e| e.raw_os_error().unwrap_or(-1));
    println!("- {}: {result:?}", operation.as_ref());
}

/// Attributes that do not differ by where and when a file was made.
fn describe(path: &Path) -> String {
    match fs::symlink_metadata(path) {
        Err(e) => format!("errno {:?}", e.raw_os_error()),
        // File systems differ in the sizes and links of directories.
        Ok(m) if m.is_dir() => format!("{:o}", m.mode()),
        Ok(m) => format!("{:o} {} bytes, {} links", m.mode(), m.len(), m.nlink()),
    }
}

fn open(path: impl AsRef<Path>, flags: OFlags, mode: u32) -> io::Result<File> {
    Ok(rustix::fs::open(path.as_ref(), flags, Mode::from_raw_mode(mode))?.into())
}

fn mknod(path: &str, file_type: FileType, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::mknodat(CWD, path, file_type, Mode::from_raw_mode(mode), 0)?)
}

/// The cases of pjdfstest and of QEMU's tests of its 9P device, one after the other.
fn written_by_hand() {
    opening();
    linking();
    renaming();
    removing();
    attributes();
    data();
    long_names();
}

fn opening() {
    say("create", open("f", OFlags::CREATE | OFlags::RDWR, 0o666).map(drop));
    say("create exclusively what is there", open("f", OFlags::CREATE | OFlags::EXCL, 0o600).map(drop));
    say("create exclusively", open("g", OFlags::CREATE | OFlags::EXCL | OFlags::RDWR, 0o640).map(drop));
    say("open what is missing", File::open("missing").map(drop));
    say("open below a file", File::open("f/x").map(drop));
    say("open a file as a directory", open("f", OFlags::DIRECTORY, 0).map(drop));
    say("mkdir", fs::create_dir("d"));
    say("mkdir again", fs::create_dir("d"));
    say("mkdir below nothing", fs::create_dir("missing/d"));
    say("mkdir below a file", fs::create_dir("f/d"));
    say("open a directory for writing", open("d", OFlags::WRONLY, 0).map(drop));
    say("create over a directory", open("d", OFlags::CREATE | OFlags::RDWR, 0o600).map(drop));
    say("truncate while opening", {
        fs::write("f", "content").and_then(|()| open("f", OFlags::WRONLY | OFlags::TRUNC, 0).map(drop))
    });
    say("its size", fs::metadata("f").map(|m| m.len()));
    say("write to what is open for reading", File::open("f").and_then(|f| f.write_at(b"x", 0)));
    say(
        "read what is open for writing",
        open("f", OFlags::WRONLY, 0).and_then(|f| f.read_at(&mut [0; 4], 0)),
    );
    say("read a directory", File::open("d").and_then(|d| d.read_at(&mut [0; 4], 0)));
    say("fifo", mknod("p", FileType::Fifo, 0o644));
    say("its kind", fs::symlink_metadata("p").map(|m| m.file_type().is_fifo()));
    say("open it without a writer", open("p", OFlags::WRONLY | OFlags::NONBLOCK, 0).map(drop));
    say("mknod of a regular file", mknod("n", FileType::RegularFile, 0o600));
    say("mknod again", mknod("n", FileType::RegularFile, 0o600));
    for path in ["f", "g", "d", "p", "n"] {
        println!("- {path} is {}", describe(Path::new(path)));
    }
}

fn linking() {
    say("symlink", symlink("f", "s"));
    say("symlink again", symlink("f", "s"));
    say("readlink", fs::read_link("s"));
    say("readlink of a file", fs::read_link("f"));
    say("write through a link", fs::write("s", "through"));
    say("read it", fs::read_to_string("f"));
    say("open a link itself", open("s", OFlags::NOFOLLOW, 0).map(drop));
    say("a dangling link", symlink("nowhere", "dangling").and_then(|()| File::open("dangling").map(drop)));
    say("create through it", fs::write("dangling", "x"));
    say("that is", fs::read_to_string("nowhere"));
    say("create exclusively over it", open("dangling", OFlags::CREATE | OFlags::EXCL, 0o600).map(drop));
    say("a loop", symlink("loop", "loop").and_then(|()| File::open("loop").map(drop)));
    say("a long link", symlink("x".repeat(4000), "long").and_then(|()| fs::read_link("long")));
    say("link", fs::hard_link("f", "h"));
    say("link again", fs::hard_link("f", "h"));
    say("link a directory", fs::hard_link("d", "dh"));
    say("link what is missing", fs::hard_link("missing", "mh"));
    say("link into a file", fs::hard_link("f", "g/h"));
    say("link a link", rustix::fs::linkat(CWD, "s", CWD, "sh", AtFlags::empty()).map_err(Into::into));
    say("links", fs::metadata("f").map(|m| (m.nlink(), fs::metadata("h").unwrap().nlink())));
    say("write one name", fs::write("h", "both"));
    say("read the other", fs::read_to_string("f"));
}

fn renaming() {
    say("rename", fs::rename("g", "g2"));
    say("what is missing", fs::rename("g", "g3"));
    say("onto itself", fs::rename("g2", "g2"));
    say("one name of a file onto the other", fs::rename("h", "f"));
    println!("- both are {} and {}", describe(Path::new("h")), describe(Path::new("f")));
    say("a file onto a directory", fs::rename("g2", "d"));
    say("a directory onto a file", fs::rename("d", "g2"));
    say("into itself", fs::create_dir("d/e").and_then(|()| fs::rename("d", "d/e/d")));
    say("onto a directory that is not empty", fs::create_dir("d2").and_then(|()| fs::rename("d2", "d")));
    say("onto an empty one", fs::rename("d", "d2"));
    println!("- below it is {}", describe(Path::new("d2/e")));
    let mut kept = File::open("g2").unwrap();
    say("over an open file", fs::write("new", "new").and_then(|()| fs::rename("new", "g2")));
    let mut text = String::new();
    say("which is still read", kept.read_to_string(&mut text).map(|_| text));
    say("a directory under an open one", {
        let inside = File::open("d2/e").unwrap();
        fs::rename("d2", "d3").and_then(|()| {
            rustix::fs::mkdirat(&inside, "made", Mode::from_raw_mode(0o755)).map_err(Into::into)
        })
    });
    println!("- made is {}", describe(Path::new("d3/e/made")));
}

fn removing() {
    say("unlink a directory", fs::remove_file("d3"));
    say("rmdir of one that is not empty", fs::remove_dir("d3"));
    say("rmdir of a file", fs::remove_dir("f"));
    say("unlink what is missing", fs::remove_file("missing"));
    let file = open("gone", OFlags::CREATE | OFlags::RDWR, 0o600).unwrap();
    say("unlink an open file", fs::remove_file("gone"));
    say("write to it", file.write_at(b"still here", 0));
    let mut bytes = [0; 10];
    say("read it", file.read_at(&mut bytes, 0).map(|_| bytes));
    say("truncate it", file.set_len(5).and_then(|()| file.metadata()).map(|m| (m.len(), m.nlink())));
    say("chmod it", file.set_permissions(fs::Permissions::from_mode(0o640)));
    say("a file of its name", fs::write("gone", "another").and_then(|()| fs::read_to_string("gone")));
    say("remove all", fs::remove_dir_all("d3"));
}

fn attributes() {
    for mode in [0o000, 0o644, 0o1755, 0o444] {
        say(format!("chmod {mode:o}"), fs::set_permissions("f", fs::Permissions::from_mode(mode)));
        println!("- {}", describe(Path::new("f")));
    }
    say("chmod of what is missing", fs::set_permissions("missing", fs::Permissions::from_mode(0o0)));
    say("truncate to more", open("f", OFlags::WRONLY, 0).and_then(|f| f.set_len(100_000)));
    say("truncate to less", open("f", OFlags::WRONLY, 0).and_then(|f| f.set_len(3)));
    say(
        "truncate a directory",
        rustix::fs::open(".", OFlags::RDONLY, Mode::empty())
            .map_err(Into::into)
            .and_then(|d| rustix::fs::ftruncate(d, 0).map_err(io::Error::from)),
    );
    for (sec, nsec) in
        [(0, 0), (1, 999_999_999), (1_000_000_000, 1), (4_000_000_000, 123_456_789), (-1, 500_000_000)]
    {
        let time = rustix::fs::Timespec { tv_sec: sec, tv_nsec: nsec };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        say("set times", rustix::fs::utimensat(CWD, "f", &times, AtFlags::empty()).map_err(Into::into));
        say("they are", fs::metadata("f").map(|m| (m.mtime(), m.mtime_nsec(), m.atime(), m.atime_nsec())));
        say(
            "set a link's",
            rustix::fs::utimensat(CWD, "s", &times, AtFlags::SYMLINK_NOFOLLOW).map_err(Into::into),
        );
    }
    let names = |path: &str| -> io::Result<Vec<u8>> {
        let mut names = Vec::with_capacity(1000);
        rustix::fs::listxattr(path, rustix::buffer::spare_capacity(&mut names))?;
        Ok(names)
    };
    let value = |name: &str| -> io::Result<Vec<u8>> {
        let mut value = Vec::with_capacity(1000);
        rustix::fs::getxattr("f", name, rustix::buffer::spare_capacity(&mut value))?;
        Ok(value)
    };
    let set = |name: &str, value: &[u8], flags| Ok(rustix::fs::setxattr("f", name, value, flags)?);
    say("set an attribute", set("user.a", b"value", XattrFlags::empty()));
    say("create it again", set("user.a", b"value", XattrFlags::CREATE));
    say("replace what is missing", set("user.b", b"value", XattrFlags::REPLACE));
    say("an empty one", set("user.b", b"", XattrFlags::empty()));
    say("values", value("user.a").and_then(|a| value("user.b").map(|b| (a, b))));
    say("names", names("f"));
    say("remove one", rustix::fs::removexattr("f", "user.b").map_err(Into::into));
    say("remove it again", rustix::fs::removexattr("f", "user.b").map_err(Into::into));
    say("names", names("f"));
}

fn data() {
    let file = open("data", OFlags::CREATE | OFlags::RDWR, 0o600).unwrap();
    say("write far out", file.write_at(b"end", 1 << 33));
    say("size", file.metadata().map(|m| (m.len(), m.blocks() < 100)));
    let mut bytes = [1; 4];
    say("a hole is zero", file.read_at(&mut bytes, 1 << 32).map(|_| bytes));
    say("beyond the end", file.read_at(&mut bytes, 1 << 34));
    say("not a file's offset", file.write_at(b"x", u64::MAX >> 1));
    say("sync", file.sync_all().and_then(|()| file.sync_data()));
    say("cut", file.set_len(10));
    let large: Vec<u8> = (0..600_000_u32).map(|i| (i >> 3) as u8).collect();
    say("a large write", fs::write("large", &large));
    say("read back", fs::read("large").map(|read| read == large));
    let mut append = OpenOptions::new().append(true).open("data").unwrap();
    let mut append_too = OpenOptions::new().append(true).read(true).open("data").unwrap();
    for text in ["one", "two", "three"] {
        say("append", append.write_all(text.as_bytes()));
        say("append by another", append_too.write_all(text.as_bytes()));
    }
    let mut text = Vec::new();
    say("all of it", append_too.seek(SeekFrom::Start(0)).and_then(|_| append_too.read_to_end(&mut text)));
    println!("- {text:?}");
    say("a write that is synchronous", {
        OpenOptions::new()
            .write(true)
            .custom_flags(0o4_010_000)
            .open("data")
            .and_then(|f| f.write_at(b"S", 0))
    });
    say("read by a name", fs::read("data").map(|bytes| bytes.len()));
    let lock =
        |file: &File| rustix::fs::flock(file.as_fd(), rustix::fs::FlockOperation::NonBlockingLockExclusive);
    let (one, other) = (File::open("data").unwrap(), File::open("data").unwrap());
    say("lock", lock(&one).map_err(Into::into));
    say("lock again", lock(&other).map_err(Into::into));
    drop(one);
    say("after the first is closed", lock(&other).map_err(Into::into));
}

fn long_names() {
    let long = "n".repeat(255);
    say("a name of 255 bytes", fs::write(&long, "x").and_then(|()| fs::read_to_string(&long)));
    say("of 256", fs::write("n".repeat(256), "x"));
    say("of other bytes", {
        use std::os::unix::ffi::OsStrExt;
        fs::write(OsStr::from_bytes(b"\xff\n\x01\\"), "x")
    });
    say("a path that is too long", File::open("d/".repeat(2100)).map(drop));
    // Deeper than one path can say, level by level.
    let mut at: File = File::open(".").unwrap();
    let deep = "deep".repeat(50);
    for level in 0..30 {
        let made = rustix::fs::mkdirat(&at, &deep, Mode::from_raw_mode(0o755));
        let next = rustix::fs::openat(&at, &deep, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty());
        let (Ok(()), Ok(next)) = (made, &next) else {
            println!("- level {level}: {made:?} {next:?}");
            return;
        };
        at = next.try_clone().unwrap().into();
    }
    let made = rustix::fs::openat(&at, "bottom", OFlags::CREATE | OFlags::RDWR, Mode::from_raw_mode(0o600));
    say("at 6,000 bytes", made.map_err(Into::into).and_then(|file| File::from(file).write_at(b"x", 0)));
}

/// xorshift64*: the same operations wherever it runs.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    /// One of few paths, so that operations meet.
    fn path(&mut self) -> String {
        let names = ["a", "b", "c"];
        let depth = 1 + self.below(3);
        let path: Vec<_> = (0..depth).map(|_| names[self.below(3) as usize]).collect();
        format!("generated/{}", path.join("/"))
    }
}

/// Operations that a seed gives, on a few files that stay open and a small tree.
fn generated(seed: u64, count: u32) {
    let mut random = Random(seed);
    let mut files: Vec<File> = Vec::new();
    fs::create_dir("generated").unwrap();
    for number in 0..count {
        let (path, other) = (random.path(), random.path());
        let what = random.below(19);
        let (at, length) = (random.below(20_000), random.below(9_000) as usize);
        let index = random.below(4) as usize;
        let label = format!("{number} [{what}] {path} {other} {at} {length}");
        match what {
            0 => say(label, fs::create_dir(&path)),
            1 => say(label, fs::remove_dir(&path)),
            2 => say(label, fs::remove_file(&path)),
            3 | 4 => say(label, fs::rename(&path, &other)),
            5 => say(label, fs::hard_link(&path, &other)),
            6 => say(label, symlink("a/b", &path)),
            7 => say(label, mknod(&path, FileType::Fifo, 0o600)),
            8 => say(label, open(&path, OFlags::NONBLOCK | OFlags::TRUNC | OFlags::WRONLY, 0).map(drop)),
            9..12 => {
                let mut flags = OFlags::CREATE | OFlags::RDWR | OFlags::NONBLOCK;
                flags |= [OFlags::EXCL, OFlags::TRUNC, OFlags::empty(), OFlags::NOFOLLOW][index];
                let opened = open(&path, flags, 0o644);
                say(
                    label,
                    opened
                        .as_ref()
                        .map(drop)
                        .map_err(|e| io::Error::from_raw_os_error(e.raw_os_error().unwrap())),
                );
                // A FIFO that is open is a FIFO of the kernel that opened it.
                if let Ok(file) = opened
                    && file.metadata().unwrap().is_file()
                {
                    files.truncate(3);
                    files.insert(0, file);
                }
            }
            12 | 13 => {
                let Some(file) = files.get(index) else { continue };
                say(label, file.write_at(&vec![number as u8; length], at));
            }
            14 => {
                let Some(file) = files.get(index) else { continue };
                let mut bytes = vec![0; length];
                let sum = |bytes: &[u8]| {
                    bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31) + u32::from(*byte))
                };
                say(label, file.read_at(&mut bytes, at).map(|count| (count, sum(&bytes[..count]))));
            }
            15 => {
                let Some(file) = files.get(index) else { continue };
                say(label, file.set_len(at).and_then(|()| file.metadata()).map(|m| (m.len(), m.nlink())));
            }
            16 => {
                if let Ok(false) = fs::symlink_metadata(&path).map(|m| m.is_symlink()) {
                    say(
                        label,
                        fs::set_permissions(&path, fs::Permissions::from_mode(0o600 | at as u32 & 0o177)),
                    );
                }
            }
            17 => {
                let names = fs::read_dir(&path).map(|entries| {
                    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
                    names.sort();
                    names
                });
                say(label, names);
            }
            _ => println!("- {label}: {}", describe(Path::new(&path))),
        }
    }
}
