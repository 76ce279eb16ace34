//! One stream of a command: its pipe or terminal here, and its connection to the host.
//!
//! Both ends are non-blocking and watched edge-triggered: whatever moves bytes goes on until one end would
//! block, and the next edge of that end calls it again. A write that would block stops the reading of its
//! source, so that back-pressure passes through.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_proto::{CommandId, Stream};
use rustix::event::epoll::EventFlags;
use rustix::net::Shutdown;
use rustix::termios::{LocalModes, SpecialCodeIndex};

use crate::flow::{Flow, Next, Stopped};

/// One stream of a command.
pub(crate) struct Link {
    pub(crate) command: CommandId,
    socket: OwnedFd,
    local: OwnedFd,
    terminal: bool,
    /// From the command to the host.
    up: Option<Flow>,
    /// From the host to the command.
    down: Option<Flow>,
    /// The command has ended, and its terminal is done when it has no more bytes at hand.
    ended: bool,
    /// The terminal was told of the end of its input.
    end_typed: bool,
}

impl Link {
    /// A link of two non-blocking ends.
    pub(crate) fn new(command: CommandId, stream: Stream, socket: OwnedFd, local: OwnedFd) -> Self {
        let up = (stream != Stream::Stdin).then(Flow::default);
        let down = matches!(stream, Stream::Stdin | Stream::Terminal).then(Flow::default);
        let terminal = stream == Stream::Terminal;
        Self { command, socket, local, terminal, up, down, ended: false, end_typed: false }
    }

    /// The connection to the host.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The agent's end of the pipe, or the master side of the terminal.
    pub(crate) fn local(&self) -> BorrowedFd<'_> {
        self.local.as_fd()
    }

    /// The master side of the command's terminal, if this is its link.
    pub(crate) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.then(|| self.local.as_fd())
    }

    /// The connection's state has changed.
    pub(crate) fn socket_event(&mut self, events: EventFlags) -> Next {
        // Both directions are closed: the host reads no more, and the command is to notice.
        if self.up.is_some() && events.intersects(EventFlags::HUP | EventFlags::ERR) {
            return Next::Close;
        }
        self.drive()
    }

    /// The pipe's or the terminal's state has changed.
    pub(crate) fn local_event(&mut self, events: EventFlags) -> Next {
        // The command has closed its standard input: the host is to notice.
        if !self.terminal && self.down.is_some() && events.contains(EventFlags::ERR) {
            return Next::Close;
        }
        self.drive()
    }

    /// The command has ended. Pipes live on for the command's children, as in a shell's pipeline; a terminal
    /// is hung up when the command's own output has been read from it.
    pub(crate) fn command_ended(&mut self) -> Next {
        if !self.terminal {
            return Next::Wait;
        }
        self.ended = true;
        self.down = None;
        self.drive()
    }

    /// Moves bytes both ways until nothing moves or the turn is over.
    pub(crate) fn drive(&mut self) -> Next {
        let down = self.drive_down();
        let up = self.drive_up();
        if self.up.is_none() && (self.down.is_none() || self.terminal) {
            return Next::Close;
        }
        if down == Next::Again || up == Next::Again { Next::Again } else { Next::Wait }
    }

    fn drive_up(&mut self) -> Next {
        let Some(flow) = &mut self.up else { return Next::Wait };
        match flow.advance(self.local.as_fd(), self.socket.as_fd()) {
            Stopped::SourceEmpty if self.ended => {}
            Stopped::SourceEmpty | Stopped::SinkFull => return Next::Wait,
            // Nobody has the terminal open. The command may do so again, and if it is about to exit, closing
            // the master would kill it before (SIGHUP).
            Stopped::SourceLost if self.terminal && !self.ended => return Next::Wait,
            Stopped::TurnOver => return Next::Again,
            Stopped::SourceEnded | Stopped::SourceLost | Stopped::SinkGone => {}
        }
        // The host may have gone already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
        self.up = None;
        Next::Wait
    }

    fn drive_down(&mut self) -> Next {
        let Some(flow) = &mut self.down else { return Next::Wait };
        match flow.advance(self.socket.as_fd(), self.local.as_fd()) {
            Stopped::SourceEmpty | Stopped::SinkFull => return Next::Wait,
            Stopped::TurnOver => return Next::Again,
            Stopped::SourceEnded if self.terminal && !self.end_typed => {
                self.end_typed = true;
                flow.append(&end_of_input(self.local.as_fd(), flow.last));
                return Next::Again;
            }
            // What is typed while nobody has the terminal open is lost.
            Stopped::SinkGone if self.terminal => {
                flow.discard();
                return Next::Again;
            }
            Stopped::SourceEnded | Stopped::SourceLost | Stopped::SinkGone => {}
        }
        self.down = None;
        Next::Wait
    }
}

/// What a person would type for the end of the input: the terminal's VEOF, Ctrl-D by default, and once more
/// in the middle of a line, where the first only hands the line over. Nothing for a program that reads
/// single keys: for it there is no such thing.
fn end_of_input(terminal: BorrowedFd<'_>, last: u8) -> Vec<u8> {
    match rustix::termios::tcgetattr(terminal) {
        Ok(modes) if modes.local_modes.contains(LocalModes::ICANON) => {
            let count = if matches!(last, b'\n' | b'\r') { 1 } else { 2 };
            vec![modes.special_codes[SpecialCodeIndex::VEOF]; count]
        }
        _ => Vec::new(),
    }
}
