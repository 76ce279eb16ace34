//! The egress filter: what a guest may send, frame by frame.
//!
//! Pure: bytes in, a verdict out; it opens nothing and sends nothing. Only headers are read, each field
//! within its bounds, and [`Verdict::Forward`] says how many of the frame's bytes were understood, so that
//! nothing travels behind a packet. What is not known is refused. `docs/network.md` states the policy.

mod answers;
mod cidr;
mod class;
mod frame;
mod opened;
mod refusals;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::MutexGuard,
    time::{Duration, Instant},
};

pub use answers::{Query, datagram};
pub use cidr::{Cidr, CidrError, Rule};
pub use class::{Ranges, ranges};
pub use frame::{HEAD, MAX_FRAME, Packet, Transport};
pub use refusals::{Entry, Journal, Refusal, Refusals};

use class::Class;
use frame::{Arp, Content, Link};
use opened::Opened;

const DNS: u16 = 53;

/// An Ethernet address.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no Ethernet address such as 02:00:00:00:00:01")]
pub struct MacError(String);

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(|| MacError(text.into()))
    }
}

/// The two ends of a guest's link, by one version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends<A> {
    /// The guest's address: the only source of what it sends.
    pub guest: A,
    /// The address that it sends everything through, and asks for names.
    pub gateway: A,
}

/// What a guest may reach, and who it is. The default is a guest without addresses, which reaches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The guest's Ethernet address: the only source of its frames.
    pub mac: Mac,
    /// The gateway's: the only destination.
    pub gateway_mac: Mac,
    /// Its IPv4 addresses; none: no IPv4.
    pub v4: Option<Ends<Ipv4Addr>>,
    /// Its IPv6 addresses; none: no IPv6.
    pub v6: Option<Ends<Ipv6Addr>>,
    /// Refuses whatever no rule allows, the Internet too.
    pub offline: bool,
    /// Opens private networks, and those that the host is on.
    pub lan: bool,
    /// What is open beside that. Loopback, groups and tunnels can't be opened.
    pub allow: Vec<Rule>,
    /// What is closed whatever else says.
    pub deny: Vec<Rule>,
    /// The host's own addresses, or ranges of them.
    pub host: Vec<Cidr>,
    /// Networks that the host is on.
    pub on_link: Vec<Cidr>,
    /// Where the guests of this host live: no rule opens them.
    pub guests: Vec<Cidr>,
}

/// What is to be done with a frame of the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may go: its first [`Packet::end`] bytes, and no more.
    Forward(Packet),
    /// This frame goes back to the guest, in the place of an answer from outside.
    Answer(Vec<u8>),
    /// A question for the resolver: the payload of the datagram at [`Packet::offset`].
    Resolve(Packet, Query),
    /// Nothing.
    Drop,
}

/// A guest's filter.
#[derive(Debug)]
pub struct Filter {
    policy: Policy,
    /// What names have opened.
    opened: Opened,
    journal: Journal,
}

impl Filter {
    /// A filter of this policy.
    pub fn new(policy: Policy) -> Self {
        Self::with_journal(policy, Journal::default())
    }

    /// A filter that writes what it refuses there.
    pub fn with_journal(policy: Policy, journal: Journal) -> Self {
        Self { policy, opened: Opened::default(), journal }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What was refused so far.
    pub fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.journal.open()
    }

    /// Judges a frame of `length` bytes that the guest sends; `head` are its first ones, at least [`HEAD`]
    /// or all. What is to be sent of them must be this very copy: the guest can change its own.
    pub fn judge(&mut self, head: &[u8], length: usize, now: Instant) -> Verdict {
        let (link, content) = match frame::parse(head, length) {
            Ok(parsed) => parsed,
            Err(refusal) => return self.refuse(refusal, None, now),
        };
        if link.source != self.policy.mac {
            return self.refuse(Refusal::SourceMac, None, now);
        }
        match content {
            Content::Chatter => Verdict::Drop,
            Content::Arp(arp) => self.arp(&arp, now),
            Content::Solicitation { source, target } => self.solicitation(source, target, now),
            Content::Packet(packet) => self.packet(link, packet, head, now),
        }
    }

