//! What a client may see: a tree of *grants*, each a path in the guest and a directory, file or symbolic
//! link behind it.
//!
//! The export *is* the client's namespace. Directories on the way to a grant exist only in the server; what
//! is neither granted nor on the way to a grant does not exist, for any operation.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::host;
use crate::identity::{Identity, Origin};
use crate::wire::{Name, OwnedName, PATH_MAX, Time};

#[cfg(test)]
mod tests;

/// Collects grants, then opens them.
///
/// Grants may stand at any depth and inside one another, in any order: the deeper one hides the host's entry
/// of its name, and is listed with the entries around it. This part is pure; [`Self::open`] touches the host.
#[derive(Clone, Debug)]
pub struct ExportBuilder {
    /// A parent stands before its children; the first is the root.
    nodes: Vec<Planned>,
}

/// Why an export cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The guest's path is not absolute, or holds `..`, `.`, NUL or a name of more than 255 bytes.
    #[error("grant {guest}: not an absolute path of ordinary names")]
    GuestPath {
        /// The path in the guest.
        guest: PathBuf,
    },
    /// Two grants have the same path in the guest.
    #[error("grant {guest}: it is granted already")]
    Duplicate {
        /// The path in the guest.
        guest: PathBuf,
    },
    /// One grant would be inside a file or a symbolic link.
    #[error("grant {guest}: {above} is not a directory")]
    NotDirectory {
        /// The path in the guest.
        guest: PathBuf,
        /// The path in the guest that is in the way.
        above: PathBuf,
    },
    /// A symbolic link's text is empty, has NUL in it, or is 4096 bytes or longer.
    #[error("grant {guest}: not the text of a symbolic link")]
    Target {
        /// The path in the guest.
        guest: PathBuf,
    },
    /// The host's file is missing or forbidden.
    #[error("open {host} for the grant {guest}")]
    Open {
        /// The path in the guest.
        guest: PathBuf,
        /// The path on the host.
        host: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The host's file is not a directory where one is granted, or not a regular file where one is.
    #[error("open {host} for the grant {guest}: not a {wanted}")]
    Kind {
        /// The path in the guest.
        guest: PathBuf,
        /// The path on the host.
        host: PathBuf,
        /// "directory" or "regular file".
        wanted: &'static str,
    },
    /// procfs, whose files are processes, would be writable.
    #[error("grant {guest}: {host} is of procfs, which can't be writable")]
    WritableProc {
        /// The path in the guest.
        guest: PathBuf,
        /// The path on the host.
        host: PathBuf,
    },
    /// `/proc/self`, which the server opens files through, is not there.
    #[error("open /proc/self")]
    Proc {
        /// What the host said.
        source: io::Error,
    },
}

/// What a client may do with a grant. A new one is [`READ_ONLY`](Self::READ_ONLY).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Whether the grant and what is in it may be changed.
    pub writable: bool,
    /// Whether its files have extended attributes, those of `user.*`.
    pub xattrs: bool,
    /// How much a client may add; `EDQUOT` beyond it.
    pub caps: Caps,
}

/// How much one client may add to a grant as long as its server lives. What it removes is given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Bytes, by the sizes of files; none: any number.
    pub bytes: Option<u64>,
    /// Names of files, directories and links; none: any number.
    pub files: Option<u64>,
}

impl Caps {
    /// Whatever the host lets the server's user add.
    pub const NONE: Self = Self { bytes: None, files: None };
}

impl Access {
    /// Nothing can be changed: every attempt is `EROFS`.
    pub const READ_ONLY: Self = Self { writable: false, xattrs: false, caps: Caps::NONE };

    /// All can be changed that the server's user may change.
    pub const READ_WRITE: Self = Self { writable: true, xattrs: true, caps: Caps::NONE };
}

#[derive(Clone, Debug)]
struct Planned {
    guest: PathBuf,
    parent: Option<usize>,
    children: BTreeMap<OwnedName, usize>,
    source: Source,
    access: Access,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// On the way to a grant.
    Way,
    Directory(PathBuf),
    File(PathBuf),
    Symlink(Vec<u8>),
}

