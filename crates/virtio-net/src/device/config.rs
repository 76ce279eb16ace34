//! What a device is to be.

use std::io;

use crate::{
    filter::{Journal, Policy},
    resolver::Channel,
};

/// The least MTU: IPv6's (RFC 8200, 5).
pub const MIN_MTU: u16 = 1280;

/// The most: IPv4's longest packet, rounded down as passt does.
pub const MAX_MTU: u16 = 65_520;

/// The most pairs of queues.
pub const MAX_PAIRS: usize = 32;

/// A network device to be.
#[derive(Debug)]
pub struct Config {
    /// What the guest may reach, and its addresses.
    pub policy: Policy,
    /// The longest IP packet on the link, from [`MIN_MTU`] to [`MAX_MTU`] bytes.
    pub mtu: u16,
    /// Where questions for names go; none: they get no answer.
    pub resolver: Option<Channel>,
    /// Where it is written what was refused.
    pub journal: Journal,
}

/// Why a [`Config`] is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An MTU out of its range.
    #[error("MTU {0}: {MIN_MTU} to {MAX_MTU} are possible")]
    Mtu(u16),
    /// No more descriptors.
    #[error("create an event descriptor for a network device")]
    Event(#[source] io::Error),
    /// No back end, or too many.
    #[error("{0} pairs of queues: 1 to {MAX_PAIRS} are possible")]
    Pairs(usize),
}
