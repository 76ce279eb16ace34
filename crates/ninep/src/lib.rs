//! 9P2000.L: wire format, export tree (an allow-list) and file server, for a client that is not trusted.
//!
//! An [`Export`] is built from grants and is all that a client can see. A [`Server`] takes requests as byte
//! slices and puts replies into a [`Reply`], which a transport implements over its own memory; there is no
//! thread, no socket and no virtual machine in here.
//!
//! ```
//! use ninep::{ExportBuilder, Limits, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let export = ExportBuilder::new()
//!     .directory("/usr", "/usr")?
//!     .symlink("/bin", "usr/bin")?
//!     .open()?;
//! let server = Server::new(export, Limits::default());
//!
//! // size[4] Tversion tag[2] msize[4] version[s]
//! let mut request = vec![21, 0, 0, 0, 100, 0xff, 0xff];
//! request.extend_from_slice(&8192_u32.to_le_bytes());
//! request.extend_from_slice(b"\x08\x009P2000.L");
//!
//! let mut reply = [0; 8192];
//! let length = server.serve(&request, &mut reply[..]);
//! assert_eq!(reply[4], 101); // Rversion
//! assert_eq!(&reply[13..length], b"9P2000.L");
//! # Ok(())
//! # }
//! ```
//!
//! # What keeps a client inside
//!
//! - What is not granted does not exist: every operation starts from a fid, and every fid from a walk in the
//!   export's tree.
//! - A name reaches the host's kernel as one component, checked when it was decoded, and `openat2` resolves it
//!   beneath its directory without following links. `..` is resolved in the server's own tree.
//! - Fids are `O_PATH` descriptors. Only regular files and directories are ever opened for more; FIFOs, sockets
//!   and devices have attributes and nothing else, and of those a client can make only FIFOs.
//! - Every grant is read-only unless its [`Access`] says otherwise, and the server itself refuses what would
//!   change it (`EROFS`).
//! - The modes of files are the host's, set-uid bits included: a client should mount `nosuid,nodev`. No client
//!   can set those bits, and they are gone from a file that it writes.
//! - The server acts as its process's user: what that user may not read, neither may the client (`EACCES`).
//! - Fids, opened files, descriptors and the depth of walks are bounded by [`Limits`].
//!
//! # Inside
//!
//! `wire` knows bytes, `server` the protocol and its session, `tree` and `export` what exists, `host` the system
//! calls. The host must be Linux 5.6 or later, with `/proc`.
#![forbid(unsafe_code)]

mod budget;
#[cfg(any(test, feature = "testing"))]
pub mod client;
mod counters;
mod descriptors;
mod directory;
mod export;
mod fid;
mod host;
mod identity;
mod locks;
mod quota;
mod reply;
mod server;
mod tree;
pub mod wire;
mod xattr;

pub use counters::Counters;
pub use export::{Access, Caps, Export, ExportBuilder, ExportError};
pub use reply::{Data, Reply};
pub use server::{Limits, MIN_MSIZE, Server};