impl Default for ExportBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ExportBuilder {
    /// An export of nothing: an empty root.
    #[must_use]
    pub fn new() -> Self {
        let root = Planned {
            guest: PathBuf::from("/"),
            parent: None,
            children: BTreeMap::new(),
            source: Source::Way,
            access: Access::READ_ONLY,
        };
        Self { nodes: vec![root] }
    }

    /// Grants the host's directory `host`, and all in it, at the path `guest`, which may be `/`, read-only.
    ///
    /// # Errors
    ///
    /// [`ExportError::GuestPath`], [`ExportError::Duplicate`], [`ExportError::NotDirectory`].
    pub fn directory(self, guest: impl AsRef<Path>, host: impl Into<PathBuf>) -> Result<Self, ExportError> {
        self.directory_with(guest, host, Access::READ_ONLY)
    }

    /// As [`Self::directory`], with other rights.
    ///
    /// # Errors
    ///
    /// Those of [`Self::directory`].
    pub fn directory_with(
        self,
        guest: impl AsRef<Path>,
        host: impl Into<PathBuf>,
        access: Access,
    ) -> Result<Self, ExportError> {
        self.grant(guest.as_ref(), Source::Directory(host.into()), access)
    }

    /// Grants the host's regular file `host` at the path `guest`, read-only.
    ///
    /// # Errors
    ///
    /// [`ExportError::GuestPath`], [`ExportError::Duplicate`], [`ExportError::NotDirectory`].
    pub fn file(self, guest: impl AsRef<Path>, host: impl Into<PathBuf>) -> Result<Self, ExportError> {
        self.file_with(guest, host, Access::READ_ONLY)
    }

    /// As [`Self::file`], with other rights.
    ///
    /// # Errors
    ///
    /// Those of [`Self::file`].
    pub fn file_with(
        self,
        guest: impl AsRef<Path>,
        host: impl Into<PathBuf>,
        access: Access,
    ) -> Result<Self, ExportError> {
        self.grant(guest.as_ref(), Source::File(host.into()), access)
    }

    /// Shows a symbolic link at the path `guest`. The client resolves it in its own tree; the server never
    /// follows it.
    ///
    /// # Errors
    ///
    /// [`ExportError::Target`], and those of [`Self::directory`].
    pub fn symlink(self, guest: impl AsRef<Path>, target: impl AsRef<OsStr>) -> Result<Self, ExportError> {
        let (guest, target) = (guest.as_ref(), target.as_ref().as_bytes());
        if target.is_empty() || target.contains(&0) || target.len() >= PATH_MAX {
            return Err(ExportError::Target { guest: guest.into() });
        }
        self.grant(guest, Source::Symlink(target.into()), Access::READ_ONLY)
    }

    /// Opens every grant (`O_PATH`), and `/proc/self/fd`. After it nothing is opened by a path of the host,
    /// so that the process may leave the host's root directory.
    ///
    /// A host path may lead through symbolic links: whoever grants it means what it leads to now. The export
    /// holds for the process that opened it; one forked from it must [take it over](Export::take_over).
    ///
    /// # Errors
    ///
    /// [`ExportError::Open`] and [`ExportError::Kind`] name the grant; [`ExportError::NotDirectory`] when a
    /// grant stands inside another one at a path where the host has a file or a symbolic link.
    pub fn open(self) -> Result<Export, ExportError> {
        let own_descriptors = host::open_descriptor_directory()
            .map_err(|source| ExportError::Proc { source: source.into() })?;
        let mut nodes: Vec<Granted> = Vec::with_capacity(self.nodes.len());
        for (index, planned) in self.nodes.iter().enumerate() {
            let parent = planned.parent.and_then(|parent| nodes.get(parent));
            let granted = planned.open(GrantId(index), parent)?;
            nodes.push(granted);
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let opened = Time { sec: now.tv_sec, nsec: u32::try_from(now.tv_nsec).unwrap_or(0) };
        let umask = host::umask().map_err(|source| ExportError::Proc { source: source.into() })?;
        Ok(Export { nodes, own_descriptors, opened, umask })
    }

    fn grant(mut self, guest: &Path, source: Source, access: Access) -> Result<Self, ExportError> {
        let malformed = || ExportError::GuestPath { guest: guest.into() };
        let path = guest.as_os_str().as_bytes().strip_prefix(b"/").ok_or_else(malformed)?;
        let mut at = 0;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let name = Name::new(name).map_err(|_| malformed())?;
            at = self.child(at, name, guest)?;
        }
        let node = &mut self.nodes[at];
        if node.source != Source::Way {
            return Err(ExportError::Duplicate { guest: guest.into() });
        }
        let directory = matches!(source, Source::Directory(_));
        if !directory && (at == 0 || !node.children.is_empty()) {
            return Err(ExportError::NotDirectory { guest: guest.into(), above: node.guest.clone() });
        }
        node.source = source;
        node.access = access;
        Ok(self)
    }

