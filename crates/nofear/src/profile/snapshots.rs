//! Snapshots of a profile's disk: `snapshots/LABEL.img` in its folder.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};

use super::image;
use super::name::Name;
use super::store::Profile;

const SUFFIX: &str = ".img";

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub label: Name,
    /// When it was taken.
    pub taken: SystemTime,
    /// What it takes on the host's disk, in bytes. What it shares with the profile's disk by reference counts
    /// as well.
    pub on_disk: u64,
}

impl Profile {
    fn snapshot_folder(&self) -> PathBuf {
        self.folder().join("snapshots")
    }

    fn snapshot_path(&self, label: &Name) -> PathBuf {
        self.snapshot_folder().join(format!("{label}{SUFFIX}"))
    }

    /// All snapshots, the oldest first.
    pub fn snapshots(&self) -> anyhow::Result<Vec<Snapshot>> {
        let folder = self.snapshot_folder();
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("read {}", folder.display()))?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry.with_context(|| format!("read {}", folder.display()))?;
            let name = entry.file_name();
            let label = name.to_str().and_then(|name| Name::parse(name.strip_suffix(SUFFIX)?).ok());
            if let Some(label) = label {
                let path = entry.path();
                let taken = path.metadata().and_then(|metadata| metadata.modified());
                let taken = taken.with_context(|| format!("look at {}", path.display()))?;
                let on_disk = image::on_disk(&path).with_context(|| format!("look at {}", path.display()))?;
                all.push(Snapshot { label, taken, on_disk });
            }
        }
        all.sort_by(|one, other| (one.taken, &one.label).cmp(&(other.taken, &other.label)));
        Ok(all)
    }

    /// Keeps the disk as it is now.
    pub fn take_snapshot(&self, label: &Name) -> anyhow::Result<()> {
        ensure!(
            !self.is_fresh(),
            "nothing has run in the profile {} yet: there is nothing to keep",
            self.name
        );
        let folder = self.snapshot_folder();
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let path = self.snapshot_path(label);
        ensure!(!path.exists(), "the profile {} has a snapshot {label} already", self.name);
        let unfinished = folder.join(".unfinished");
        // Of a process that was killed.
        let _ = fs::remove_file(&unfinished);
        image::copy(&self.disk(), &unfinished)?;
        fs::rename(&unfinished, &path).with_context(|| format!("make {}", path.display()))
    }

    /// Puts the disk back to what it was. The snapshot stays.
    pub fn roll_back(&self, label: &Name) -> anyhow::Result<()> {
        let path = self.snapshot_path(label);
        self.find_snapshot(label)?;
        self.replace_disk(|to| image::copy(&path, to))
    }

    /// Removes a snapshot.
    pub fn delete_snapshot(&self, label: &Name) -> anyhow::Result<()> {
        self.find_snapshot(label)?;
        let path = self.snapshot_path(label);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    fn find_snapshot(&self, label: &Name) -> anyhow::Result<()> {
        if self.snapshot_path(label).is_file() {
            return Ok(());
        }
        let all: Vec<_> = self.snapshots()?.into_iter().map(|one| one.label.to_string()).collect();
        match all.is_empty() {
            true => bail!("the profile {} has no snapshots", self.name),
            false => bail!("the profile {} has no snapshot {label}, but {}", self.name, all.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::store::Profiles;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn a_rollback_brings_the_bytes_back_and_keeps_the_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        let profiles = Profiles::at(folder.path());
        let profile = profiles.create(&name("a"), 64 << 20, "test").unwrap();
        assert!(profile.take_snapshot(&name("one")).is_err(), "a fresh disk may have no file system");
        profile.use_now().unwrap().command_has_run();

        fs::write(profile.disk(), "first").unwrap();
        profile.take_snapshot(&name("one")).unwrap();
        fs::write(profile.disk(), "second").unwrap();
        profile.take_snapshot(&name("two")).unwrap();
        assert!(profile.take_snapshot(&name("two")).unwrap_err().to_string().contains("already"));
        let labels: Vec<_> = profile.snapshots().unwrap().into_iter().map(|one| one.label).collect();
        assert_eq!(labels, [name("one"), name("two")]);
        for _ in 0..2 {
            profile.roll_back(&name("one")).unwrap();
            assert_eq!(fs::read(profile.disk()).unwrap(), b"first");
            fs::write(profile.disk(), "changed").unwrap();
        }
        profile.delete_snapshot(&name("one")).unwrap();
        let refusal = profile.roll_back(&name("one")).unwrap_err().to_string();
        assert!(refusal.contains("two"), "{refusal}");
        assert_eq!(fs::read(profile.disk()).unwrap(), b"changed");
    }
}
