//! The folder of a running VM: `$XDG_RUNTIME_DIR/nofear/NAME`, for its user alone, with its sockets in it.
//!
//! A VM holds a lock (flock(2)) on its folder for as long as it lives, however it dies. A folder that nobody
//! holds, and that has nothing but such sockets, is a dead VM's, and the next run removes it. Making and removing happen under a lock on the folder
//! above, so that none is taken for dead between its making and its lock.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rustix::fs::{AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, flock, fstat, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::getuid;
use rustix::rand::{GetRandomFlags, getrandom};
use vmm::{Reach, Rights};

use crate::profile::name::Name;

#[cfg(test)]
mod tests;

/// The socket that other processes of the user reach: see [`crate::control`].
pub const CONTROL_SOCKET: &str = "control.sock";

/// The socket that the client for windows reaches.
pub const WINDOWS_SOCKET: &str = "xpra.sock";

/// Has a name only while it is made.
const PASSING_SOCKET: &str = "passing.sock";
/// The socket by which the client for windows reaches the sound server, while it may.
pub const SOUND_SOCKET: &str = "sound.sock";
/// All that is in a VM's folder.
const SOCKETS: [&str; 4] = [CONTROL_SOCKET, WINDOWS_SOCKET, PASSING_SOCKET, SOUND_SOCKET];

/// The folder of all VMs in the user's runtime directory.
const ALL: &str = "nofear";

/// The longest name of a VM, in bytes: there is little room in the address of a Unix socket.
const MOST_NAME: usize = 40;

/// A VM's name: that which its user gave it, or eight random hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmName(String);

impl VmName {
    /// Reads a name.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MOST_NAME {
            return Err(format!("a VM's name has at most {MOST_NAME} characters"));
        }
        Name::parse(text).map(|name| Self(name.as_str().into()))
    }

    fn random() -> anyhow::Result<Self> {
        let mut bytes = [0_u8; 4];
        getrandom(&mut bytes, GetRandomFlags::empty()).context("get random bytes")?;
        Ok(Self(format!("{:08x}", u32::from_ne_bytes(bytes))))
    }
}

/// The folder of this VM. Dropped, it is removed.
#[derive(Debug)]
pub struct RuntimeDir {
    id: String,
    path: PathBuf,
    /// The folder of all VMs.
    above: OwnedFd,
    /// The locked folder itself.
    folder: OwnedFd,
}

impl RuntimeDir {
    /// Makes a folder in the user's runtime directory, and removes those of dead VMs. Without a name the VM gets a
    /// random one.
    ///
    /// # Errors
    ///
    /// When there is no directory that belongs to the user alone, or another VM has that name.
    pub fn create(name: Option<&VmName>) -> anyhow::Result<Self> {
        let (base, path) = base()?;
        Self::create_in(&base, &path, name)
    }

    fn create_in(base: &OwnedFd, path: &Path, name: Option<&VmName>) -> anyhow::Result<Self> {
        let path = path.join(ALL);
        let above = own_folder(base, Path::new(ALL)).with_context(|| format!("make {}", path.display()))?;
        flock(&above, FlockOperation::LockExclusive).with_context(|| format!("lock {}", path.display()))?;
        remove_dead(&above);
        let made = loop {
            let VmName(id) = name.map_or_else(VmName::random, |name| Ok(name.clone()))?;
            match mkdirat(&above, &id, Mode::RWXU) {
                Ok(()) => break id,
                Err(Errno::EXIST) if name.is_none() => {}
                Err(Errno::EXIST) => {
                    bail!(
                        "a VM with the name {id} runs already; 'nofear ps' shows it, 'nofear stop {id}' ends it"
                    )
                }
                Err(e) => return Err(e).with_context(|| format!("make a folder in {}", path.display())),
            }
        };
        let path = path.join(&made);
        let folder =
            open_folder(&above, Path::new(&made)).with_context(|| format!("open {}", path.display()))?;
        flock(&folder, FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("lock {}", path.display()))?;
        let _ = flock(&above, FlockOperation::Unlock);
        Ok(Self { id: made, path, above, folder })
    }

    /// The VM's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where the client for windows connects to.
    pub fn windows_socket(&self) -> PathBuf {
        self.path.join(WINDOWS_SOCKET)
    }

    /// Where the client for windows reaches the sound server.
    pub fn sound_socket(&self) -> PathBuf {
        self.path.join(SOUND_SOCKET)
    }

    /// Makes the socket for the client for windows.
    pub fn listen_for_windows(&self) -> anyhow::Result<UnixListener> {
        listen(self.windows_socket())
    }

    /// Makes the socket for other processes.
    pub fn listen_for_control(&self) -> anyhow::Result<UnixListener> {
        listen(self.path.join(CONTROL_SOCKET))
    }

    /// A stream, and a socket that it comes out of for whoever accepts there. Nobody else can connect to it any more.
    pub fn connection(&self) -> anyhow::Result<(UnixStream, UnixListener)> {
        let path = self.path.join(PASSING_SOCKET);
        let listener = listen(path.clone())?;
        let stream = UnixStream::connect(&path);
        unlinkat(&self.folder, PASSING_SOCKET, AtFlags::empty())
            .with_context(|| format!("remove {}", path.display()))?;
        Ok((stream.with_context(|| format!("connect to {}", path.display()))?, listener))
    }
}

