//! All profiles of the user: `$XDG_DATA_HOME/nofear/profiles`, a folder each.
//!
//! A profile appears and disappears whole: it is made in a folder with a hidden name, which no profile has, and
//! renamed; and it is renamed before it is removed. What a killed process left under such a name is removed by
//! the next one that makes a profile.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use etcetera::BaseStrategy;
use etcetera::base_strategy::Xdg;
use rustix::fs::{AtFlags, CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use vmm::{Reach, Rights};

use super::description::Description;
use super::image;
use super::lock::{self, Attempt, Lock};
use super::name::Name;

/// The disk, in a profile's folder.
const DISK: &str = "disk.img";

/// A file that is there until a command has run on the profile.
const FRESH: &str = "fresh";

/// A file whose time says when a command last ran.
const USED: &str = "used";

/// How the names of folders begin that are no profiles yet, or not any more.
const HIDDEN: &str = ".";

/// The folder of all profiles.
#[derive(Clone, Debug)]
pub struct Profiles {
    folder: PathBuf,
}

/// A profile that this process holds.
#[derive(Debug)]
pub struct Profile {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub description: Description,
    folder: PathBuf,
    _lock: Lock,
}

/// A profile that is made.
pub struct Unfinished<'a> {
    profiles: &'a Profiles,
    folder: PathBuf,
    lock: Option<Lock>,
}

impl Profiles {
    /// Those of this user.
    pub fn of_user() -> anyhow::Result<Self> {
        let xdg = Xdg::new().context("find your home, where profiles are kept (--temporary does without)")?;
        Ok(Self::at(xdg.data_dir().join("nofear/profiles")))
    }

    /// Those in a folder, which need not be there yet.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The names of all, in order.
    pub fn names(&self) -> anyhow::Result<Vec<Name>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("read {}", self.folder.display()))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.with_context(|| format!("read {}", self.folder.display()))?;
            let name = entry.file_name().to_str().and_then(|name| Name::parse(name).ok());
            names.extend(name.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_dir())));
        }
        names.sort();
        Ok(names)
    }

    /// Whether there is a profile of this name.
    pub fn contains(&self, name: &Name) -> bool {
        self.folder_of(name).is_dir()
    }

    /// Where a profile is, or would be.
    pub fn folder_of(&self, name: &Name) -> PathBuf {
        self.folder.join(name)
    }

    /// The colour that a profile's windows are to have, if its user has said so; also of one that is in use.
    pub fn border_of(&self, name: &Name) -> Option<String> {
        Description::read(&self.folder_of(name)).ok()?.settings.border().ok()?
    }

    /// Takes a profile, for `what`: nobody else has it until it is dropped.
    ///
    /// # Errors
    ///
    /// When there is none, when another process has it, and when it is damaged.
    pub fn open(&self, name: &Name, what: &str) -> anyhow::Result<Profile> {
        let folder = self.folder_of(name);
        let Some(lock) = lock::lock_or_refuse(&folder, name.as_str(), what)? else {
            bail!("there is no profile {name}; 'nofear profile list' shows those there are");
        };
        let description = Description::read(&folder)?;
        let disk = folder.join(DISK);
        let metadata = disk.symlink_metadata().with_context(|| format!("look at {}", disk.display()))?;
        ensure!(metadata.is_file(), "{} is no file", disk.display());
        Ok(Profile { name: name.clone(), description, folder, _lock: lock })
    }

    /// Begins to make a profile, for `what`.
    pub fn begin(&self, what: &str) -> anyhow::Result<Unfinished<'_>> {
        let shown = self.folder.display();
        let mut all = DirBuilder::new();
        all.recursive(true).mode(0o700);
        all.create(&self.folder).with_context(|| format!("make {shown}"))?;
        // Until the new folder is locked, it looks like one that a killed process left.
        let guard = File::open(&self.folder).with_context(|| format!("open {shown}"))?;
        flock(&guard, FlockOperation::LockExclusive).with_context(|| format!("lock {shown}"))?;
        self.remove_abandoned();
        let id = u128::from_ne_bytes(crate::vm::random_id()?);
        let folder = self.folder.join(format!("{HIDDEN}new-{id:032x}"));
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("make {}", folder.display()))?;
        let mut unfinished = Unfinished { profiles: self, folder, lock: None };
        match lock::lock(&unfinished.folder, what)? {
            Attempt::Locked(lock) => unfinished.lock = Some(lock),
            _ => bail!("lock {}", unfinished.folder.display()),
        }
        Ok(unfinished)
    }

    /// Makes a profile with an empty disk, and takes it.
    pub fn create(&self, name: &Name, size: u64, what: &str) -> anyhow::Result<Profile> {
        self.refuse_existing(name)?;
        let unfinished = self.begin(what)?;
        image::create(&unfinished.disk(), size)?;
        unfinished.mark_fresh()?;
        unfinished.finish(name, Description::new()?)
    }

    /// Removes a profile that is locked, with all that is in it.
    pub fn delete(&self, name: &Name, lock: Lock) -> anyhow::Result<()> {
        let id = u128::from_ne_bytes(crate::vm::random_id()?);
        let hidden = self.folder.join(format!("{HIDDEN}deleted-{id:032x}"));
        fs::rename(self.folder_of(name), &hidden).with_context(|| format!("delete the profile {name}"))?;
        fs::remove_dir_all(&hidden).with_context(|| format!("remove {}", hidden.display()))?;
        drop(lock);
        Ok(())
    }

    /// An error when the name is taken.
    pub fn refuse_existing(&self, name: &Name) -> anyhow::Result<()> {
        ensure!(!self.contains(name), "there is a profile {name} already");
        Ok(())
    }

    /// Removes what killed processes left. What can't be removed is tried again by the next one.
    fn remove_abandoned(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(HIDDEN.as_bytes()) {
                let path = entry.path();
                match lock::lock(&path, "clean-up") {
                    Ok(Attempt::Locked(_lock)) => drop(fs::remove_dir_all(&path)),
                    other => log::debug!("{} stays: {other:?}", path.display()),
                }
            }
        }
    }
}

