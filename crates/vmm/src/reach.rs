//! Which of the host's files a thread may still open: the kernel's Landlock.
//!
//! A filter of system calls sees neither paths nor what `openat2` has in memory. Landlock knows which file it is in
//! the end, however it was named: by a path, below a descriptor, or up from one.

use std::{os::fd::AsFd, sync::Arc};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, Scope, make_bitflags,
};

use crate::Error;

/// What is handled. Not more than was tried: a right that a later kernel adds is not taken away unseen.
const KNOWN: ABI = ABI::V6;

/// From here on Landlock holds for truncation too (Linux 6.2).
const WHOLE: u32 = 3;

/// Names can be moved from one folder to another within what may be changed (Linux 5.19).
const MOVES: u32 = 2;

/// What a thread may open, make and remove in the host's file system from the time when it is confined
/// ([`crate::confine_thread_to`]). Descriptors that are open stay as they are.
///
/// Beside files: TCP ports are neither bound nor connected to (Linux 6.7), nor sockets of abstract names (6.12).
#[derive(Clone, Debug)]
pub struct Reach {
    /// None: the kernel has no Landlock, or none that would do.
    rules: Option<Arc<RulesetCreated>>,
}

/// What may be done in a folder and all below it, or with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rights {
    /// Files are read, folders listed.
    Read,
    /// The same, and files written, made, renamed and removed; no devices and no sockets.
    Change,
    /// Names of files are removed.
    RemoveFiles,
    /// Empty folders are removed.
    RemoveFolders,
}

impl Rights {
    fn bits(self) -> BitFlags<AccessFs> {
        let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
        match self {
            Self::Read => read,
            Self::RemoveFiles => AccessFs::RemoveFile.into(),
            Self::RemoveFolders => AccessFs::RemoveDir.into(),
            Self::Change => {
                read | make_bitflags!(AccessFs::{
                    RemoveFile | RemoveDir | WriteFile | Truncate | MakeReg | MakeDir | MakeSym | MakeFifo | Refer
                })
            }
        }
    }
}

impl Reach {
    /// No file at all.
    ///
    /// # Errors
    ///
    /// A kernel that has Landlock and refuses it, or has no more descriptors.
    pub fn nothing() -> Result<Self, Error> {
        if landlock_abi() == 0 {
            return Ok(Self { rules: None });
        }
        let rules = Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))
            .and_then(|rules| rules.handle_access(AccessNet::from_all(KNOWN)))
            .and_then(|rules| rules.scope(Scope::AbstractUnixSocket))
            .and_then(Ruleset::create)
            .map_err(failed)?;
        Ok(Self { rules: Some(Arc::new(rules)) })
    }

    /// This, and what is below an open folder, or a file; opened with `O_PATH` is enough. So do all of its clones.
    ///
    /// # Errors
    ///
    /// As [`nothing`](Self::nothing).
    pub fn and(mut self, below: impl AsFd, rights: Rights) -> Result<Self, Error> {
        if rights == Rights::Change && landlock_abi() < MOVES {
            // There any rule at all forbids to move a name from one folder to another.
            self.rules = None;
        }
        if let Some(rules) = self.rules {
            let rules =
                descriptor(&rules)?.add_rule(PathBeneath::new(below, rights.bits())).map_err(failed)?;
            self.rules = Some(Arc::new(rules));
        }
        Ok(self)
    }

    /// Holds the calling thread to it, for good, with all that it starts.
    pub(crate) fn enter(self) -> Result<(), Error> {
        if let Some(rules) = self.rules {
            descriptor(&rules)?.restrict_self().map_err(failed)?;
        }
        Ok(())
    }
}

/// The library's calls take what they are called on.
fn descriptor(rules: &RulesetCreated) -> Result<RulesetCreated, Error> {
    rules.try_clone().map_err(Error::system("duplicate a descriptor"))
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Landlock(Box::new(error))
}

/// The version of this kernel's Landlock; 0: it has none, or it is switched off.
#[must_use]
pub fn landlock_abi() -> u32 {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag and no structure, only a number is returned.
    let abi = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, VERSION)
    };
    u32::try_from(abi).unwrap_or(0)
}

/// Refuses a kernel whose Landlock does not hold for everything that matters.
pub(crate) fn require() -> Result<(), Error> {
    match landlock_abi() {
        abi if abi >= WHOLE => Ok(()),
        abi => Err(Error::Unconfined(format!(
            "this kernel's Landlock is of version {abi}, and {WHOLE} is needed (Linux 6.2, with `landlock` in \
             /sys/kernel/security/lsm)"
        ))),
    }
}