    /// Judges a frame of `length` bytes that comes for the guest.
    pub fn admit(&self, head: &[u8], length: usize) -> bool {
        let Some(destination) = frame::destination(head) else { return false };
        if head.first_chunk() != Some(&self.policy.mac.0) || !self.is_guest(destination) {
            return false;
        }
        match frame::parse(head, length) {
            Ok((_, Content::Packet(packet))) => match packet.transport {
                // Nobody connects from outside.
                Transport::Tcp { opens, .. } => !opens,
                Transport::Udp { .. } => true,
                // Redirects are orders to a router that we are not.
                Transport::Icmp { kind } => match packet.source {
                    IpAddr::V4(_) => kind != 5,
                    IpAddr::V6(_) => !(133..=137).contains(&kind),
                },
            },
            Ok(_) | Err(Refusal::Malformed | Refusal::EtherType) => false,
            // Fragments, options and other protocols: the guest's kernel knows what it asked for.
            Err(_) => true,
        }
    }

    /// Opens an address, and one port of it or all, for a time: a name that is allowed has it. Only
    /// destinations on the Internet can be opened like that, or in private networks with
    /// [`Policy::lan`]: whoever answers for a name must not choose others.
    pub fn open(&mut self, address: IpAddr, port: Option<u16>, now: Instant, time: Duration) {
        let open = match Class::of(address) {
            Class::Internet => self.policy.lan || !Names::of(address).are_in(&self.policy.on_link),
            Class::Private => self.policy.lan,
            _ => false,
        };
        if open {
            self.opened.open(address, port, now, time);
        }
    }

    /// Takes note of the host's addresses and networks, which may change while the guest runs.
    pub fn set_host(&mut self, host: Vec<Cidr>, on_link: Vec<Cidr>) {
        self.policy.host = host;
        self.policy.on_link = on_link;
    }

    /// Counts a frame that was refused for what the filter does not see.
    pub fn note(&mut self, refusal: Refusal, now: Instant) {
        self.journal.open().note(refusal, None, now);
    }

    fn arp(&mut self, arp: &Arp, now: Instant) -> Verdict {
        let Some(v4) = self.policy.v4 else { return Verdict::Drop };
        // A guest that asks whether its address is free, or says that it has it: nobody else is there.
        let own = arp.sender == v4.guest || arp.sender.is_unspecified();
        if arp.sender_mac != self.policy.mac || !own {
            return self.refuse(Refusal::Neighbour, None, now);
        }
        if arp.request && arp.target == v4.gateway {
            return Verdict::Answer(answers::arp_reply(&self.policy, &v4));
        }
        Verdict::Drop
    }

    fn solicitation(&mut self, source: Ipv6Addr, target: Ipv6Addr, now: Instant) -> Verdict {
        let Some(v6) = self.policy.v6 else { return Verdict::Drop };
        if source != v6.guest && !source.is_unicast_link_local() {
            return self.refuse(Refusal::Neighbour, None, now);
        }
        if target == v6.gateway {
            return Verdict::Answer(answers::advertisement(&self.policy, source, target));
        }
        Verdict::Drop
    }

    fn packet(&mut self, link: Link, packet: Packet, head: &[u8], now: Instant) -> Verdict {
        if !self.is_guest(packet.source) {
            // A kernel without IPv6 addresses of ours still talks to its link, by its link-local one.
            let chatter = matches!(packet.source, IpAddr::V6(source) if source.is_unicast_link_local())
                && packet.destination.is_multicast();
            return if chatter { Verdict::Drop } else { self.refuse(Refusal::Source, Some(&packet), now) };
        }
        match self.destination(&packet, now) {
            Ok(Route::Resolver) => match Query::of(&packet) {
                Some(query) => Verdict::Resolve(packet, query),
                None => self.refuse(Refusal::Malformed, Some(&packet), now),
            },
            Ok(Route::Out) if link.destination == self.policy.gateway_mac => Verdict::Forward(packet),
            Ok(Route::Out) => self.refuse(Refusal::Link, Some(&packet), now),
            Err(refusal) => {
                self.journal.open().note(refusal, Some(&packet), now);
                // The program that wants to go there hears of it at once, and does not wait.
                answers::unreachable(&self.policy, &packet, head).map_or(Verdict::Drop, Verdict::Answer)
            }
        }
    }

