//! Profiles: a home, and all that a VM changed, from one run to the next.
//!
//! A profile is a folder with a disk image that only its VMs understand. Nothing here reads the file system in the
//! image: what is in it was written by a guest. [`store`] has the folders, [`commands`] what a user does with
//! them, [`maintenance`] what needs a VM.

pub mod archive;
pub mod cli;
pub mod commands;
pub mod description;
pub mod image;
pub mod lock;
pub mod maintenance;
pub mod name;
pub mod snapshots;
pub mod store;

use std::io::Write;
use std::path::Path;

use anyhow::ensure;
use vmm::{Disk, DiskImage};

use name::Name;
use store::{Profile, Profiles};

/// The serial number of a profile's disk.
const DISK_ID: &str = "nofear-profile";

/// Where distributions have mkfs.ext4, as the guest looks for it.
const MKFS: [&str; 4] = ["/usr/sbin/mkfs.ext4", "/usr/bin/mkfs.ext4", "/sbin/mkfs.ext4", "/bin/mkfs.ext4"];

/// The profile for a run, for `what`: made if it is not there.
pub fn for_run(name: &Name, size: Option<u64>, what: &str) -> anyhow::Result<Profile> {
    let profiles = Profiles::of_user()?;
    let is_there = profiles.contains(name);
    if !is_there {
        require_mkfs(Path::new("/"))?;
    }
    let profile = match is_there {
        true => profiles.open(name, what)?,
        false => {
            let profile = profiles.create(name, size.unwrap_or(image::DEFAULT_SIZE), what)?;
            // Nobody may be there to read it.
            let _ = writeln!(
                std::io::stderr(),
                "nofear: made the profile {name}: what programs change in it is kept (--temporary keeps nothing)"
            );
            profile
        }
    };
    if is_there && size.is_some() {
        log::warn!("the profile {name} is there already, and keeps its size; see 'nofear profile set'");
    }
    if profile.is_fresh() {
        require_mkfs(Path::new("/"))?;
    }
    Ok(profile)
}

/// The guest makes the file system with this machine's program.
fn require_mkfs(root: &Path) -> anyhow::Result<()> {
    let is_there = MKFS.iter().any(|path| root.join(path.trim_start_matches('/')).exists());
    ensure!(
        is_there,
        "a profile's disk is made with mkfs.ext4, which this machine lacks: install the package e2fsprogs, or \
         keep nothing with --temporary"
    );
    Ok(())
}

/// A profile's disk, for a VM.
pub fn disk(profile: &Profile) -> Disk {
    Disk { image: DiskImage::Path(profile.disk()), read_only: false, id: DISK_ID.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_mkfs_is_told_which_package_it_needs() {
        let root = tempfile::tempdir().unwrap();
        let refusal = require_mkfs(root.path()).unwrap_err().to_string();
        assert!(refusal.contains("e2fsprogs") && refusal.contains("--temporary"), "{refusal}");
        std::fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        std::fs::write(root.path().join("usr/bin/mkfs.ext4"), "").unwrap();
        require_mkfs(root.path()).unwrap();
    }
}
