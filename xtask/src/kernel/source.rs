//! Where the kernel's source comes from, and what tells one source from another.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{self, Key};
use crate::packages::{self, DEBIAN_SOURCE};
use crate::workspace::succeed;

/// Linux source.
#[derive(Debug)]
pub enum Source {
    /// A tar archive with one folder at its top.
    Archive(PathBuf),
    /// An unpacked tree. It is only read.
    Folder(PathBuf),
}

impl Source {
    /// The source that was named, or Debian's package, installed if need be.
    pub fn find(named: Option<&Path>, purpose: &str) -> Result<Self> {
        if let Some(path) = named {
            let path =
                fs::canonicalize(path).with_context(|| format!("find the source {}", path.display()))?;
            return Ok(if path.is_dir() { Self::Folder(path) } else { Self::Archive(path) });
        }
        let archive = PathBuf::from(format!("/usr/src/{DEBIAN_SOURCE}.tar.xz"));
        if !archive.exists() {
            if !packages::can_install() {
                bail!(
                    "{purpose}: no Linux source. On Debian, apt-get install {DEBIAN_SOURCE}; elsewhere, \
                     take linux-6.12.*.tar.xz from https://kernel.org and give it with \
                     `cargo xtask kernel --source`"
                );
            }
            packages::install(purpose, &[DEBIAN_SOURCE])?;
        }
        Ok(Self::Archive(archive))
    }

    /// The same text for the same source: an archive's hash; a tree's names, sizes and times.
    pub fn identity(&self) -> Result<String> {
        match self {
            Self::Archive(path) => remembered_hash(path),
            Self::Folder(path) => {
                if path.join(".config").exists() {
                    bail!("{} was built in: `make mrproper` there first", path.display());
                }
                Ok(add_folder(Key::new("folder"), path)?.name())
            }
        }
    }

    /// Puts the source, with `patches`, into `folder`; or leaves it where it is if that does as well.
    pub fn prepare(&self, folder: &Path, patches: &[PathBuf]) -> Result<PathBuf> {
        match self {
            Self::Folder(path) if patches.is_empty() => return Ok(path.clone()),
            Self::Folder(path) => succeed(
                Command::new("cp").args(["--archive", "--reflink=auto", "--"]).arg(path).arg(folder),
                "copy the source",
            )?,
            Self::Archive(path) => {
                fs::create_dir(folder).with_context(|| format!("make {}", folder.display()))?;
                succeed(
                    Command::new("tar")
                        .args(["--extract", "--strip-components=1", "--file"])
                        .arg(path)
                        .arg("--directory")
                        .arg(folder),
                    "unpack the source",
                )?;
            }
        }
        for patch in patches {
            succeed(
                Command::new("patch")
                    .args(["--silent", "--strip=1", "--forward", "--input"])
                    .arg(patch)
                    .arg("--directory")
                    .arg(folder),
                &format!("apply {}", patch.display()),
            )?;
        }
        Ok(folder.to_path_buf())
    }
}

/// The archive's hash, taken once for each path, inode, size and time.
fn remembered_hash(path: &Path) -> Result<String> {
    let meta = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    let stamp =
        format!("{} {} {} {}.{}", path.display(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
    let memory = cache::folder("kernel")?.join(format!("{}.hash", Key::new(&stamp).name()));
    if let Ok(hash) = fs::read_to_string(&memory)
        && hash.len() == 64
    {
        return Ok(hash);
    }
    let hash = cache::hash_file(path)?;
    fs::write(&memory, &hash).with_context(|| format!("write {}", memory.display()))?;
    Ok(hash)
}

fn add_folder(mut key: Key, folder: &Path) -> Result<Key> {
    let mut entries = fs::read_dir(folder)
        .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
        .with_context(|| format!("read {}", folder.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_name() == ".git" {
            continue;
        }
        let meta = entry.metadata().with_context(|| format!("look at {}", entry.path().display()))?;
        key = key.with(entry.path().as_os_str().as_encoded_bytes());
        if meta.is_dir() {
            key = add_folder(key, &entry.path())?;
        } else {
            key = key.with(format!("{} {} {}", meta.size(), meta.mtime(), meta.mtime_nsec()).as_bytes());
        }
    }
    Ok(key)
}
