//! Namespaces of the process's own: nothing of the host's is there by any name.

use std::{fs, io};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    process::{chdir, getgid, getuid, pivot_root},
    thread::{CapabilitySet, CapabilitySets, UnshareFlags, set_capabilities},
};

/// Leaves the host's network, file system, IPC, names and cgroups for empty ones, as an ordinary user may: in a user
/// namespace where it is the user that it was, and nobody else is anybody. What is open stays open.
///
/// The process must have one thread.
///
/// # Errors
///
/// The host forbids it, and nothing has changed; or, what was not seen to happen, something fails half-way.
pub(crate) fn leave() -> io::Result<()> {
    let (user, group) = (getuid().as_raw(), getgid().as_raw());
    let all = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    // SAFETY: descriptors and memory stay shared as they are.
    unsafe { rustix::thread::unshare_unsafe(all) }?;
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
