//! The user's shares: parts of one 9P mount, each bound to its place.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use agent_proto::{Configure, MAX_SHARES, SHARES_TAG, Share, User};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount_bind, mount_remount};

use super::{INERT, folder, mount_9p};
use crate::Failure;

/// As for the root, but the host's user changes these files meanwhile. With `cache=mmap` the guest keeps no
/// names and attributes, and of a file only what it has open: whoever opens it next sees what the host has. It
/// is also the one such mode in which a file can be mapped for writing, as linkers and databases do.
const READ_ONLY: &CStr = c"trans=virtio,version=9p2000.L,msize=507928,access=any,noxattr,cache=mmap";

/// Files that can be changed have the attributes that programs give them.
const WRITABLE: &CStr = c"trans=virtio,version=9p2000.L,msize=507928,access=any,cache=mmap";

/// Mounts the shares, if there are any. One that fails does not stop the others.
pub(super) fn mount(configure: &Configure) -> Vec<Failure> {
    if configure.shares.is_empty() {
        return Vec::new();
    }
    let place = c"/run/nofear/shares";
    let writable = configure.shares.iter().any(|share| share.writable);
    let (flags, options) = if writable { (INERT, WRITABLE) } else { (INERT | MountFlags::RDONLY, READ_ONLY) };
    if let Err(e) = folder(place, 0o700).and_then(|()| mount_9p(SHARES_TAG, place, flags, options)) {
        return vec![e];
    }
    let bind = |share| {
        bind(share, &configure.user).map_err(|e| {
            let at = String::from_utf8_lossy(&share.at).into_owned();
            Failure::of(format!("mount the share {at}"))(e)
        })
    };
    configure.shares.iter().take(MAX_SHARES).filter_map(|share| bind(share).err()).collect()
}

fn bind(share: &Share, user: &User) -> Result<(), Errno> {
    let at = Path::new(OsStr::from_bytes(&share.at));
    if !at.is_absolute() || share.name.contains('/') || share.name == ".." {
        return Err(Errno::INVAL);
    }
    let parent = if share.directory { Some(at) } else { at.parent() };
    make_folders(parent.unwrap_or(Path::new("/")), user)?;
    if !share.directory {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        drop(rustix::fs::open(at, flags, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH)?);
    }
    let source = CString::new(format!("/run/nofear/shares/{}", share.name)).map_err(|_| Errno::INVAL)?;
    // The bound part keeps the flags of the mount that it is a part of.
    mount_bind(source, at)?;
    if share.writable {
        return Ok(());
    }
    // The host refuses every change anyway; so programs are told at once.
    mount_remount(at, INERT | MountFlags::BIND | MountFlags::RDONLY, c"")
}

/// Makes a folder and those above it that are missing. In the user's home they are the user's.
fn make_folders(path: &Path, user: &User) -> Result<(), Errno> {
    let above: Vec<&Path> = path.ancestors().collect();
    for folder in above.into_iter().rev().skip(1) {
        match rustix::fs::mkdir(folder, Mode::from_raw_mode(0o755)) {
            Ok(()) if folder.starts_with(&user.home) => {
                rustix::fs::chown(folder, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
            }
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