    fn child(&mut self, at: usize, name: Name<'_>, guest: &Path) -> Result<usize, ExportError> {
        let parent = &self.nodes[at];
        if !matches!(parent.source, Source::Way | Source::Directory(_)) {
            return Err(ExportError::NotDirectory { guest: guest.into(), above: parent.guest.clone() });
        }
        if let Some(child) = parent.children.get(name.as_bytes()) {
            return Ok(*child);
        }
        let child = self.nodes.len();
        self.nodes.push(Planned {
            guest: parent.guest.join(OsStr::from_bytes(name.as_bytes())),
            parent: Some(at),
            children: BTreeMap::new(),
            source: Source::Way,
            access: Access::READ_ONLY,
        });
        self.nodes[at].children.insert(name.into(), child);
        Ok(child)
    }
}

impl Planned {
    fn open(&self, id: GrantId, parent: Option<&Granted>) -> Result<Granted, ExportError> {
        let (backing, identity) = match &self.source {
            Source::Way => self.open_way(id, parent)?,
            Source::Symlink(target) => {
                (Backing::Symlink(target.clone().into()), Identity::server(id, FileType::Symlink))
            }
            Source::Directory(host) => {
                let (descriptor, identity) = self.open_host(id, host, FileType::Directory)?;
                (Backing::Directory(descriptor), identity)
            }
            Source::File(host) => {
                let (descriptor, identity) = self.open_host(id, host, FileType::RegularFile)?;
                (Backing::File(descriptor), identity)
            }
        };
        let children = self.children.iter().map(|(name, child)| (name.clone(), GrantId(*child))).collect();
        Ok(Granted { children, backing, identity, access: self.access })
    }

    fn open_host(
        &self,
        id: GrantId,
        host: &Path,
        wanted: FileType,
    ) -> Result<(Arc<OwnedFd>, Identity), ExportError> {
        let open = |errno: Errno| ExportError::Open {
            guest: self.guest.clone(),
            host: host.into(),
            source: errno.into(),
        };
        let descriptor = host::open_granted(host).map_err(open)?;
        if self.access.writable && host::is_proc(&descriptor).map_err(open)? {
            return Err(ExportError::WritableProc { guest: self.guest.clone(), host: host.into() });
        }
        let metadata = host::metadata(&descriptor).map_err(open)?;
        if metadata.file_type != wanted {
            let wanted = if wanted == FileType::Directory { "directory" } else { "regular file" };
            return Err(ExportError::Kind { guest: self.guest.clone(), host: host.into(), wanted });
        }
        Ok((Arc::new(descriptor), metadata.identity(Origin::region(id))))
    }

