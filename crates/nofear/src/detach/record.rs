//! What is kept of detached VMs: `$XDG_STATE_HOME/nofear/vms/NAME`, a folder each, with `vm.json`, what it is and how it
//! ended, and the last of what it said: `output`, and before that `output.older`.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use etcetera::BaseStrategy;
use etcetera::base_strategy::Xdg;
use rustix::fs::{CWD, Mode, OFlags, fstat, openat, renameat};
use serde::{Deserialize, Serialize};

use vmm::{Reach, Rights};

use crate::control::protocol::{LifeState, Status};
use crate::runtime_dir::VmName;
use crate::text::printable;

/// What it is.
const DESCRIPTION: &str = "vm.json";

/// The last of what it said, and what came before.
const OUTPUT: &str = "output";
const OLDER: &str = "output.older";

/// The most bytes of each of the two.
const MOST_OUTPUT: u64 = 4 << 20;

/// How many VMs that have ended are remembered.
const MOST_ENDED: usize = 32;

/// What a detached VM is, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// What it is.
    #[serde(flatten)]
    pub status: Status,
    /// How it ended; none: it runs, or its keeper was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

/// How a detached VM ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// When, in seconds since 1970.
    pub time: u64,
    /// The exit status of its process, which is the command's.
    pub status: u8,
}

/// A record that is being written.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    /// Everything happens in this very folder: another VM of the same name may have put its own in the place.
    folder: OwnedFd,
    description: Description,
    output: File,
    written: u64,
}

impl Record {
    /// Begins one, in the place of an older one of the same name.
    pub fn create(status: Status) -> anyhow::Result<Self> {
        Self::create_in(&folder()?, status)
    }

    fn create_in(all: &Path, status: Status) -> anyhow::Result<Self> {
        // It becomes a path, and comes from the VM's process.
        VmName::parse(&status.vm).map_err(|e| anyhow::anyhow!("'{}': {e}", printable(&status.vm, 80)))?;
        let path = all.join(&status.vm);
        let make = |recursive, path: &Path| DirBuilder::new().recursive(recursive).mode(0o700).create(path);
        make(true, all).with_context(|| format!("make {}", all.display()))?;
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
        forget_oldest(all);
        make(false, &path).with_context(|| format!("make {}", path.display()))?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let folder = openat(CWD, &path, flags, Mode::empty());
        let folder = folder.with_context(|| format!("open {}", path.display()))?;
        let output =
            make_file(&folder, OUTPUT).with_context(|| format!("make a file in {}", path.display()))?;
        let description = Description { status, end: None };
        let record = Self { path, folder, description, output, written: 0 };
        record.describe()?;
        Ok(record)
    }

    /// What whoever writes it reaches: this folder, and that it is removed from where it is.
    pub fn reach(&self) -> anyhow::Result<Reach> {
        let all = self.path.parent().unwrap_or(Path::new("/"));
        let all = File::open(all).with_context(|| format!("open {}", all.display()))?;
        Ok(Reach::nothing()?.and(&self.folder, Rights::Change)?.and(all, Rights::RemoveFolders)?)
    }

    /// The VM's.
    pub fn name(&self) -> &str {
        &self.description.status.vm
    }

    /// Keeps what was said. A disk that is full is no reason to end a VM.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.written >= MOST_OUTPUT {
            match renameat(&self.folder, OUTPUT, &self.folder, OLDER)
                .and_then(|()| make_file(&self.folder, OUTPUT))
            {
                Ok(file) => (self.output, self.written) = (file, 0),
                // It has been removed.
                Err(_) => return,
            }
        }
        if self.output.write_all(bytes).is_ok() {
            self.written = self.written.saturating_add(bytes.len() as u64);
        }
    }

    /// Says how the VM ended.
    pub fn finish(mut self, status: u8) -> anyhow::Result<()> {
        let (time, _) = crate::vm::now();
        self.description.end = Some(End { time, status });
        self.describe()
    }

    /// Forgets it.
    pub fn remove(self) -> anyhow::Result<()> {
        fs::remove_dir_all(&self.path).with_context(|| format!("remove {}", self.path.display()))
    }

    fn describe(&self) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(&self.description).context("write JSON")?;
        const NEXT: &str = "vm.json.next";
        let write = || -> io::Result<()> {
            make_file(&self.folder, NEXT)?.write_all(&text)?;
            Ok(renameat(&self.folder, NEXT, &self.folder, DESCRIPTION)?)
        };
        write().with_context(|| format!("write {}", self.path.join(DESCRIPTION).display()))
    }
}

fn make_file(folder: &OwnedFd, name: &str) -> rustix::io::Result<File> {
    let flags =
        OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

/// The folder of all.
fn folder() -> anyhow::Result<PathBuf> {
    let xdg = Xdg::new().context("find the home folder")?;
    let state = xdg.state_dir().context("find the folder for states")?;
    Ok(state.join("nofear/vms"))
}

/// A record that is there.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What it says.
    pub description: Description,
    folder: PathBuf,
}

