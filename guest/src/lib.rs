//! The guest's side of nofear: the first process of the guest, and the agent that starts its commands.
//!
//! The binary, `/init` of the initramfs, builds the guest's root with [`boot`] and then stays in
//! [`agent::serve`] until the host tells it to power off, or goes away. Everything that does not need to
//! be the first process of a machine is usable, and tested, in an ordinary one:
//!
//! ```
//! use std::ffi::CString;
//!
//! let env = [b"PATH=/usr/local/bin:/bin".to_vec()];
//! let found = nofear_guest::search::candidates(b"ls", &env).unwrap();
//! assert_eq!(found, [CString::from(c"/usr/local/bin/ls"), CString::from(c"/bin/ls")]);
//! ```

pub mod agent;
pub mod boot;
pub mod changes;
pub mod files;
mod flow;
pub mod kernel;
mod link;
mod memory;
pub mod modules;
pub mod network;
mod relay;
pub mod search;
mod spawn;
pub mod tool;
pub mod vsock;

use std::borrow::Cow;
use std::io;

/// Something that the guest cannot go on without has failed.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}")]
pub struct Failure {
    /// What was attempted, and on what.
    pub attempt: Cow<'static, str>,
    /// Why it failed.
    pub source: io::Error,
}

impl Failure {
    /// What turns an error into a failure of `attempt`, for `map_err`.
    pub fn of<E: Into<io::Error>>(attempt: impl Into<Cow<'static, str>>) -> impl FnOnce(E) -> Self {
        move |source| Self { attempt: attempt.into(), source: source.into() }
    }
}
