//! What a profile changed against the host's software: a walk through the overlay's upper layer.

use std::ffi::OsString;
use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use agent_proto::{Change, ChangeKind, FileKind};
use rustix::fs::XattrFlags;

use crate::files::Entry;

/// On a folder that hides the host's folder of that name (overlayfs).
const OPAQUE: &str = "trusted.overlay.opaque";

/// On a file that was made for the guest: the time of its last change then. With another time it is the
/// user's.
const MADE: &str = "trusted.nofear.made";

/// Marks the files made for a guest, below the working directory, so that no walk reports them.
pub fn mark_made(entries: &[Entry]) -> io::Result<()> {
    entries.iter().try_for_each(|entry| {
        let changed = time_of_change(&entry.path.symlink_metadata()?);
        Ok(rustix::fs::lsetxattr(&entry.path, MADE, changed.as_bytes(), XattrFlags::empty())?)
    })
}

fn time_of_change(metadata: &Metadata) -> String {
    format!("{}.{}", metadata.mtime(), metadata.mtime_nsec())
}

/// Whether nofear made a file and nobody has changed it since. A folder's changes are those in it.
fn is_made(path: &Path, metadata: &Metadata) -> bool {
    attribute(path, MADE).is_some_and(|made| metadata.is_dir() || made == time_of_change(metadata).as_bytes())
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 64];
    let size = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.get(..size).map(<[u8]>::to_vec)
}

/// Reports every difference between the upper layer and the lower one, a folder before what is in it, names in
/// the order of their bytes.
///
/// # Errors
///
/// The first file that can't be read, and what `report` returns.
pub fn walk(upper: &Path, lower: &Path, report: &mut Report<'_>) -> io::Result<()> {
    folder(upper, Some(lower), Path::new("/"), report)
}

/// Takes the differences.
pub type Report<'a> = dyn FnMut(Change) -> io::Result<()> + 'a;

/// `lower`: the folder that this one is merged with.
fn folder(upper: &Path, lower: Option<&Path>, guest: &Path, report: &mut Report<'_>) -> io::Result<()> {
    let opaque = attribute(upper, OPAQUE).is_some_and(|value| value == b"y");
    let mut names = names(upper)?;
    if opaque && let Some(lower) = lower {
        names.extend(self::names(lower)?);
    }
    names.sort_unstable();
    names.dedup();
    for name in names {
        let below = lower.map(|lower| lower.join(&name));
        let host = below.as_ref().and_then(|path| path.symlink_metadata().ok());
        let path = upper.join(&name);
        let guest = guest.join(&name);
        let ours = match path.symlink_metadata() {
            Ok(metadata) if !is_whiteout(&metadata) => metadata,
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            // A whiteout hides nothing when the host has removed the file as well.
            _ => {
                if let Some(host) = host {
                    report(change(ChangeKind::Deleted, &guest, &host))?;
                }
                continue;
            }
        };
        let kind = match &host {
            None => Some(ChangeKind::Added),
            Some(host) => differs(&path, &ours, below.as_deref(), host).then_some(ChangeKind::Changed),
        };
        if let Some(kind) = kind
            && !is_made(&path, &ours)
        {
            report(change(kind, &guest, &ours))?;
        }
        if ours.is_dir() {
            let merged = host.is_some_and(|host| host.is_dir());
            folder(&path, below.as_deref().filter(|_| merged), &guest, report)?;
        }
    }
    Ok(())
}

fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
}

fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

/// Whether a file of the upper layer is another than the host's. The overlay also copies those that a program
/// only opened to write; their times are the host's.
fn differs(path: &Path, ours: &Metadata, below: Option<&Path>, host: &Metadata) -> bool {
    if (ours.mode(), ours.uid(), ours.gid()) != (host.mode(), host.uid(), host.gid()) {
        return true;
    }
    if ours.is_symlink() {
        return fs::read_link(path).ok() != below.and_then(|below| fs::read_link(below).ok());
    }
    let state = |metadata: &Metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    ours.is_file() && state(ours) != state(host)
}

fn change(kind: ChangeKind, path: &Path, metadata: &Metadata) -> Change {
    let size = if metadata.is_file() { metadata.len() } else { 0 };
    let path = path.as_os_str().as_bytes().to_vec();
    Change { kind, file: file_kind(metadata.file_type()), size, path }
}

fn file_kind(kind: FileType) -> FileKind {
    if kind.is_file() {
        FileKind::Regular
    } else if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_symlink() {
        FileKind::Symlink
    } else {
        FileKind::Special
    }
}

#[cfg(test)]
mod tests;
