//! The upper layer on a profile's disk: an ext4 file system with the folders `upper` and `work`.
//!
//! What makes a file system complete is its folder `upper`, which is renamed into place when everything in it
//! is on the disk. Before that no command has run, so a file system without it, on a disk that the host calls
//! fresh, is what a killed VM left half made, and is made again. On any other disk nothing is ever made.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use agent_proto::{Configure, ProfileDisk};
use rustix::fs::{Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::pipe::PipeFlags;
use rustix::process::WaitOptions;

use super::{DATA_ONLY, OVER, Root, UPPER, WORK, entries, folder, make, mount_at, populate};
use crate::Failure;
use crate::files::{self, Entry, Kind};
use crate::search::{self, DEFAULT_PATH};
use crate::spawn::{self, Program};
use crate::{changes, kernel};

/// The first block device.
pub(crate) const DISK: &CStr = c"/dev/vda";

/// The upper layer while it is made.
const UNFINISHED: &CStr = c"/over/unfinished";

/// `noinit_itable`: the image's holes read as zeros, so no thread has to write zeros over them. `discard`:
/// what is deleted becomes a hole again. An error stops the writing, and nothing worse.
const OPTIONS: &CStr = c"discard,noinit_itable,errors=remount-ro";

/// `nodiscard`: the disk is empty, or has what is about to be written again.
const MKFS: [&CStr; 9] = [
    c"mkfs.ext4",
    c"-F",
    c"-q",
    c"-m",
    c"0",
    c"-E",
    c"lazy_itable_init=1,lazy_journal_init=1,nodiscard",
    c"-L",
    c"nofear-profile",
];

/// The most of a program's complaints that is reported, in bytes.
const COMPLAINTS: u64 = 400;

/// Mounts the disk for the overlay's upper layer, and makes or completes what is on it.
pub(super) fn mount_upper(configure: &Configure, disk: ProfileDisk) -> Result<Root, Failure> {
    folder(c"/dev", 0o755)?;
    mount_at(c"devtmpfs", c"/dev", MountFlags::NOSUID, Some(c"mode=0755"))?;
    let mut failures = Vec::new();
    let mounted = mount_disk();
    let is_complete = mounted.is_ok() && rustix::fs::stat(UPPER).is_ok();
    if is_complete {
        rustix::process::chdir(UPPER).map_err(Failure::of("enter the upper layer"))?;
        failures.extend(refresh(configure));
    } else if disk.fresh {
        if mounted.is_ok() {
            unmount(OVER, UnmountFlags::empty()).map_err(Failure::of("unmount the profile's disk"))?;
        }
        format()?;
        mount_disk().map_err(Failure::of("mount the profile's new file system"))?;
        folder(UNFINISHED, 0o755)?;
        populate(configure, UNFINISHED)?;
        changes::mark_made(&entries(configure)?).map_err(Failure::of("mark the profile's first files"))?;
        complete()?;
    } else {
        mounted.map_err(Failure::of(
            "mount the profile's disk, which holds no whole ext4 file system ('nofear profile check' may repair it)",
        ))?;
        adopt(configure)?;
        failures.extend(refresh(configure));
    }
    folder(WORK, 0o755)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let file_system = rustix::fs::open(OVER, flags, Mode::empty())
        .map_err(Failure::of("open the profile's file system"))?;
    failures.extend(grow(&file_system).err());
    Ok(Root { profile: Some(file_system), failures })
}

fn mount_disk() -> Result<(), Errno> {
    mount(DISK, OVER, c"ext4", MountFlags::NOATIME | MountFlags::NODEV, OPTIONS)
}

/// Gives the upper layer its name, when the disk has all of it.
fn complete() -> Result<(), Failure> {
    let done = || -> Result<(), Errno> {
        let over = rustix::fs::open(OVER, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::fs::syncfs(&over)?;
        rustix::fs::renameat_with(&over, "unfinished", &over, "upper", RenameFlags::NOREPLACE)?;
        rustix::fs::syncfs(&over)
    };
    done().map_err(Failure::of("complete the profile's file system"))
}

/// Takes over a disk that another program made: all that is on it becomes the upper layer, and what that lacks
/// is added.
fn adopt(configure: &Configure) -> Result<(), Failure> {
    let moved = || -> io::Result<()> {
        rustix::fs::mkdir(UNFINISHED, Mode::from_raw_mode(0o755))
            .or_else(|e| if e == Errno::EXIST { Ok(()) } else { Err(e) })?;
        for entry in fs::read_dir("/over")? {
            let name = entry?.file_name();
            if name != "lost+found" && name != "unfinished" && name != "work" {
                fs::rename(Path::new("/over").join(&name), Path::new("/over/unfinished").join(&name))?;
            }
        }
        Ok(())
    };
    moved().map_err(Failure::of("take over the files of the imported disk"))?;
    rustix::process::chdir(UNFINISHED).map_err(Failure::of("enter the upper layer"))?;
    for entry in entries(configure)? {
        make_missing(&entry).map_err(|e| Failure::of(format!("make /{}", entry.path.display()))(e))?;
    }
    complete()?;
    rustix::process::chdir(UPPER).map_err(Failure::of("enter the upper layer"))
}

fn make_missing(entry: &Entry) -> Result<(), Errno> {
    make(entry).or_else(|e| if e == Errno::EXIST { Ok(()) } else { Err(e) })
}

/// Makes the file system.
fn format() -> Result<(), Failure> {
    // The host's programs expect to be in a root of their own. Links do: what is relative in the lower layer
    // stays there, what is absolute comes back here.
    for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc"] {
        match rustix::fs::symlink(format!("/lower/{name}"), format!("/{name}")) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(Failure::of("make the links for mkfs.ext4")(e)),
        }
    }
    folder(c"/proc", 0o755)?;
    mount_at(c"proc", c"/proc", DATA_ONLY, None)?;
    let result = run_mkfs();
    let _ = unmount(c"/proc", UnmountFlags::DETACH);
    result
}