/// All, the first ended first.
pub fn all() -> anyhow::Result<Vec<Kept>> {
    Ok(all_in(&folder()?))
}

/// That of the VM of this name.
pub fn find(name: &str) -> anyhow::Result<Option<Kept>> {
    Ok(all()?.into_iter().find(|kept| kept.description.status.vm == name))
}

fn all_in(folder: &Path) -> Vec<Kept> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<Kept> = entries.filter_map(|entry| Kept::read(entry.path())).collect();
    all.sort_by_key(|kept| kept.description.end.map(|end| end.time));
    all
}

/// Makes room for one more.
fn forget_oldest(all: &Path) {
    let ended: Vec<Kept> = all_in(all).into_iter().filter(|kept| kept.description.end.is_some()).collect();
    for kept in ended.iter().take((ended.len() + 1).saturating_sub(MOST_ENDED)) {
        // Another one that starts may do the same.
        let _ = fs::remove_dir_all(&kept.folder);
    }
}

impl Kept {
    fn read(folder: PathBuf) -> Option<Self> {
        let text = fs::read(folder.join(DESCRIPTION)).ok()?;
        let mut description: Description = serde_json::from_slice(&text).ok()?;
        description.status.state = LifeState::Ended;
        // A folder that somebody has renamed is another's by its name, and nobody's by what is in it.
        (folder.file_name()?.to_str()? == description.status.vm).then_some(Self { description, folder })
    }

    /// As it is now.
    pub fn again(&self) -> Option<Self> {
        Self::read(self.folder.clone())
    }

    /// Reads what it has said from here on, time after time.
    pub fn output(&self) -> Output {
        Output { folder: self.folder.clone(), at: None }
    }
}

/// Reads what a VM says.
pub struct Output {
    folder: PathBuf,
    /// The file that was read last, by its number, and where.
    at: Option<(u64, u64)>,
}

impl Output {
    /// What was said since the last time.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut said = Vec::new();
        for name in [OLDER, OUTPUT] {
            let mut file = match File::open(self.folder.join(name)) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let number = fstat(&file)?.st_ino;
            match self.at {
                Some((last, from)) if last == number => _ = file.seek(SeekFrom::Start(from))?,
                // It has been read.
                Some((last, _)) if name == OLDER && is_number(&self.folder.join(OUTPUT), last) => continue,
                _ => {}
            }
            file.read_to_end(&mut said)?;
            self.at = Some((number, file.stream_position()?));
        }
        Ok(said)
    }
}

fn is_number(path: &Path, number: u64) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.ino() == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str) -> Status {
        Status {
            vm: name.into(),
            profile: None,
            command: Vec::new(),
            state: LifeState::Starting,
            started: 1,
            memory: 2,
            cpus: 3,
            windows: false,
            display: None,
        }
    }

    #[test]
    fn what_was_said_last_is_kept_and_how_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let all = folder.path().join("vms");
        let mut record = Record::create_in(&all, status("web")).unwrap();
        let kept = all_in(&all).pop().unwrap();
        assert_eq!((kept.description.end, kept.description.status.state), (None, LifeState::Ended));
        let mut output = kept.output();
        record.append(b"first ");
        assert_eq!(output.read().unwrap(), b"first ");
        let chunk = vec![b'x'; 1 << 20];
        let mut read = 0;
        for _ in 0..11 {
            record.append(&chunk);
            read += output.read().unwrap().len();
        }
        record.append(b"last");
        assert_eq!((output.read().unwrap(), read), (b"last".to_vec(), 11 << 20));
        let said = kept.output().read().unwrap();
        assert!(said.ends_with(b"xlast") && said.len() <= 10 << 20, "{}", said.len());
        record.finish(7).unwrap();
        assert_eq!(kept.again().unwrap().description.end.unwrap().status, 7);
        assert_eq!(fs::metadata(&all).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_is_no_name_becomes_no_path() {
        let folder = tempfile::tempdir().unwrap();
        let (all, beside) = (folder.path().join("vms"), folder.path().join("beside"));
        fs::create_dir(&beside).unwrap();
        for name in ["", ".", "..", "../beside", "/tmp", "a/b"] {
            assert!(Record::create_in(&all, status(name)).is_err(), "{name}");
        }
        assert!(Record::create_in(&all, status(beside.to_str().unwrap())).is_err());
        assert!(beside.exists() && !all.exists());
    }

    #[test]
    fn another_of_the_same_name_takes_the_place_and_the_oldest_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let first = Record::create_in(folder.path(), status("web")).unwrap();
        let mut second = Record::create_in(folder.path(), status("web")).unwrap();
        second.append(b"second");
        assert!(first.finish(1).is_err());
        let kept = all_in(folder.path()).pop().unwrap();
        assert_eq!((kept.output().read().unwrap(), kept.description.end), (b"second".to_vec(), None));
        for number in 0..40 {
            Record::create_in(folder.path(), status(&format!("{number}"))).unwrap().finish(0).unwrap();
        }
        // The one that runs is not forgotten.
        assert_eq!(all_in(folder.path()).len(), MOST_ENDED + 1);
    }
}
