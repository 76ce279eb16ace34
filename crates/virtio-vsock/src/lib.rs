//! The virtio socket device (virtio 1.2, 5.10) in user space: ports of the guest on one side, Unix stream
//! sockets of the host on the other. No vhost, no `AF_VSOCK` on the host, no privilege.
//!
//! Programs of the host reach a guest's port through a Unix or TCP socket that the device listens on; programs
//! of the guest reach the doors that an allow-list names, as ports of CID 2: what they connect to is a descriptor
//! that comes out at the [`Door`]'s other side. Nothing else is reachable either way, and the device opens nothing.
//!
//! ```
//! use std::{collections::HashMap, os::unix::net::UnixListener};
//! use nofear_virtio_vsock::{Config, Door, Listen, Vsock};
//!
//! # let directory = tempfile::tempdir()?;
//! # let directory = directory.path();
//! let (door, visitors) = Door::new()?;
//! let device = Vsock::new(Config {
//!     cid: 3,
//!     // Who connects to `shell.sock` on the host talks to port 1024 of the guest.
//!     listen: vec![Listen::new(1024, UnixListener::bind(directory.join("shell.sock"))?)],
//!     // Who connects to port 5000 of CID 2 in the guest is what `visitors.accept()` returns.
//!     connect: HashMap::from([(5000, door)]),
//! })?;
//! # let memory = virtio::testing::memory();
//! let (transport, worker) = virtio::connect(device, memory)?;
//! std::thread::spawn(move || worker.run());
//! # drop((transport, visitors));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What a hostile guest can use up
//!
//! At most [`MAX_CONNECTIONS`] sockets, and the credit that all connections are given together: less
//! than 16 MiB. The first 32 get 256 KiB each, which keeps a fast stream busy; the others 16 KiB. What a
//! socket holds in the host's kernel comes on top, up to the host's `net.core.wmem_default` each.

#![forbid(unsafe_code)]

mod connection;
mod device;
mod door;
mod flow;
mod packet;
mod session;
mod table;

pub use device::{Config, ConfigError, Listen, Vsock};
pub use door::{Door, Visitors};
pub use table::MAX_CONNECTIONS;