    /// Whether a packet of the guest's own address may go where it wants to.
    fn destination(&mut self, packet: &Packet, now: Instant) -> Result<Route, Refusal> {
        let (to, port) = (packet.destination, packet.transport.port());
        if let Transport::Icmp { kind } = packet.transport {
            // Echo requests, and what a host says of packets that it can't take.
            let fine = match to {
                IpAddr::V4(_) => matches!(kind, 3 | 8 | 11),
                IpAddr::V6(_) => matches!(kind, 1..=3 | 128),
            };
            if !fine {
                return Err(Refusal::Icmp(kind));
            }
        }
        let class = Class::of(to);
        match class {
            Class::Loopback => return Err(Refusal::Loopback),
            Class::Multicast => return Err(Refusal::Multicast),
            Class::Tunnel => return Err(Refusal::Tunnel),
            Class::Reserved => return Err(Refusal::Reserved),
            Class::Internet | Class::Private | Class::LinkLocal | Class::Carrier => {}
        }
        if self.is_gateway(to) {
            let asks = matches!(packet.transport, Transport::Udp { destination: DNS, .. });
            return if asks { Ok(Route::Resolver) } else { Err(Refusal::Gateway) };
        }
        let names = Names::of(to);
        if names.are_in(&self.policy.guests) {
            return Err(Refusal::OtherGuest);
        }
        if names.meet(&self.policy.deny, port) {
            return Err(Refusal::Denied);
        }
        if names.meet(&self.policy.allow, port) {
            return Ok(Route::Out);
        }
        if names.are_in(&self.policy.host) {
            return Err(Refusal::Host);
        }
        if self.opened.is_open(to, packet, now) {
            return Ok(Route::Out);
        }
        match class {
            Class::LinkLocal => Err(Refusal::LinkLocal),
            Class::Carrier => Err(Refusal::Carrier),
            _ if self.policy.offline => Err(Refusal::Offline),
            _ if self.policy.lan => Ok(Route::Out),
            Class::Private => Err(Refusal::Lan),
            _ if names.are_in(&self.policy.on_link) => Err(Refusal::Lan),
            _ => Ok(Route::Out),
        }
    }

    fn is_guest(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.policy.v4.is_some_and(|ends| ends.guest == address),
            IpAddr::V6(address) => self.policy.v6.is_some_and(|ends| ends.guest == address),
        }
    }

    fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.policy.v4.is_some_and(|ends| ends.gateway == address),
            IpAddr::V6(address) => self.policy.v6.is_some_and(|ends| ends.gateway == address),
        }
    }

    fn refuse(&mut self, refusal: Refusal, packet: Option<&Packet>, now: Instant) -> Verdict {
        self.journal.open().note(refusal, packet, now);
        Verdict::Drop
    }
}

/// A destination, and what a translator makes of it: whoever names one of them in a rule means both.
#[derive(Clone, Copy)]
struct Names(IpAddr, Option<IpAddr>);

impl Names {
    fn of(address: IpAddr) -> Self {
        Self(address, class::translated(address))
    }

    fn any(self, test: impl Fn(IpAddr) -> bool) -> bool {
        test(self.0) || self.1.is_some_and(test)
    }

    fn are_in(self, ranges: &[Cidr]) -> bool {
        self.any(|address| ranges.iter().any(|range| range.contains(address)))
    }

    fn meet(self, rules: &[Rule], port: Option<u16>) -> bool {
        self.any(|address| rules.iter().any(|rule| rule.covers(address, port)))
    }
}

/// Where a packet goes.
enum Route {
    Out,
    Resolver,
}

#[cfg(test)]
mod tests;
