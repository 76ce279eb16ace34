//! What was refused: counted, and logged so that a person can see why something fails, at a rate that a
//! guest can't raise.

use std::{
    collections::VecDeque,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::{Packet, Transport};

/// Why a frame was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A header that is cut short, or states lengths that can't be.
    Malformed,
    /// Another source address on the link than the guest's.
    SourceMac,
    /// Another destination on the link than the gateway.
    Link,
    /// No IPv4, IPv6 or ARP: a VLAN tag, a bridge's or a router's protocol, anything.
    EtherType,
    /// ARP or a neighbour solicitation in the name of another.
    Neighbour,
    /// Another source address than the guest's.
    Source,
    /// IPv4 options, source routes among them.
    Options,
    /// A fragment: its ports are in another one.
    Fragment,
    /// A transport protocol, or an IPv6 extension header, that is not TCP, UDP or ICMP.
    Protocol(u8),
    /// An ICMP message of a type that no client sends.
    Icmp(u8),
    /// The host's loopback interface, by any of its names.
    Loopback,
    /// One of the host's own addresses.
    Host,
    /// A private network, or one that the host is on.
    Lan,
    /// A link-local address: neighbours, a cloud's metadata service.
    LinkLocal,
    /// A carrier's range, where overlay networks live, too.
    Carrier,
    /// A group.
    Multicast,
    /// A range that hides an IPv4 address: v4-mapped, 6to4, Teredo.
    Tunnel,
    /// A range that is not in use, broadcast among them.
    Reserved,
    /// The gateway itself, but for names.
    Gateway,
    /// Another guest.
    OtherGuest,
    /// What no rule allows, with `--offline`.
    Offline,
    /// What a `--deny` closes.
    Denied,
    /// Offloads that were not agreed on, or that do not fit the packet.
    Offload,
}

const KINDS: usize = 23;

impl Refusal {
    /// Each, once.
    pub const ALL: [Self; KINDS] = [
        Self::Malformed,
        Self::SourceMac,
        Self::Link,
        Self::EtherType,
        Self::Neighbour,
        Self::Source,
        Self::Options,
        Self::Fragment,
        Self::Protocol(0),
        Self::Icmp(0),
        Self::Loopback,
        Self::Host,
        Self::Lan,
        Self::LinkLocal,
        Self::Carrier,
        Self::Multicast,
        Self::Tunnel,
        Self::Reserved,
        Self::Gateway,
        Self::OtherGuest,
        Self::Offline,
        Self::Denied,
        Self::Offload,
    ];

    fn index(self) -> usize {
        let plain = match self {
            Self::Protocol(_) => Self::Protocol(0),
            Self::Icmp(_) => Self::Icmp(0),
            other => other,
        };
        Self::ALL.iter().position(|&kind| kind == plain).unwrap_or(0)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed",
            Self::SourceMac => "not from the guest's Ethernet address",
            Self::Link => "not to the gateway's Ethernet address",
            Self::EtherType => "neither IP nor ARP",
            Self::Neighbour => "speaks for another on the link",
            Self::Source => "not from the guest's address",
            Self::Options => "IPv4 options",
            Self::Fragment => "a fragment",
            Self::Protocol(number) => return write!(f, "protocol or extension header {number}"),
            Self::Icmp(kind) => return write!(f, "ICMP type {kind}"),
            Self::Loopback => "the host's loopback",
            Self::Host => "the host itself",
            Self::Lan => "a local network (--lan opens it)",
            Self::LinkLocal => "a link-local address",
            Self::Carrier => "a carrier's range",
            Self::Multicast => "a multicast group",
            Self::Tunnel => "IPv4 in disguise, or a relay",
            Self::Reserved => "a reserved range",
            Self::Gateway => "the gateway, which only answers for names",
            Self::OtherGuest => "another virtual machine",
            Self::Offline => "not allowed, and --offline is set",
            Self::Denied => "closed by --deny",
            Self::Offload => "offloads that were not agreed on",
        })
    }
}

/// Lines that may be logged at once, and how often there is one more.
const BURST: u32 = 16;
const ONE_MORE: Duration = Duration::from_secs(2);

/// What was logged last is not logged again.
const REMEMBERED: usize = 16;

