//! Which file is it: the qid of a file, from what the host says of it.
//!
//! `qid.path` must differ for different files, and the client's inode numbers are made of it: Linux adds 2. Its layout:
//! - top bit 0, then 15 bits that stand for (grant, host device), then, in 48 bits, the inode number less 2;
//! - top bit 1, then 63 bits of a keyed hash of (grant, device, inode number), where those do not fit
//!   (overlayfs, for one, uses the high bits of inode numbers). The key is the server's own, so nobody can
//!   prepare two files that collide.
//!
//! The number 0 of the 15 bits is that of the first files that are seen, for a share of one folder all that it has: there
//! the client has the host's inode numbers. What one of both noted with them holds for the other, as git's index does.
//! The last number is the server's own directories and links. The grant is part of it since a
//! directory of the host can be granted at two places, and Linux allows a directory only one.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{PoisonError, RwLock};

use rustix::fs::FileType;

use crate::export::GrantId;
use crate::wire::{Qid, QidKind, Time};

#[cfg(test)]
mod tests;

/// Identifies a file for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub origin: Origin,
    pub inode: u64,
    pub file_type: FileType,
}

/// Where an inode number is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    /// Among the server's own.
    Server,
    /// On a device of the host, seen through a grant.
    Host { region: Region, device: u64 },
}

/// The grant through which a file is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Region(GrantId);

impl Region {
    pub fn grant(self) -> GrantId {
        self.0
    }
}

impl Origin {
    pub fn region(id: GrantId) -> Region {
        Region(id)
    }

    /// The region of a host's file; the server's own directories have none and give none to what is below.
    pub fn same_region(self) -> Region {
        match self {
            Self::Server => Region(GrantId::ROOT),
            Self::Host { region, .. } => region,
        }
    }
}

impl Identity {
    pub fn server(id: GrantId, file_type: FileType) -> Self {
        // Inode number 0 means "no file" to some programs.
        Self { origin: Origin::Server, inode: id.0 as u64 + 1, file_type }
    }
}

const INODE_BITS: u32 = 48;
/// What Linux's client adds to a path for an inode number, which may not be 0 or 1.
const CLIENT_ADDS: u64 = 2;
/// The number of [`Origin::Server`].
const SERVER: u64 = 0x7fff;
const HASHED: u64 = 1 << 63;
/// More (grant, device) pairs than this are hashed.
const MAX_ORIGINS: usize = 4096;

/// Makes `qid.path` of identities.
#[derive(Default)]
pub(crate) struct QidPaths {
    origins: RwLock<HashMap<Origin, u64>>,
    key: RandomState,
}

impl QidPaths {
    pub fn path(&self, origin: Origin, inode: u64) -> u64 {
        if inode >> INODE_BITS != 0 {
            return self.hashed(origin, inode);
        }
        match self.index(origin) {
            Some(index) => index << INODE_BITS | inode.wrapping_sub(CLIENT_ADDS) & ((1 << INODE_BITS) - 1),
            None => self.hashed(origin, inode),
        }
    }

    pub fn qid(&self, identity: Identity, version: u32) -> Qid {
        Qid { kind: qid_kind(identity.file_type), version, path: self.path(identity.origin, identity.inode) }
    }

    fn index(&self, origin: Origin) -> Option<u64> {
        if origin == Origin::Server {
            return Some(SERVER);
        }
        if let Some(index) = self.origins.read().unwrap_or_else(PoisonError::into_inner).get(&origin) {
            return Some(*index);
        }
        let mut origins = self.origins.write().unwrap_or_else(PoisonError::into_inner);
        if origins.len() >= MAX_ORIGINS && !origins.contains_key(&origin) {
            return None;
        }
        let next = origins.len() as u64;
        Some(*origins.entry(origin).or_insert(next))
    }

    fn hashed(&self, origin: Origin, inode: u64) -> u64 {
        self.key.hash_one((origin, inode)) | HASHED
    }
}

pub(crate) fn qid_kind(file_type: FileType) -> QidKind {
    match file_type {
        FileType::Directory => QidKind::Directory,
        FileType::Symlink => QidKind::Symlink,
        _ => QidKind::File,
    }
}

/// A number that changes when the file's contents or attributes do, and is never 0, which would turn off
/// the client's cache.
pub(crate) fn qid_version(mtime: Time, ctime: Time) -> u32 {
    let mix = |hash: u64, value: u64| (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let hash = [mtime.sec.cast_unsigned(), mtime.nsec.into(), ctime.sec.cast_unsigned(), ctime.nsec.into()]
        .into_iter()
        .fold(0, mix);
    (hash >> 32) as u32 | 1
}
