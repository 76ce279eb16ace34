//! All connections: their names, their turns, and what the event loop watches of their sockets.

use std::{
    collections::{HashMap, VecDeque},
    os::fd::AsRawFd,
};

use virtio::{EventOps, EventSet, Events};

use crate::connection::{Connection, Ports};

/// The most connections at once; the guest's and the host's together.
pub const MAX_CONNECTIONS: usize = 512;

/// So many connections get much credit. All credit together is 8 MiB for these and 7.5 MiB for the rest.
const WIDE: usize = 32;
const WIDE_ROOM: u32 = 256 << 10;
const NARROW_ROOM: u32 = 16 << 10;

/// Each socket says once that something came; it is read until it is empty. So one that can't be read
/// now, for want of credit or of a buffer, costs no wake-up after wake-up.
const WATCHED: EventSet = EventSet::IN.union(EventSet::READ_HANG_UP).union(EventSet::EDGE_TRIGGERED);

/// A place in the table, and the data of its socket's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(pub u16);

/// Where a new connection goes, and the credit that comes with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vacancy {
    place: Place,
    pub room: u32,
}

#[derive(Debug)]
struct Entry {
    connection: Connection,
    /// In the line of those that have a packet for the guest.
    in_line: bool,
    /// The loop also waits for the socket to take bytes.
    watched_for_room: bool,
}

/// The connections of a driver's session.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: Vec<Option<Entry>>,
    names: HashMap<Ports, Place>,
    /// Whose turn it is to send to the guest.
    line: VecDeque<Place>,
}

impl Table {
    pub(crate) fn find(&self, ports: Ports) -> Option<Place> {
        self.names.get(&ports).copied()
    }

    pub(crate) fn get_mut(&mut self, place: Place) -> Option<&mut Connection> {
        self.entry(place).map(|entry| &mut entry.connection)
    }

    fn entry(&mut self, place: Place) -> Option<&mut Entry> {
        self.entries.get_mut(usize::from(place.0))?.as_mut()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.entries.iter().flatten().count()
    }

    /// The lowest free place, so that few connections all have much credit.
    pub(crate) fn vacancy(&self) -> Option<Vacancy> {
        let free = self.entries.iter().position(Option::is_none).unwrap_or(self.entries.len());
        let room = if free < WIDE { WIDE_ROOM } else { NARROW_ROOM };
        (free < MAX_CONNECTIONS).then_some(Vacancy { place: Place(free as u16), room })
    }

    /// Adds a connection where [`vacancy`](Self::vacancy) said; nothing is added when the event loop
    /// can't watch it.
    pub(crate) fn insert(
        &mut self,
        vacancy: Vacancy,
        connection: Connection,
        events: &mut EventOps,
    ) -> Result<(), event_manager::Error> {
        let place = vacancy.place;
        events.add(Events::with_data_raw(connection.socket().as_raw_fd(), u32::from(place.0), WATCHED))?;
        self.names.insert(connection.ports, place);
        let index = usize::from(place.0);
        if index >= self.entries.len() {
            self.entries.resize_with(index + 1, || None);
        }
        self.entries[index] = Some(Entry { connection, in_line: false, watched_for_room: false });
        self.settle(place, events);
        Ok(())
    }

    /// After anything happened to a connection: gives it its turn, watches its socket for room, or lets
    /// go of it.
    pub(crate) fn settle(&mut self, place: Place, events: &mut EventOps) {
        let Some(entry) = self.entry(place) else { return };
        if entry.connection.is_gone() {
            self.remove(place, events);
            return;
        }
        let blocked = entry.connection.is_blocked();
        if blocked != entry.watched_for_room {
            let set = if blocked { WATCHED | EventSet::OUT } else { WATCHED };
            let fd = entry.connection.socket().as_raw_fd();
            match events.modify(Events::with_data_raw(fd, u32::from(place.0), set)) {
                Ok(()) => entry.watched_for_room = blocked,
                Err(e) => {
                    log::debug!("vsock: can't watch a socket: {e}");
                    entry.connection.reset();
                }
            }
        }
        if entry.connection.has_packet() && !entry.in_line {
            entry.in_line = true;
            self.line.push_back(place);
        }
    }

    /// The guest has forgotten the connection: its name may be used again.
    pub(crate) fn forget(&mut self, place: Place) {
        if let Some(ports) = self.get_mut(place).map(|connection| connection.ports)
            && self.names.get(&ports) == Some(&place)
        {
            self.names.remove(&ports);
        }
    }

    /// Lets go of a connection and its socket.
    pub(crate) fn remove(&mut self, place: Place, events: &mut EventOps) {
        self.forget(place);
        let Some(entry) = self.entries.get_mut(usize::from(place.0)).and_then(Option::take) else { return };
        // Before the descriptor is closed: an event for a number that the loop does not know is fatal.
        let fd = entry.connection.socket().as_raw_fd();
        if let Err(e) = events.remove(Events::empty_raw(fd)) {
            log::debug!("vsock: can't stop watching a socket: {e}");
        }
        if entry.in_line {
            self.line.retain(|&other| other != place);
        }
    }

    /// Lets go of all.
    pub(crate) fn clear(&mut self, events: &mut EventOps) {
        for place in 0..self.entries.len() as u16 {
            self.remove(Place(place), events);
        }
    }

    /// Whether a connection has a packet for the guest.
    pub(crate) fn has_packets(&self) -> bool {
        !self.line.is_empty()
    }

    /// Takes the connection whose turn it is out of the line; [`settle`](Self::settle) puts it back at the
    /// end, if it has more.
    pub(crate) fn next(&mut self) -> Option<(Place, &mut Connection)> {
        let place = self.line.pop_front()?;
        let entry = self.entry(place)?;
        entry.in_line = false;
        Some((place, &mut entry.connection))
    }
}
