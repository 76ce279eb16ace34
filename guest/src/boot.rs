//! From the initramfs to the guest's root: an overlay of the host's software below, and a tmpfs or a profile's
//! disk above.
//!
//! The order serves the start's speed. What needs no configuration is mounted while the host answers; the
//! files made for the guest are written straight to the upper layer, before there is an overlay that
//! would look each of them up on the host.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use agent_proto::{Configure, ROOT_TAG};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};

use crate::Failure;
use crate::files::{self, Entry, Kind};
use crate::{kernel, network};

pub(crate) use profile::DISK;

mod profile;
mod shares;

/// In the initramfs: the host's software, the upper layer with its work folder, and the new root.
const LOWER: &CStr = c"/lower";
const OVER: &CStr = c"/over";
const UPPER: &CStr = c"/over/upper";
const WORK: &CStr = c"/over/work";
const ROOT: &CStr = c"/new";

/// `msize` makes one read 124 pages, the most that the virtio transport's 128 descriptors allow;
/// `access=any` needs one attach; `noxattr` (ignored before Linux 6.4) spares a request for each file, since
/// overlayfs looks for its own attributes below too.
/// `cache=loose`: what is below does not change while the guest runs, or at least may be seen late.
const SOFTWARE: &CStr = c"trans=virtio,version=9p2000.L,msize=507928,access=any,noxattr,cache=loose";

const OVERLAY: &CStr =
    c"lowerdir=/lower,upperdir=/over/upper,workdir=/over/work,metacopy=off,index=off,xino=off";

const NOTHING: MountFlags = MountFlags::empty();
const INERT: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const DATA_ONLY: MountFlags = INERT.union(MountFlags::NOEXEC);

/// What of the root lasts.
#[derive(Debug)]
pub struct Root {
    /// The profile's file system.
    profile: Option<OwnedFd>,
    /// What went wrong on the way, and the guest can live with.
    pub failures: Vec<Failure>,
}

impl Root {
    /// Writes everything back, and leaves the profile's file system as an unmount would. Nothing can be
    /// written to it any more.
    pub fn settle(&self) {
        rustix::fs::sync();
        if let Some(profile) = &self.profile
            && let Err(e) = kernel::freeze(profile)
        {
            // Its journal has everything: the next mount takes it from there.
            kernel::report(&format!("freeze the profile's file system: {e}"));
        }
    }
}

/// Mounts the lower layer, in the initramfs. File modes are exact from here on: the umask becomes zero.
pub fn software() -> Result<(), Failure> {
    rustix::process::umask(Mode::empty());
    for path in [LOWER, OVER, ROOT] {
        folder(path, 0o755)?;
    }
    mount_9p(ROOT_TAG, LOWER, INERT | MountFlags::RDONLY, SOFTWARE)
}

/// Makes the root that `configure` describes of the two layers, and moves this process into it.
pub fn root(configure: &Configure) -> Result<Root, Failure> {
    let root = match configure.profile {
        Some(disk) => profile::mount_upper(configure, disk)?,
        None => {
            // The upper layer is the guest's disk: it may take half of the memory, tmpfs's default.
            mount_at(c"tmpfs", OVER, NOTHING, Some(c"mode=0755"))?;
            folder(UPPER, 0o755)?;
            folder(WORK, 0o755)?;
            populate(configure, UPPER)?;
            Root { profile: None, failures: Vec::new() }
        }
    };
    mount(c"overlay", ROOT, c"overlay", INERT, OVERLAY).map_err(Failure::of("mount the overlay root"))?;
    rustix::process::chdir(ROOT).map_err(Failure::of("enter the new root"))?;
    kernel_file_systems()?;
    run(configure)?;
    // The initramfs can't be unmounted or pivoted away from: the new root goes over it. Its files have no
    // name any more then; what they hold is this program, whose memory is in use anyway.
    mount_move(c".", c"/").map_err(Failure::of("move the new root to /"))?;
    rustix::process::chroot(c".").map_err(Failure::of("enter the new root"))?;
    kernel::silence_standard_streams().map_err(Failure::of("open /dev/null"))?;
    Ok(root)
}

/// What is to be done in the new root: names, clock, loopback, shares. Returns the failures that the guest
/// can live with.
pub fn finish(configure: &Configure) -> Vec<Failure> {
    let mut failures = Vec::new();
    let mut note = |attempt: &'static str, result: Result<(), Errno>| {
        failures.extend(result.map_err(Failure::of(attempt)).err());
    };
    note("set the host name", rustix::system::sethostname(configure.hostname.as_bytes()));
    note("set the clock", kernel::set_clock(configure.time));
    note("bring the loopback interface up", kernel::loopback_up());
    if let Some(network) = &configure.network {
        note("set the network interface up", network::set_up(network));
    }
    failures.extend(shares::mount(configure));
    failures
}

