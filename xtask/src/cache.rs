//! Things that take long to make and are kept: named by a hash of what they are made of, published whole.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use etcetera::BaseStrategy;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

/// `$XDG_CACHE_HOME/nofear/KIND`, made if it was not there.
pub fn folder(kind: &str) -> Result<PathBuf> {
    let base = etcetera::choose_base_strategy().context("find the cache folder: no home directory")?;
    let folder = base.cache_dir().join("nofear").join(kind);
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

/// Builds one name out of all that a result depends on.
pub struct Key(Sha256);

impl Key {
    /// A key for one kind of thing; change `recipe` when the way of making it changes.
    pub fn new(recipe: &str) -> Self {
        Self(Sha256::new()).with(recipe.as_bytes())
    }

    /// Adds one dependency. Its length goes in too, so that two lists can't run into the same bytes.
    pub fn with(mut self, part: &[u8]) -> Self {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    /// Adds a file's content.
    pub fn with_file(self, path: &Path) -> Result<Self> {
        let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Ok(self.with(&content))
    }

    /// The name: 16 hexadecimal digits.
    pub fn name(self) -> String {
        self.0.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The hash of a file of any size.
pub fn hash_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            Ok(read) => hash.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
}

/// Held while one process makes something; gone with it, however it ends.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for its turn, and says so if it has to.
    pub fn take(path: &Path, what: &str) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("open the lock {}", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!("xtask: another process is making {what}; waiting for it");
            loop {
                match flock(&file, FlockOperation::LockExclusive) {
                    Ok(()) => break,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error).with_context(|| format!("lock {}", path.display())),
                }
            }
        }
        Ok(Self { _file: file })
    }
}
