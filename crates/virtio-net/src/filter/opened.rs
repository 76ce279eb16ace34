//! Destinations that are open for a time.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{Packet, Transport};

/// The most destinations at once. A guest can ask for names without end, so the one that ends first makes
/// room.
const MOST: usize = 4096;

/// The longest time, whatever an answer says.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// A connection that was opened in time lives on as long as it is not idle for so long.
const IDLE: Duration = Duration::from_secs(60 * 60);

#[derive(Clone, Copy, Debug)]
struct Times {
    /// For what begins.
    until: Instant,
    /// For what goes on.
    alive: Instant,
}

/// Destinations that are open for a time: an address, and a port or all.
#[derive(Debug, Default)]
pub(super) struct Opened(HashMap<(IpAddr, Option<u16>), Times>);

impl Opened {
    pub(super) fn open(&mut self, address: IpAddr, port: Option<u16>, now: Instant, time: Duration) {
        let key = (address, port);
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            self.0.retain(|_, times| times.alive > now);
            if self.0.len() >= MOST
                && let Some(first) = self.0.iter().min_by_key(|(_, times)| times.alive).map(|(&key, _)| key)
            {
                self.0.remove(&first);
            }
        }
        let until = now + time.min(LONGEST);
        let times = self.0.entry(key).or_insert(Times { until, alive: until });
        times.until = until.max(times.until);
        times.alive = until.max(times.alive);
    }

    /// Whether a packet may go there. A segment of a TCP connection that is there already may go after the
    /// time, too: whoever has no such connection drops it.
    pub(super) fn is_open(&mut self, address: IpAddr, packet: &Packet, now: Instant) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let goes_on = matches!(packet.transport, Transport::Tcp { opens: false, .. });
        [None, packet.transport.port()].iter().any(|&port| {
            let Some(times) = self.0.get_mut(&(address, port)) else { return false };
            if goes_on && times.alive > now {
                times.alive = times.alive.max(now + IDLE);
                return true;
            }
            times.until > now
        })
    }
}