impl Unfinished<'_> {
    /// Where its disk is to be.
    pub fn disk(&self) -> PathBuf {
        self.folder.join(DISK)
    }

    /// Says that no command has run on its disk.
    pub fn mark_fresh(&self) -> anyhow::Result<()> {
        let path = self.folder.join(FRESH);
        image::new_file(&path).map(drop).with_context(|| format!("make {}", path.display()))
    }

    /// Gives it its description and name: from here on it is a profile.
    pub fn finish(mut self, name: &Name, description: Description) -> anyhow::Result<Profile> {
        description.write(&self.folder)?;
        let folder = self.profiles.folder_of(name);
        match renameat_with(CWD, &self.folder, CWD, &folder, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => bail!("there is a profile {name} already"),
            Err(e) => return Err(e).with_context(|| format!("make {}", folder.display())),
        }
        sync_folder(&self.profiles.folder)?;
        let lock = self.lock.take().context("keep the profile's lock")?;
        Ok(Profile { name: name.clone(), description, folder, _lock: lock })
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.lock.is_some() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

impl Profile {
    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its disk image.
    pub fn disk(&self) -> PathBuf {
        self.folder.join(DISK)
    }

    /// Whether no command has run on it: its disk may have no file system.
    pub fn is_fresh(&self) -> bool {
        self.folder.join(FRESH).exists()
    }

    /// Notes that a command runs on it now, and returns what notes later that one has.
    pub fn use_now(&self) -> anyhow::Result<InUse> {
        let path = self.folder.join(USED);
        File::create(&path)
            .and_then(|file| file.set_modified(std::time::SystemTime::now()))
            .with_context(|| format!("write {}", path.display()))?;
        let folder = File::open(&self.folder).with_context(|| format!("open {}", self.folder.display()))?;
        Ok(InUse { folder })
    }

    /// Writes what was changed in the description.
    pub fn write_description(&self) -> anyhow::Result<()> {
        self.description.write(&self.folder)
    }

    /// Puts another image in the place of the disk.
    pub fn replace_disk(&self, copy: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let unfinished = self.folder.join("disk.img.unfinished");
        // Of a process that was killed.
        let _ = fs::remove_file(&unfinished);
        copy(&unfinished)?;
        fs::rename(&unfinished, self.disk()).with_context(|| format!("replace {}", self.disk().display()))?;
        sync_folder(&self.folder)
    }

    /// Gives it another name.
    pub fn rename(self, profiles: &Profiles, name: &Name) -> anyhow::Result<()> {
        let to = profiles.folder_of(name);
        match renameat_with(CWD, &self.folder, CWD, &to, RenameFlags::NOREPLACE) {
            Ok(()) => sync_folder(&profiles.folder),
            Err(Errno::EXIST) => bail!("there is a profile {name} already"),
            Err(e) => Err(e).with_context(|| format!("rename the profile {}", self.name)),
        }
    }
}

/// A profile that a command runs on.
#[derive(Debug)]
pub struct InUse {
    folder: File,
}

impl InUse {
    /// What a confined thread needs for [`command_has_run`](Self::command_has_run), beside `reach`.
    pub fn reach(&self, reach: Reach) -> Result<Reach, vmm::Error> {
        reach.and(&self.folder, Rights::RemoveFiles)
    }

    /// Notes that a command has run: nothing on the disk is ever made anew. Opens nothing, since the process is
    /// confined by then. If it fails, or never comes to be called, the guest still finds its complete file
    /// system and keeps it.
    pub fn command_has_run(&self) {
        match rustix::fs::unlinkat(&self.folder, FRESH, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => log::debug!("note that the profile was used: {e}"),
        }
    }
}

/// When a command last ran on the profile in a folder.
pub fn last_used(folder: &Path) -> Option<std::time::SystemTime> {
    folder.join(USED).metadata().and_then(|metadata| metadata.modified()).ok()
}

/// The disk of the profile in a folder.
pub fn disk_in(folder: &Path) -> PathBuf {
    folder.join(DISK)
}

/// Has the names in a folder on the disk.
fn sync_folder(folder: &Path) -> anyhow::Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("write {} to the disk", folder.display()))
}

#[cfg(test)]
mod tests;