/// Makes a socket for the user alone, whatever becomes of its folder's mode.
fn listen(path: PathBuf) -> anyhow::Result<UnixListener> {
    let make = || {
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(listener)
    };
    make().with_context(|| format!("make {}", path.display()))
}

impl RuntimeDir {
    /// What a confined thread needs to remove it.
    pub fn reach(&self) -> Result<Reach, vmm::Error> {
        Reach::nothing()?.and(&self.folder, Rights::RemoveFiles)?.and(&self.above, Rights::RemoveFolders)
    }
}

impl Drop for RuntimeDir {
    /// Opens nothing: the process may be confined by now.
    fn drop(&mut self) {
        for socket in SOCKETS {
            let _ = unlinkat(&self.folder, socket, AtFlags::empty());
        }
        let _ = unlinkat(&self.above, &self.id, AtFlags::REMOVEDIR);
    }
}

/// The names and folders of the VMs that live.
pub fn living() -> anyhow::Result<Vec<(String, PathBuf)>> {
    let (base, path) = base()?;
    living_in(&base, &path)
}

fn living_in(base: &OwnedFd, path: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let path = path.join(ALL);
    let above = match open_folder(base, Path::new(ALL)) {
        Ok(above) => above,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("open {}", path.display())),
    };
    // Nobody makes one meanwhile, whose own lock would be refused while it is looked at here.
    flock(&above, FlockOperation::LockExclusive).with_context(|| format!("lock {}", path.display()))?;
    let entries = Dir::read_from(&above).with_context(|| format!("read {}", path.display()))?;
    let mut living = Vec::new();
    for entry in entries.flatten() {
        let Ok(id) = entry.file_name().to_str() else { continue };
        if !is_name(id) {
            continue;
        }
        let Ok(folder) = open_folder(&above, Path::new(id)) else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK) {
            living.push((id.to_owned(), path.join(id)));
        }
    }
    Ok(living)
}

fn is_name(name: &str) -> bool {
    VmName::parse(name).is_ok()
}

/// The user's runtime directory, and its path: the session's, or the one it would be, or one in `/tmp`.
fn base() -> anyhow::Result<(OwnedFd, PathBuf)> {
    let uid = getuid().as_raw();
    let of_session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    for path in of_session.into_iter().chain([PathBuf::from(format!("/run/user/{uid}"))]) {
        let opened = openat(CWD, &path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty());
        match opened.map_err(Into::into).and_then(|folder| check_owner(&folder).map(|()| folder)) {
            Ok(folder) => return Ok((folder, path)),
            Err(e) => log::debug!("{} is not used: {e:#}", path.display()),
        }
    }
    base_in(Path::new("/tmp"))
}

/// A runtime directory in one that everybody can write.
fn base_in(shared: &Path) -> anyhow::Result<(OwnedFd, PathBuf)> {
    let name = format!("nofear-{}", getuid().as_raw());
    let path = shared.join(&name);
    let folder = (|| {
        let shared = openat(CWD, shared, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH, Mode::empty())?;
        own_folder(&shared, Path::new(&name))
    })();
    let folder = folder.with_context(|| {
        format!("use {} (XDG_RUNTIME_DIR, which is preferred, is no use)", path.display())
    })?;
    Ok((folder, path))
}

/// Opens a folder of this user alone; it is made if it isn't there.
fn own_folder(above: &OwnedFd, name: &Path) -> anyhow::Result<OwnedFd> {
    match mkdirat(above, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let folder = open_folder(above, name)?;
    check_owner(&folder)?;
    Ok(folder)
}

/// Opens a folder, and never what a symbolic link leads to.
fn open_folder(above: &OwnedFd, name: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    openat(above, name, flags, Mode::empty())
}

/// Whoever else could write there could take the agent's place.
fn check_owner(folder: &OwnedFd) -> anyhow::Result<()> {
    let stat = fstat(folder)?;
    ensure!(stat.st_uid == getuid().as_raw(), "it belongs to user {}", stat.st_uid);
    let mode = stat.st_mode & 0o777;
    if mode & 0o077 != 0 {
        bail!("others may use it (its mode is {mode:o}, and not 700)");
    }
    Ok(())
}

/// Removes the folders that no living VM holds.
fn remove_dead(above: &OwnedFd) {
    let Ok(entries) = Dir::read_from(above) else { return };
    for entry in entries.flatten() {
        let Ok(id) = entry.file_name().to_str() else { continue };
        if !is_name(id) {
            continue;
        }
        let Ok(folder) = open_folder(above, Path::new(id)) else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            log::debug!("removes the folder of the VM {id}, which was killed");
            remove(above, id, &folder);
        }
    }
}

/// Removes a dead VM's folder with its sockets. What has anything else in it is no VM's, and stays; what can't be
/// removed is tried again by the next run.
fn remove(above: &OwnedFd, id: &str, folder: &OwnedFd) {
    for socket in SOCKETS {
        let _ = unlinkat(folder, socket, AtFlags::empty());
    }
    let _ = unlinkat(above, id, AtFlags::REMOVEDIR);
}
