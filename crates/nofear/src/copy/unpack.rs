//! Unpacks what a guest sends: a tar stream of one file or folder, into a folder of this machine.
//!
//! The guest chose every byte. Names are components, one by one below the target; no symbolic link is followed, also
//! none that the stream itself has made; set-user-id bits, devices, pipes and hard links are left out.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, symlinkat, unlinkat};
use rustix::io::Errno;
use tar::EntryType;

use crate::text::escaped;

/// The most folders within each other.
const MAX_DEPTH: usize = 256;

/// The most entries that are named as left out.
const MAX_NAMED: u32 = 20;

/// Unpacks the stream's one file or folder `name` into `folder`, as `new_name`.
pub fn unpack(from: &mut impl Read, folder: &File, name: &OsStr, new_name: &OsStr) -> anyhow::Result<()> {
    let mut tar = tar::Archive::new(from);
    let mut left_out = 0_u32;
    let mut entries = 0_u64;
    for entry in tar.entries().context("read what the VM sends")? {
        let mut entry = entry.context("read what the VM sends")?;
        entries += 1;
        let shown = escaped(&entry.path_bytes());
        let path = path(&entry.path_bytes(), name, new_name).with_context(|| format!("'{shown}'"))?;
        let target = Target { folder, path: &path };
        let mode = entry.header().mode().unwrap_or(0o600);
        let reason = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                target.file(&mut entry, mode).with_context(|| format!("write '{shown}'"))?;
                None
            }
            EntryType::Directory => {
                target.directory().with_context(|| format!("make '{shown}'"))?;
                None
            }
            EntryType::Symlink => {
                let link = entry.link_name_bytes().unwrap_or_default().into_owned();
                match stays_inside(&path, Path::new(OsStr::from_bytes(&link))) {
                    true => {
                        target.symlink(&link).with_context(|| format!("make the link '{shown}'"))?;
                        None
                    }
                    false => Some("it is a link that leads out"),
                }
            }
            EntryType::Link => Some("it is a hard link"),
            _ => Some("it is neither a file nor a folder"),
        };
        if let Some(reason) = reason {
            left_out += 1;
            if left_out <= MAX_NAMED {
                log::warn!("'{shown}' is left out: {reason}");
            }
        }
    }
    if left_out > MAX_NAMED {
        log::warn!("{left_out} entries are left out");
    }
    ensure!(entries > 0, "the VM sent nothing");
    Ok(())
}

/// Where an entry goes, relative to the target folder.
fn path(bytes: &[u8], name: &OsStr, new_name: &OsStr) -> anyhow::Result<PathBuf> {
    let mut components = Path::new(OsStr::from_bytes(bytes)).components();
    ensure!(
        components.next() == Some(Component::Normal(name)),
        "the VM sent something else than was asked for"
    );
    let mut path = PathBuf::from(new_name);
    for (depth, component) in components.enumerate() {
        let Component::Normal(component) = component else { bail!("the VM sent a name with '..'") };
        ensure!(depth < MAX_DEPTH, "the VM sent too many folders within each other");
        path.push(component);
    }
    Ok(path)
}

/// Whether a link's target is below what is copied.
fn stays_inside(path: &Path, link: &Path) -> bool {
    // The folders between the link and the root of what is copied.
    let mut depth = path.components().count().saturating_sub(2);
    for component in link.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    !link.as_os_str().is_empty()
}

struct Target<'a> {
    folder: &'a File,
    path: &'a Path,
}

impl Target<'_> {
    /// The folder that it is in, reached through no link, and its name.
    fn parent(&self) -> io::Result<(OwnedFd, &OsStr)> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let name = self.path.file_name().ok_or_else(invalid)?;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let parent =
            openat2(self.folder.as_fd(), parent.unwrap_or(Path::new(".")), flags, Mode::empty(), resolve)?;
        Ok((parent, name))
    }

    fn directory(&self) -> io::Result<()> {
        let (parent, name) = self.parent()?;
        match mkdirat(&parent, name, Mode::from_raw_mode(0o777)) {
            Err(Errno::EXIST) => {
                // Only a folder will do.
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(&parent, name, flags, Mode::empty())?;
                Ok(())
            }
            made => Ok(made?),
        }
    }

    /// A new file in the place of whatever file or link was there.
    fn file(&self, from: &mut impl Read, mode: u32) -> io::Result<()> {
        let (parent, name) = self.parent()?;
        remove(&parent, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&parent, name, flags, Mode::from_raw_mode(mode & 0o777 | 0o600))?;
        io::copy(from, &mut File::from(file)).map(drop)
    }

    fn symlink(&self, link: &[u8]) -> io::Result<()> {
        let (parent, name) = self.parent()?;
        remove(&parent, name)?;
        Ok(symlinkat(OsStr::from_bytes(link), &parent, name)?)
    }
}

fn remove(parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests;