    /// A directory on the way to a grant. Inside a granted directory it shows what the host has there too.
    fn open_way(&self, id: GrantId, parent: Option<&Granted>) -> Result<(Backing, Identity), ExportError> {
        let alone = (Backing::Nothing, Identity::server(id, FileType::Directory));
        let Some(Granted { backing: Backing::Directory(above), identity, .. }) = parent else {
            return Ok(alone);
        };
        let host = || PathBuf::from(self.guest.file_name().unwrap_or_default());
        let open = |errno: Errno| ExportError::Open {
            guest: self.guest.clone(),
            host: host(),
            source: errno.into(),
        };
        let name = self.guest.file_name().unwrap_or_default().as_bytes();
        let Ok(name) = Name::new(name) else { return Ok(alone) };
        let descriptor = match host::open_child(above, name) {
            Ok(descriptor) => descriptor,
            Err(Errno::NOENT) => return Ok(alone),
            Err(errno) => return Err(open(errno)),
        };
        let metadata = host::metadata(&descriptor).map_err(open)?;
        if metadata.file_type != FileType::Directory {
            let guest = self.guest.clone();
            return Err(ExportError::NotDirectory { above: guest.clone(), guest });
        }
        Ok((Backing::Directory(Arc::new(descriptor)), metadata.identity(identity.origin.same_region())))
    }
}

/// An opened tree of grants: the namespace that a [`Server`](crate::Server) shows.
#[derive(Debug)]
pub struct Export {
    nodes: Vec<Granted>,
    /// `/proc/self/fd`, kept open so that files can be reopened after the root directory has changed.
    own_descriptors: OwnedFd,
    opened: Time,
    /// What the process takes off the permissions of new files.
    umask: u32,
}

/// An index into [`Export::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GrantId(pub usize);

impl GrantId {
    pub const ROOT: Self = Self(0);
}

/// A grant, or a directory on the way to one.
#[derive(Debug)]
pub(crate) struct Granted {
    /// What stands below, by name. It hides the host's entries of these names.
    pub children: BTreeMap<OwnedName, GrantId>,
    pub backing: Backing,
    pub identity: Identity,
    access: Access,
}

/// What a [`Granted`] shows beside its children.
#[derive(Debug)]
pub(crate) enum Backing {
    /// A directory that exists only in the server.
    Nothing,
    Directory(Arc<OwnedFd>),
    File(Arc<OwnedFd>),
    Symlink(Box<[u8]>),
}

impl Export {
    /// Whether any grant may be changed.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.nodes.iter().any(|grant| grant.access.writable)
    }

    /// The host's directories and files that were granted, opened with `O_PATH`, and whether each may be changed:
    /// all that a [`Server`](crate::Server) of this export ever opens something in.
    pub fn grants(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        self.nodes.iter().filter_map(|grant| match &grant.backing {
            Backing::Directory(host) | Backing::File(host) => Some((host.as_fd(), grant.access.writable)),
            Backing::Nothing | Backing::Symlink(_) => None,
        })
    }

    /// All descriptors that it holds: what a process needs that is forked to serve it.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.grants().map(|(grant, _)| grant).chain([self.own_descriptors.as_fd()])
    }

    /// Makes it the export of this process, which was forked from the one that opened it. To be called while the host's
    /// `/proc` is there.
    ///
    /// # Errors
    ///
    /// [`ExportError::Proc`].
    pub fn take_over(&mut self) -> Result<(), ExportError> {
        self.own_descriptors = host::open_descriptor_directory()
            .map_err(|source| ExportError::Proc { source: source.into() })?;
        Ok(())
    }

    /// What may be done to files of this origin. The server's own are nobody's to change.
    pub(crate) fn access(&self, origin: Origin) -> Access {
        match origin {
            Origin::Server => Access::READ_ONLY,
            Origin::Host { region, .. } => self.get(region.grant()).access,
        }
    }

    /// The caps of each grant that has some.
    pub(crate) fn caps(&self) -> impl Iterator<Item = (GrantId, Caps)> {
        let all = self.nodes.iter().enumerate().map(|(index, grant)| (GrantId(index), grant.access.caps));
        all.filter(|(_, caps)| *caps != Caps::NONE)
    }

    pub(crate) fn umask(&self) -> u32 {
        self.umask
    }

    pub(crate) fn get(&self, id: GrantId) -> &Granted {
        &self.nodes[id.0]
    }

    pub(crate) fn own_descriptors(&self) -> &OwnedFd {
        &self.own_descriptors
    }

    pub(crate) fn opened(&self) -> Time {
        self.opened
    }
}
