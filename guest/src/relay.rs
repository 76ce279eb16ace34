//! A connection of the host's, made one with a socket here: bytes go both ways until both sides have ended.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::net::Shutdown;

use crate::flow::{Flow, Next, Stopped};

/// What a relay is for: each has its own bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A client for windows.
    Display,
    /// A client of a published port.
    Published,
}

/// Two non-blocking sockets, watched edge-triggered as those of a [`Link`](crate::link::Link).
pub(crate) struct Relay {
    pub(crate) purpose: Purpose,
    host: OwnedFd,
    local: OwnedFd,
    up: Option<Flow>,
    down: Option<Flow>,
}

impl Relay {
    /// A relay of two non-blocking sockets.
    pub(crate) fn new(purpose: Purpose, host: OwnedFd, local: OwnedFd) -> Self {
        Self { purpose, host, local, up: Some(Flow::default()), down: Some(Flow::default()) }
    }

    /// The connection of the host's.
    pub(crate) fn host(&self) -> BorrowedFd<'_> {
        self.host.as_fd()
    }

    /// The socket here.
    pub(crate) fn local(&self) -> BorrowedFd<'_> {
        self.local.as_fd()
    }

    /// The connection of the host's has news.
    pub(crate) fn host_event(&mut self, events: EventFlags) -> Next {
        if is_lost(events) {
            self.up = None;
        }
        self.drive()
    }

    /// The socket here has news.
    pub(crate) fn local_event(&mut self, events: EventFlags) -> Next {
        if is_lost(events) {
            self.down = None;
        }
        self.drive()
    }

    /// Moves bytes both ways until nothing moves or the turn is over.
    pub(crate) fn drive(&mut self) -> Next {
        let down = drive(&mut self.down, self.host.as_fd(), self.local.as_fd());
        let up = drive(&mut self.up, self.local.as_fd(), self.host.as_fd());
        match (&self.up, &self.down) {
            (None, None) => Next::Close,
            _ if up || down => Next::Again,
            _ => Next::Wait,
        }
    }
}

/// Whether both directions are closed. What was sent before can still be read.
fn is_lost(events: EventFlags) -> bool {
    events.intersects(EventFlags::HUP | EventFlags::ERR)
}

/// True: its turn is over, and it has more.
fn drive(flow: &mut Option<Flow>, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let Some(running) = flow else { return false };
    match running.advance(from, to) {
        Stopped::SourceEmpty | Stopped::SinkFull => return false,
        Stopped::TurnOver => return true,
        Stopped::SourceEnded | Stopped::SourceLost | Stopped::SinkGone => {}
    }
    // Either may have gone already.
    let _ = rustix::net::shutdown(to, Shutdown::Write);
    let _ = rustix::net::shutdown(from, Shutdown::Read);
    *flow = None;
    false
}