/// Writes the files that are made for this guest into an upper layer.
fn populate(configure: &Configure, upper: &CStr) -> Result<(), Failure> {
    let entries = entries(configure)?;
    rustix::process::chdir(upper).map_err(Failure::of("enter the upper layer"))?;
    entries.iter().try_for_each(|entry| {
        make(entry).map_err(|e| Failure::of(format!("make /{}", entry.path.display()))(e))
    })
}

fn entries(configure: &Configure) -> Result<Vec<Entry>, Failure> {
    files::files(configure).map_err(|e| Failure::of("configure the guest")(io::Error::other(e)))
}

/// Makes one file below the working directory.
fn make(entry: &Entry) -> Result<(), Errno> {
    let path = entry.path.as_path();
    let mode = Mode::from_raw_mode(entry.mode);
    match &entry.kind {
        Kind::Folder => rustix::fs::mkdir(path, mode)?,
        Kind::OwnFolder => {
            rustix::fs::mkdir(path, mode)?;
            rustix::fs::setxattr(path, c"trusted.overlay.opaque", b"y", XattrFlags::empty())?;
        }
        Kind::File(text) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = rustix::fs::open(path, flags, mode)?;
            let mut rest = text.as_bytes();
            while !rest.is_empty() {
                rest = rest.get(rustix::io::write(&file, rest)?..).unwrap_or_default();
            }
        }
        Kind::Symlink(target) => rustix::fs::symlink(*target, path)?,
    }
    let (uid, gid) = entry.owner;
    if (uid, gid) != (0, 0) {
        rustix::fs::chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    Ok(())
}

/// Mounts what the kernel offers and what lives in memory, below the working directory.
fn kernel_file_systems() -> Result<(), Failure> {
    mount_at(c"proc", c"proc", DATA_ONLY, None)?;
    mount_at(c"sysfs", c"sys", DATA_ONLY, None)?;
    optional(mount_at(c"cgroup2", c"sys/fs/cgroup", DATA_ONLY, None));
    mount_at(c"devtmpfs", c"dev", MountFlags::NOSUID, Some(c"mode=0755"))?;
    folder(c"dev/pts", 0o755)?;
    // gid 5 is tty, as in the guest's /etc/group.
    mount_at(
        c"devpts",
        c"dev/pts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        Some(c"gid=5,mode=0620,ptmxmode=0666"),
    )?;
    folder(c"dev/shm", 0o1777)?;
    mount_at(c"tmpfs", c"dev/shm", INERT, Some(c"mode=1777"))?;
    folder(c"dev/mqueue", 0o1777)?;
    optional(mount_at(c"mqueue", c"dev/mqueue", DATA_ONLY, None));
    for (link, target) in [
        (c"dev/fd", c"/proc/self/fd"),
        (c"dev/stdin", c"/proc/self/fd/0"),
        (c"dev/stdout", c"/proc/self/fd/1"),
        (c"dev/stderr", c"/proc/self/fd/2"),
    ] {
        rustix::fs::symlink(target, link).map_err(Failure::of("make the links in /dev"))?;
    }
    mount_at(c"tmpfs", c"run", INERT, Some(c"mode=0755"))?;
    mount_at(c"tmpfs", c"tmp", INERT, Some(c"mode=1777"))?;
    // X servers of ordinary users put their sockets there, and can't make it.
    folder(c"tmp/.X11-unix", 0o1777)
}

/// Fills `/run`, below the working directory, and moves the host's software to where guest root sees it.
fn run(configure: &Configure) -> Result<(), Failure> {
    let user = &configure.user;
    folder(c"run/lock", 0o1777)?;
    folder(c"run/user", 0o755)?;
    let path = format!("run/user/{}", user.uid);
    rustix::fs::mkdir(&path, Mode::RWXU)
        .and_then(|()| rustix::fs::chown(&path, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid))))
        .map_err(Failure::of(format!("make /{path}")))?;
    folder(c"run/nofear", 0o700)?;
    folder(c"run/nofear/host", 0o700)?;
    mount_move(LOWER, c"run/nofear/host").map_err(Failure::of("move the host's software"))
}

fn folder(path: &CStr, mode: u32) -> Result<(), Failure> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
        // The kernel's own initramfs may have it.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(Failure::of(format!("make the folder {}", path.to_string_lossy()))(e)),
    }
}

fn mount_at(kind: &CStr, at: &CStr, flags: MountFlags, options: Option<&CStr>) -> Result<(), Failure> {
    mount(kind, at, kind, flags, options)
        .map_err(|e| Failure::of(format!("mount {} on {}", kind.to_string_lossy(), at.to_string_lossy()))(e))
}

/// A 9P mount. [`INERT`] is among the flags: no devices or set-uid programs, whatever the host's files say.
fn mount_9p(tag: &str, at: &CStr, flags: MountFlags, options: &CStr) -> Result<(), Failure> {
    mount(tag, at, c"9p", flags, options).map_err(|e| Failure::of(format!("mount the 9P device {tag}"))(e))
}

/// For what a kernel may be built without, and few programs miss.
fn optional(_: Result<(), Failure>) {}
