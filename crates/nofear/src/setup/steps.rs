//! What a set-up consists of: looked at, done, and undone.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, ensure};
use rustix::fs::{XattrFlags, getxattr, setxattr};

use super::sweep;
use crate::helper::{self, PROGRAM, USERS, ruleset};

/// Where a file's capabilities are (capabilities(7)).
const ATTRIBUTE: &str = "security.capability";

/// `vfs_cap_data`, version 2: effective; CAP_NET_ADMIN, number 12, permitted; nothing inheritable.
const NET_ADMIN: [u8; 20] = [1, 0, 0, 2, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// One thing that is to be done.
pub enum Step {
    /// Install the helper.
    Install,
    /// Write the list of users.
    Allow {
        /// All of them.
        users: Vec<u32>,
        /// The one that is new.
        uid: u32,
    },
    /// Take a user from it.
    Disallow {
        /// Those that stay.
        users: Vec<u32>,
        /// The one that goes.
        uid: u32,
    },
    /// Remove the table, and set sysctls back.
    Sweep,
    /// Remove everything.
    Remove,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Install => write!(
                f,
                "install {PROGRAM}, a copy of this program that has the right to set networks up (CAP_NET_ADMIN) \
                 and does nothing but make taps for virtual machines"
            ),
            Self::Allow { uid, .. } => write!(f, "let user {uid} use it, in {USERS}"),
            Self::Disallow { uid, .. } => write!(f, "don't let user {uid} use it any more, in {USERS}"),
            Self::Sweep => write!(
                f,
                "remove what virtual machines have left: the nftables table {}, and the forwarding that it was for",
                ruleset::TABLE
            ),
            Self::Remove => write!(f, "remove {PROGRAM} and {USERS}"),
        }
    }
}

impl Step {
    /// Does it.
    pub fn perform(&self) -> anyhow::Result<()> {
        match self {
            Self::Install => install().with_context(|| format!("install {PROGRAM}")),
            Self::Allow { users, .. } | Self::Disallow { users, .. } => {
                list(users).with_context(|| format!("write {USERS}"))
            }
            Self::Sweep => sweep(),
            Self::Remove => {
                for path in [PROGRAM, USERS] {
                    remove(Path::new(path)).with_context(|| format!("remove {path}"))?;
                }
                // Empty, or not ours alone.
                let _ = Path::new(USERS).parent().map(fs::remove_dir);
                Ok(())
            }
        }
    }
}

/// What is missing for this user.
pub fn to_do(uid: u32) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    if state_of_program()? != Program::Fine {
        steps.push(Step::Install);
    }
    let mut users = listed()?;
    if !users.contains(&uid) {
        users.push(uid);
        steps.push(Step::Allow { users, uid });
    }
    Ok(steps)
}

/// What is there of it.
pub fn to_undo(uid: u32) -> anyhow::Result<Vec<Step>> {
    let mut users = listed()?;
    let was = users.len();
    users.retain(|one| *one != uid);
    if !users.is_empty() {
        return Ok(if users.len() < was { vec![Step::Disallow { users, uid }] } else { Vec::new() });
    }
    let mut steps = Vec::new();
    if let (Some(_), Ok(state)) = (ruleset::nft(), ruleset::State::read())
        && state.exists
    {
        let lives = state.vms.iter().find(|vm| helper::is_there(vm));
        ensure!(lives.is_none(), "a virtual machine has the tap {}: end it first", lives.map_or("", |it| it));
        if Path::new(USERS).exists() {
            steps.push(Step::Sweep);
        }
    }
    if [PROGRAM, USERS].iter().any(|path| Path::new(path).exists()) {
        steps.push(Step::Remove);
    }
    Ok(steps)
}

/// Something that was looked at.
pub struct Finding {
    /// It is as it should be.
    pub fine: bool,
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8} {}", if self.fine { "ok" } else { "missing" }, self.text)
    }
}

/// Everything that a tap needs.
pub fn look(uid: u32) -> anyhow::Result<Vec<Finding>> {
    let finding = |fine, text: String| Finding { fine, text };
    let program = match state_of_program()? {
        Program::Fine => finding(true, format!("{PROGRAM}: has CAP_NET_ADMIN")),
        Program::Missing => finding(false, format!("{PROGRAM}: not installed")),
        Program::Old => finding(false, format!("{PROGRAM}: of another version of nofear")),
        Program::WithoutRight => finding(false, format!("{PROGRAM}: without CAP_NET_ADMIN")),
    };
    let users = finding(listed()?.contains(&uid), format!("{USERS}: lists user {uid}"));
    let nft = match ruleset::nft() {
        Some(path) => finding(true, format!("{path}: writes firewall rules")),
        None => finding(false, "nft: install nftables".into()),
    };
    let tun = fs::metadata("/dev/net/tun");
    let tun = match tun {
        Ok(about) if about.mode() & 0o006 == 0o006 => finding(true, "/dev/net/tun: makes taps".into()),
        Ok(_) => {
            finding(false, "/dev/net/tun: for root alone ('chmod 666 /dev/net/tun', as udev does)".into())
        }
        Err(_) => finding(false, "/dev/net/tun: not there ('modprobe tun')".into()),
    };
    Ok(vec![program, users, nft, tun])
}

#[derive(PartialEq, Eq)]
enum Program {
    Fine,
    Missing,
    Old,
    WithoutRight,
}

fn state_of_program() -> anyhow::Result<Program> {
    let installed = match fs::read(PROGRAM) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Program::Missing),
        Err(e) => return Err(e).with_context(|| format!("read {PROGRAM}")),
    };
    let mut rights = [0; NET_ADMIN.len() + 4];
    let length = getxattr(PROGRAM, ATTRIBUTE, &mut rights[..]).unwrap_or(0);
    let about = fs::metadata(PROGRAM).with_context(|| format!("look at {PROGRAM}"))?;
    let safe = about.uid() == 0 && about.mode() & 0o7777 == 0o755;
    Ok(if installed != own()? {
        Program::Old
    } else if rights[..length] != NET_ADMIN || !safe {
        Program::WithoutRight
    } else {
        Program::Fine
    })
}

/// This program's file.
fn own() -> anyhow::Result<Vec<u8>> {
    fs::read("/proc/self/exe").context("read this program's own file")
}

fn listed() -> anyhow::Result<Vec<u32>> {
    match helper::users() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.with_context(|| format!("read {USERS}")),
    }
}

fn install() -> anyhow::Result<()> {
    let bytes = own()?;
    replace(Path::new(PROGRAM), 0o755, &bytes, |path| {
        Ok(setxattr(path, ATTRIBUTE, &NET_ADMIN, XattrFlags::empty())?)
    })
    .context("write it, with its capability")
}

fn list(users: &[u32]) -> anyhow::Result<()> {
    let text: String = users.iter().map(|user| format!("{user}\n")).collect();
    replace(Path::new(USERS), 0o644, text.as_bytes(), |_| Ok(()))?;
    Ok(())
}

/// Writes a file that is whole or as it was. Root's umask may be anything; folders that are made are for all to see.
fn replace(path: &Path, mode: u32, bytes: &[u8], finish: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    if let Some(folder) = path.parent()
        && !folder.exists()
    {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    }
    let temporary = path.with_extension("new");
    remove(&temporary)?;
    let mut file = File::create_new(&temporary)?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    finish(&temporary)?;
    file.sync_all()?;
    // A program that is still open for writing can't be started.
    drop(file);
    fs::rename(&temporary, path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
