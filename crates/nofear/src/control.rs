//! Other processes of the user reach a running VM: by a Unix socket in the VM's folder, `control.sock`, and lines of
//! JSON on it, which `docs/control.md` describes.
//!
//! [`protocol`] is what is said. [`server`] is the VM's side, a part of its session; [`client`] finds running VMs and
//! talks to one; [`machine`] is what they want of the VM itself. The verbs are built on it: [`exec`], [`ps`], [`stop`],
//! [`wait`], [`logs`], [`console`], [`net`], those in [`manage`], and `nofear cp` for a profile in use.
//!
//! The guest has no way to this socket. It sees the commands that come this way like the VM's own: the server checks
//! whatever it says of them against what was asked for.

pub mod client;
pub mod console;
pub mod exec;
pub mod logs;
pub mod machine;
pub mod manage;
pub mod net;
pub mod protocol;
pub mod ps;
pub mod server;
pub mod stop;
pub mod wait;