/// Lines that are kept for whoever asks later.
const KEPT: usize = 256;

/// A guest's [`Refusals`], which the device writes and whoever has another handle reads.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<Refusals>>);

impl Journal {
    /// What is in it. The device waits meanwhile.
    pub fn open(&self) -> MutexGuard<'_, Refusals> {
        // Counts and lines are whole whatever a reader did.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Counts up, from 1.
    pub number: u64,
    /// When it was said.
    pub time: SystemTime,
    /// What was refused, and why.
    pub text: String,
}

type Line = (Refusal, Option<(IpAddr, Option<u16>)>);

/// Counts of refused frames, by reason.
#[derive(Debug, Default)]
pub struct Refusals {
    counts: [u64; KINDS],
    lines: [Option<Line>; REMEMBERED],
    next: usize,
    /// How many of [`BURST`] are used up, and since when.
    used: u32,
    since: Option<Instant>,
    silent: u64,
    said: VecDeque<Entry>,
    last: u64,
}

impl Refusals {
    /// How many frames were refused for this reason; numbers in it do not matter.
    pub fn count(&self, refusal: Refusal) -> u64 {
        self.counts[refusal.index()]
    }

    /// How many frames were refused.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How many frames were refused for each reason, as in [`Refusal::ALL`].
    pub fn counts(&self) -> impl Iterator<Item = (Refusal, u64)> {
        Refusal::ALL.into_iter().zip(self.counts)
    }

    /// The last lines, at most 256, the oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.said.iter()
    }

    /// Says that something was refused that is no frame, at the same rate.
    pub fn say(&mut self, text: impl FnOnce() -> String, now: Instant) {
        if !self.may_log(now) {
            self.silent = self.silent.saturating_add(1);
            return;
        }
        let silent = match std::mem::take(&mut self.silent) {
            0 => String::new(),
            silent => format!(" ({silent} others were not logged)"),
        };
        let text = text() + &silent;
        log::info!("network: {text}");
        self.last += 1;
        if self.said.len() == KEPT {
            self.said.pop_front();
        }
        self.said.push_back(Entry { number: self.last, time: SystemTime::now(), text });
    }

    pub(super) fn note(&mut self, refusal: Refusal, packet: Option<&Packet>, now: Instant) {
        let count = &mut self.counts[refusal.index()];
        *count = count.saturating_add(1);
        let line = (refusal, packet.map(|packet| (packet.destination, packet.transport.port())));
        if self.lines.contains(&Some(line)) {
            return;
        }
        let before = self.last;
        let what = || match packet {
            Some(packet) => format!("refused {}: {refusal}", Headline(packet)),
            None => format!("refused a frame: {refusal}"),
        };
        self.say(what, now);
        if self.last == before {
            return;
        }
        self.lines[self.next % REMEMBERED] = Some(line);
        self.next = self.next.wrapping_add(1);
    }

    fn may_log(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let more = now.saturating_duration_since(since).as_millis() / ONE_MORE.as_millis();
        if more > 0 {
            self.used = self.used.saturating_sub(u32::try_from(more).unwrap_or(u32::MAX));
            self.since = Some(now);
        }
        let may = self.used < BURST;
        self.used += u32::from(may);
        may
    }
}

impl fmt::Display for Refusals {
    /// `12 frames refused: 8 a local network (--lan opens it), 4 a fragment`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} frames refused", self.total())?;
        let mut between = ": ";
        for (refusal, count) in Refusal::ALL.iter().zip(self.counts).filter(|(_, count)| *count > 0) {
            match refusal {
                Refusal::Protocol(_) => write!(f, "{between}{count} another protocol")?,
                Refusal::Icmp(_) => write!(f, "{between}{count} another ICMP type")?,
                _ => write!(f, "{between}{count} {refusal}")?,
            }
            between = ", ";
        }
        Ok(())
    }
}

/// A packet in a log line.
struct Headline<'a>(&'a Packet);

impl fmt::Display for Headline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = self.0.destination;
        match self.0.transport {
            Transport::Tcp { destination, .. } => write!(f, "TCP to {to} port {destination}"),
            Transport::Udp { destination, .. } => write!(f, "UDP to {to} port {destination}"),
            Transport::Icmp { .. } => write!(f, "ICMP to {to}"),
        }
    }
}
