//! What is said between `nofear run` and its privileged helper: one JSON object each way, in a line each. The
//! tap's descriptors come with the answer, as SCM_RIGHTS.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use vmm::net::filter::{Cidr, Rule};

/// The protocol's version.
pub const VERSION: u32 = 1;

/// The longest line, in bytes.
pub const MAX_LINE: usize = 64 << 10;

/// The most queues of a tap.
pub const MAX_QUEUES: usize = 32;

/// The most rules of a kind.
pub const MAX_RULES: usize = 256;

/// What a VM wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// The link's longest packet in bytes.
    pub mtu: u16,
    /// Local networks are open.
    pub lan: bool,
    /// Nothing is but what is allowed, and no name is.
    pub offline: bool,
    /// What is open.
    pub allow: Vec<Destination>,
    /// What is closed.
    pub deny: Vec<Destination>,
}

/// A range of addresses, and a port or all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// `10.0.0.0/8`.
    pub range: String,
    /// A TCP or UDP port.
    pub port: Option<u16>,
}

impl From<&Rule> for Destination {
    fn from(rule: &Rule) -> Self {
        Self { range: rule.range.to_string(), port: rule.port }
    }
}

impl Destination {
    /// The rule, if it is one.
    pub fn rule(&self) -> Option<Rule> {
        Some(Rule { range: self.range.parse::<Cidr>().ok()?, port: self.port })
    }
}

/// What the helper answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// There is a tap.
    Ready(Ready),
    /// There is none.
    Refused {
        /// Why, for people.
        text: String,
    },
}

/// A tap that is up, with its routes and rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Its name.
    pub interface: String,
    /// The guest's Ethernet address, and the tap's.
    pub mac: String,
    /// See `mac`.
    pub gateway_mac: String,
    /// The guest's address and its gateway's.
    pub v4: Option<[Ipv4Addr; 2]>,
    /// The guest's address and its gateway's.
    pub v6: Option<[Ipv6Addr; 2]>,
    /// Where all VMs of this machine live.
    pub pools: Vec<String>,
}
