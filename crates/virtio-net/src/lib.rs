//! virtio device 1: a network interface whose guest reaches what a [`filter::Policy`] lets it reach.
//!
//! Each frame that the guest sends passes the [`filter`], which knows the guest's addresses, reads headers
//! alone, and refuses what it does not know; so it does not matter what stands behind the [`Backend`]: a tap
//! ([`Tap`]) with all of the kernel's offloads, or passt ([`PasstStream`]). The device itself answers for the
//! gateway (ARP, neighbour discovery), so that no such message leaves the guest or reaches it, and hands
//! questions for names to whoever holds the other end of [`Config::resolver`].
//!
//! ```
//! use std::os::unix::net::UnixStream;
//! use nofear_virtio_net::{Config, Net, PasstStream, filter::{Ends, Journal, Mac, Policy}};
//!
//! let (ours, _passt) = UnixStream::pair()?;
//! let policy = Policy {
//!     mac: Mac([2, 0, 0, 0, 0, 2]),
//!     gateway_mac: Mac([2, 0, 0, 0, 0, 1]),
//!     v4: Some(Ends { guest: [10, 1, 2, 2].into(), gateway: [10, 1, 2, 1].into() }),
//!     ..Policy::default()
//! };
//! let config = Config { policy, mtu: 1500, resolver: None, journal: Journal::default() };
//! let net = Net::new(PasstStream::new(ours), config)?;
//! let (transport, worker) = virtio::connect(net, guest_memory())?;
//! # fn guest_memory() -> virtio::Memory { virtio::testing::memory() }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod backend;
mod device;
pub mod filter;
mod header;
mod receive;
pub mod resolver;

pub use backend::{Backend, Incoming, Outgoing, PasstStream, Tap, TapError};
pub use device::{Config, ConfigError, MAX_MTU, MAX_PAIRS, MIN_MTU, Net};
pub use filter::MAX_FRAME;
pub use header::{HEADER, Offloads};