fn run_mkfs() -> Result<(), Failure> {
    let attempt = "make the profile's file system with mkfs.ext4 (of the package e2fsprogs)";
    let path = format!("PATH={DEFAULT_PATH}").into_bytes();
    let files = search::candidates(b"mkfs.ext4", std::slice::from_ref(&path))
        .map_err(|e| Failure::of(attempt)(io::Error::other(e)))?;
    let env = CString::new(path).map_err(|e| Failure::of(attempt)(io::Error::other(e)))?;
    let argv = MKFS.iter().copied().chain([DISK]).map(CStr::to_owned).collect();
    let program = Program { files, argv, env: vec![env], cwd: c"/".to_owned(), uid: 0, gid: 0 };
    let run = || -> io::Result<()> {
        let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let (complaints, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let process = spawn::spawn(&program, [null.as_fd(), null.as_fd(), theirs.as_fd()], false)
            .map_err(|e| io::Error::from(e.errno))?;
        drop(theirs);
        let mut text = String::new();
        let mut complaints = File::from(complaints);
        // What is no UTF-8 is left out; the status counts.
        let _ = complaints.by_ref().take(COMPLAINTS).read_to_string(&mut text);
        let _ = io::copy(&mut complaints, &mut io::sink());
        let status = rustix::process::waitpid(Some(process.pid), WaitOptions::empty())?;
        match status.and_then(|(_, status)| status.exit_status()) {
            Some(0) => Ok(()),
            _ => Err(io::Error::other(format!("it failed: {}", text.trim()))),
        }
    };
    run().map_err(Failure::of(attempt))
}

/// Brings the files of the upper layer, the working directory, up to date that follow the configuration.
/// Returns what could not be done.
fn refresh(configure: &Configure) -> Vec<Failure> {
    let mut failures = Vec::new();
    let mut note = |what: &str, result: io::Result<()>| {
        failures.extend(result.map_err(Failure::of(format!("bring {what} up to date"))).err());
    };
    // Another user's profile has no home for this one.
    match entries(configure) {
        Ok(entries) => {
            for entry in entries.iter().filter(|entry| matches!(entry.kind, Kind::Folder | Kind::OwnFolder)) {
                note(&entry.path.display().to_string(), make_missing(entry).map_err(Into::into));
            }
        }
        Err(e) => return vec![e],
    }
    let before = read("etc/hostname").unwrap_or_default();
    if let Some(hosts) =
        read("etc/hosts").and_then(|hosts| files::renamed_hosts(&hosts, before.trim(), &configure.hostname))
    {
        note("etc/hosts", replace("etc/hosts", &hosts));
    }
    for entry in files::identity(configure) {
        let Kind::File(text) = &entry.kind else { continue };
        let path = entry.path.display().to_string();
        if read(&path).as_ref() != Some(text) {
            note(&path, replace(&path, text).and_then(|()| changes::mark_made(std::slice::from_ref(&entry))));
        }
    }
    for (path, missing) in [
        ("etc/passwd", read("etc/passwd").and_then(|text| files::missing_user(&text, &configure.user))),
        ("etc/group", read("etc/group").and_then(|text| files::missing_group(&text, &configure.user))),
    ] {
        if let Some(line) = missing {
            let text = format!("{}{line}", read(path).unwrap_or_default());
            note(path, replace(path, &text));
        }
    }
    failures
}

/// A regular file's text; none for anything else, and for what is no text or too long to be one of ours.
fn read(path: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let mut text = String::new();
    file.take(1 << 20).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Writes a file anew, whole or not at all.
fn replace(path: &str, text: &str) -> io::Result<()> {
    let unfinished = format!("{path}.nofear");
    fs::write(&unfinished, text)?;
    rustix::fs::chmod(&unfinished, Mode::from_raw_mode(0o644))?;
    rustix::fs::chown(&unfinished, Some(Uid::ROOT), Some(Gid::ROOT))?;
    fs::rename(unfinished, path)
}

/// Lets the file system fill a disk that has grown.
fn grow(file_system: &OwnedFd) -> Result<(), Failure> {
    let grown = || -> io::Result<()> {
        let mut disk = File::open(Path::new("/dev/vda"))?;
        let mut superblock = [0; SUPERBLOCK];
        disk.read_exact_at(&mut superblock, SUPERBLOCK as u64)?;
        let bytes = io::Seek::seek(&mut disk, io::SeekFrom::End(0))?;
        match wanted_blocks(&superblock, bytes) {
            Some(blocks) => Ok(kernel::grow_ext4(file_system, blocks)?),
            None => Ok(()),
        }
    };
    grown().map_err(Failure::of("grow the profile's file system to the size of its disk"))
}

/// The bytes of an ext4 superblock, and where the first one is.
const SUPERBLOCK: usize = 1024;

/// How many blocks the file system could have on a disk of so many bytes, if that is more than it has.
fn wanted_blocks(superblock: &[u8; SUPERBLOCK], bytes: u64) -> Option<u64> {
    let field = |at: usize| superblock[at..].first_chunk().map_or(0, |field| u32::from_le_bytes(*field));
    // s_feature_incompat has INCOMPAT_64BIT, or the upper half of the count is not there.
    let upper = if field(0x60) & 0x80 != 0 { field(0x150) } else { 0 };
    let blocks = u64::from(upper) << 32 | u64::from(field(0x04));
    // s_log_block_size: 1 KiB to 64 KiB.
    let block_size = 1024_u64.checked_shl(field(0x18).min(6))?;
    let wanted = bytes / block_size;
    (wanted > blocks).then_some(wanted)
}

#[cfg(test)]
mod tests;
