//! The network's options.

use std::net::IpAddr;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use vmm::net::filter::{Cidr, Rule};
use vmm::net::{MAX_MTU, MIN_MTU};

use super::resolver::{Name, Names};

#[cfg(test)]
mod tests;

/// Options of the network.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// What connects the program to the network [default: auto]
    ///
    /// This and what follows can be fixed for a profile: see 'nofear profile set --help'.
    #[arg(long, value_name = "WAY", value_enum)]
    pub net: Option<Mode>,

    /// Let the program reach local networks too, and look their names up, but not this machine; or not, where the profile does
    #[arg(
        long, value_name = "yes|no", num_args = 0..=1, require_equals = true, default_missing_value = "yes",
        value_parser = parse_switch
    )]
    pub lan: Option<bool>,

    /// Let the program reach nothing but what --allow names; or more, where the profile does not
    #[arg(
        long, value_name = "yes|no", num_args = 0..=1, require_equals = true, default_missing_value = "yes",
        value_parser = parse_switch
    )]
    pub offline: Option<bool>,

    /// Let the program reach a host or a range of addresses, at one port or all
    ///
    /// DEST is a name, *.NAME for all below it, an address, or a range such as 10.1.0.0/16; an IPv6 address with
    /// a port stands in brackets. A name opens the addresses that it has, on the Internet, for as long as its
    /// name server says.
    #[arg(long, value_name = "DEST[:PORT]")]
    pub allow: Vec<Target>,

    /// Keep the program from a host or a range of addresses, whatever else is allowed
    #[arg(long, value_name = "DEST[:PORT]")]
    pub deny: Vec<Target>,

    /// Let others reach a port of the program, at one of this machine, on its loopback addresses unless ADDR is
    /// given
    ///
    /// An IPv6 address stands in brackets. To the program the clients come from its own machine.
    #[arg(long, value_name = "[ADDR:]PORT:GUESTPORT[/udp]")]
    pub publish: Vec<Publish>,

    /// Longest packet on the program's link, in bytes
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(i64::from(MIN_MTU)..=i64::from(MAX_MTU)))]
    pub mtu: Option<u16>,
}

impl NetworkArgs {
    /// These options, and those that a profile fixes: single values of these go before, lists are added.
    #[must_use]
    pub fn over(self, fixed: Self) -> Self {
        let both = |of_profile: Vec<Target>, given: Vec<Target>| [of_profile, given].concat();
        Self {
            net: self.net.or(fixed.net),
            lan: self.lan.or(fixed.lan),
            offline: self.offline.or(fixed.offline),
            allow: both(fixed.allow, self.allow),
            deny: both(fixed.deny, self.deny),
            publish: [fixed.publish, self.publish].concat(),
            mtu: self.mtu.or(fixed.mtu),
        }
    }

    /// What connects the program.
    pub fn mode(&self) -> Mode {
        self.net.unwrap_or(Mode::Auto)
    }

    /// Whether local networks are open.
    pub fn is_lan(&self) -> bool {
        self.lan.unwrap_or(false)
    }

    /// Whether nothing is open but what is allowed.
    pub fn is_offline(&self) -> bool {
        self.offline.unwrap_or(false)
    }

    /// What is said of names.
    pub fn names(&self) -> Names {
        let names = |list: &[Target]| {
            list.iter()
                .filter_map(|target| match target {
                    Target::Name(name) => Some(name.clone()),
                    Target::Range(_) => None,
                })
                .collect()
        };
        Names {
            allow: names(&self.allow),
            deny: names(&self.deny),
            offline: self.is_offline(),
            lan: self.is_lan(),
        }
    }
}

/// What connects the program to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A tap where 'nofear setup' was done, else passt where it is installed, else nothing
    Auto,
    /// A tap of this machine, by the helper that 'nofear setup' installs: the fastest
    Tap,
    /// passt, which needs no root
    Passt,
    /// Nothing
    None,
}

/// A destination of `--allow` or `--deny`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Addresses.
    Range(Rule),
    /// A name.
    Name(Name),
}

impl Target {
    /// The rule, for addresses.
    pub fn rule(&self) -> Option<Rule> {
        match self {
            Self::Range(rule) => Some(*rule),
            Self::Name(_) => None,
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A bare IPv6 address or range has colons of its own.
        if let Ok(range) = text.parse::<Cidr>() {
            return Ok(Self::Range(Rule { range, port: None }));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(parse_port(port)?)),
            None => (text, None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if let Ok(range) = bare.unwrap_or(host).parse::<Cidr>() {
            if bare.is_none() && range.address().is_ipv6() {
                return Err(format!("write the port of an IPv6 address as [{host}]:{}", port.unwrap_or(0)));
            }
            return Ok(Self::Range(Rule { range, port }));
        }
        Name::new(host, port).map(Self::Name)
    }
}

/// A port of this machine that leads to one of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The address of this machine; none: its loopback addresses.
    pub address: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// The guest's port.
    pub guest_port: u16,
    /// UDP, not TCP.
    pub udp: bool,
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, udp) = match text.rsplit_once('/') {
            Some((ports, "udp")) => (ports, true),
            Some((ports, "tcp")) => (ports, false),
            Some((_, other)) => return Err(format!("{other:?} is neither tcp nor udp")),
            None => (text, false),
        };
        let wrong = || "write [ADDR:]PORT:GUESTPORT, with /udp for UDP".to_owned();
        let (rest, guest_port) = ports.rsplit_once(':').ok_or_else(wrong)?;
        let (address, port) = match rest.rsplit_once(':') {
            Some((address, port)) => {
                let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
                (Some(bare.parse().map_err(|_| format!("{bare:?} is no IP address"))?), port)
            }
            None => (None, rest),
        };
        Ok(Self { address, port: parse_port(port)?, guest_port: parse_port(guest_port)?, udp })
    }
}

/// Reads a switch.
pub fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("{text:?} is neither yes nor no")),
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{text:?} is no port: 1 to 65535 are")),
    }
}
