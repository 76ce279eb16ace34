//! Namespaces of the process's own: nothing of the host's is there by any name.

use std::{fs, io};

use rustix::{
    io::retry_on_intr,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    process::{WaitOptions, chdir, getgid, getuid, pivot_root, waitpid},
    thread::{CapabilitySet, CapabilitySets, UnshareFlags, set_capabilities},
};

use crate::apart;

/// Why a process has not left.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The host forbids it; nothing has changed.
    AtOnce(io::Error),
    /// It is in new namespaces, and not all is as it should be.
    HalfWay(io::Error),
}

/// Whether [`leave`] would come to its end: tried in a copy of this process, since some hosts let one make a user namespace
/// and do nothing in it, and then there is no way back.
///
/// # Errors
///
/// What it fails with.
pub(crate) fn may_leave() -> io::Result<()> {
    let Some(copy) = apart::fork()? else {
        // A network namespace is the dear part of it, and comes with the others or not at all.
        apart::end(match leave_into(UnshareFlags::NEWNS) {
            Ok(()) => 0,
            Err(Failed::AtOnce(e) | Failed::HalfWay(e)) => e.raw_os_error().unwrap_or(libc::EIO),
        })
    };
    let ended = retry_on_intr(|| waitpid(Some(copy), WaitOptions::empty()))?;
    match ended.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::Error::other("it was killed for trying")),
    }
}

/// Leaves the host's network, file system, IPC, names and cgroups for empty ones, as an ordinary user may: in a user
/// namespace where it is the user that it was, and nobody else is anybody. What is open stays open.
///
/// The process must have one thread.
pub(crate) fn leave() -> Result<(), Failed> {
    leave_into(
        UnshareFlags::NEWNS
            | UnshareFlags::NEWNET
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS
            | UnshareFlags::NEWCGROUP,
    )
}

fn leave_into(namespaces: UnshareFlags) -> Result<(), Failed> {
    let (user, group) = (getuid().as_raw(), getgid().as_raw());
    // SAFETY: descriptors and memory stay shared as they are.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | namespaces) }
        .map_err(|e| Failed::AtOnce(e.into()))?;
    settle(user, group).map_err(Failed::HalfWay)
}

/// Makes the new namespaces what they should be: of one user, with nothing in them.
fn settle(user: u32, group: u32) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
    // What is mounted here must not come to be in the host's.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // Any folder will do that each system has.
    let place = "/proc";
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    mount("tmpfs", place, "tmpfs", flags, Some(c"mode=0,size=4k"))?;
    chdir(place)?;
    // The old root comes to lie over the new one, and goes (pivot_root(2)).
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}
