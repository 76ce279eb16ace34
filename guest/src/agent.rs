//! The agent: does what the host's messages ask until the host ends it.
//!
//! One thread and one epoll instance: nothing here needs a lock, a new command costs no thread, and a
//! process with one thread can share its memory with a starting child (see `spawn`). A frame or a stream
//! that is slow to come or to go holds up nobody else; only the start of a program does, until the kernel
//! has found it.

mod command;
mod control;
mod display;
pub mod opener;
mod published;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use agent_proto::{CommandId, End, FromAgent, Published, Run, Step, ToAgent, User};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};
use rustix::time::Timespec;

use crate::Failure;
use crate::flow::Next;
use crate::kernel::last_errno;
use crate::link::Link;
use crate::memory::OutOfMemory;
use crate::relay::Relay;
use crate::spawn::NotStarted;
use command::Command;
use control::Control;
use display::Display;
use opener::Opener;
use published::{Flow, Port};

/// The most commands that run at once.
pub const MAX_COMMANDS: usize = 256;

/// The most streams that are open at once. Those of an ended command count while its children use them.
const MAX_LINKS: usize = 4 * MAX_COMMANDS;

/// What is watched of a descriptor that bytes go through.
const BOTH_WAYS: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

/// How the agent opens connections to the host: as many as it is told, at once.
pub type Dial<'a> = dyn Fn(usize) -> io::Result<Vec<OwnedFd>> + 'a;

/// How the agent makes the socket that the host's connections to a vsock port come to; it does not block.
pub type Listen<'a> = dyn Fn(u32) -> io::Result<OwnedFd> + 'a;

/// The ways between agent and host, beside the control connection.
#[derive(Clone, Copy)]
pub struct Ways<'a> {
    /// To the host.
    pub dial: &'a Dial<'a>,
    /// From the host.
    pub listen: &'a Listen<'a>,
}

/// Whether the process is where orphans go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphans {
    /// It is the first process: it reaps whatever child ends.
    Reaped,
    /// It is an ordinary process, which may have other children, and reaps its commands alone.
    NotOurs,
}

/// Why the agent has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The host asked for it.
    Asked,
    /// The control connection has ended.
    HostGone,
}

/// Serves the host on its control connection until it ends, after [`Hello`](agent_proto::Hello) and
/// [`Configure`](agent_proto::Configure). Commands run as `user`, or as root; in a process that is not root,
/// as itself. With [`Orphans::Reaped`] SIGCHLD must be blocked. Ports that are `published` are listened for before
/// the first message is read.
///
/// # Errors
///
/// When the kernel refuses what the agent can't do without, and for a frame from the host that is too
/// long or no [`ToAgent`].
pub fn serve(
    control: OwnedFd,
    ways: Ways<'_>,
    user: &User,
    published: &[Published],
    orphans: Orphans,
) -> Result<Stop, Failure> {
    let epoll =
        epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Failure::of("create an epoll instance"))?;
    let control = Control::new(control).map_err(Failure::of("set the control connection up"))?;
    epoll::add(&epoll, &control, Watched::Control.token(), BOTH_WAYS)
        .map_err(Failure::of("watch the host"))?;
    let children = match orphans {
        Orphans::NotOurs => None,
        Orphans::Reaped => Some(children_signal().map_err(Failure::of("watch for the end of processes"))?),
    };
    if let Some(children) = &children {
        epoll::add(&epoll, children, Watched::Children.token(), EventFlags::IN)
            .map_err(Failure::of("watch for the end of processes"))?;
    }
    let is_first = children.is_some();
    let mut agent = Agent {
        epoll,
        control,
        ways,
        user,
        children,
        commands: BTreeMap::new(),
        links: BTreeMap::new(),
        display: None,
        opener: None,
        relays: BTreeMap::new(),
        ports: Vec::new(),
        flows: BTreeMap::new(),
        next_link: 0,
        out_of_memory: is_first.then(OutOfMemory::default),
        unfinished: Vec::new(),
    };
    agent.publish(published);
    agent.serve()
}

/// What an epoll event is about.
#[derive(Clone, Copy)]
enum Watched {
    Control,
    Children,
    Command(CommandId),
    Socket(u32),
    Local(u32),
    DisplayWords,
    DisplayProcess,
    DisplayListener,
    RelayHost(u32),
    RelayLocal(u32),
    PortListener(u32),
    PortStream(u32),
    Flow(u32),
    Opener,
}

impl Watched {
    fn token(self) -> EventData {
        let (kind, number) = match self {
            Self::Control => (0, 0),
            Self::Children => (1, 0),
            Self::Command(CommandId(number)) => (2, number),
            Self::Socket(number) => (3, number),
            Self::Local(number) => (4, number),
            Self::DisplayWords => (5, 0),
            Self::DisplayProcess => (6, 0),
            Self::DisplayListener => (7, 0),
            Self::RelayHost(number) => (8, number),
            Self::RelayLocal(number) => (9, number),
            Self::PortListener(number) => (10, number),
            Self::PortStream(number) => (11, number),
            Self::Flow(number) => (12, number),
            Self::Opener => (13, 0),
        };
        EventData::new_u64(kind << 32 | u64::from(number))
    }

    fn of(token: EventData) -> Self {
        let number = token.u64() as u32;
        match token.u64() >> 32 {
            0 => Self::Control,
            1 => Self::Children,
            2 => Self::Command(CommandId(number)),
            3 => Self::Socket(number),
            4 => Self::Local(number),
            5 => Self::DisplayWords,
            6 => Self::DisplayProcess,
            7 => Self::DisplayListener,
            8 => Self::RelayHost(number),
            9 => Self::RelayLocal(number),
            10 => Self::PortListener(number),
            11 => Self::PortStream(number),
            12 => Self::Flow(number),
            _ => Self::Opener,
        }
    }
}

struct Agent<'a> {
    epoll: OwnedFd,
    control: Control,
    ways: Ways<'a>,
    user: &'a User,
    /// The SIGCHLD descriptor of the first process.
    children: Option<OwnedFd>,
    commands: BTreeMap<CommandId, Command>,
    links: BTreeMap<u32, Link>,
    display: Option<Display>,
    opener: Option<Opener>,
    relays: BTreeMap<u32, Relay>,
    /// Those that are published.
    ports: Vec<Port>,
    /// Their clients by UDP.
    flows: BTreeMap<u32, Flow>,
    /// The number of the next link or relay.
    next_link: u32,
    /// For the first process: another's memory is not the agent's concern.
    out_of_memory: Option<OutOfMemory>,
    /// Links and relays whose turn ended before their bytes did.
    unfinished: Vec<u32>,
}

impl Agent<'_> {
    fn serve(mut self) -> Result<Stop, Failure> {
        let mut events = Vec::with_capacity(64);
        loop {
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            let timeout = (!self.unfinished.is_empty()).then_some(&at_once);
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(Failure::of("wait for events")(e)),
            }
            for event in &events {
                let flags = event.flags;
                match Watched::of(event.data) {
                    Watched::Control => {
                        if let Some(stop) = self.serve_host()? {
                            return Ok(stop);
                        }
                    }
                    Watched::Children => self.reap_orphans(),
                    Watched::Command(id) => self.reap_command(id),
                    Watched::Socket(id) => self.with_link(id, |link| link.socket_event(flags)),
                    Watched::Local(id) => self.with_link(id, |link| link.local_event(flags)),
                    Watched::DisplayWords => self.hear_display(),
                    Watched::DisplayProcess => self.reap_display(),
                    Watched::DisplayListener => self.accept_client(),
                    Watched::Opener => self.hear_opener(),
                    Watched::RelayHost(id) => self.with_relay(id, |relay| relay.host_event(flags)),
                    Watched::RelayLocal(id) => self.with_relay(id, |relay| relay.local_event(flags)),
                    Watched::PortListener(port) => self.accept_for_port(port),
                    Watched::PortStream(port) => self.hear_stream(port),
                    Watched::Flow(id) => self.hear_flow(id),
                }
            }
            for id in std::mem::take(&mut self.unfinished) {
                self.with_link(id, Link::drive);
                self.with_relay(id, Relay::drive);
            }
            if self.control.flush().is_err() {
                return Ok(Stop::HostGone);
            }
        }
    }

    /// Does what the host's messages ask for.
    fn serve_host(&mut self) -> Result<Option<Stop>, Failure> {
        let open = self.control.fill();
        while let Some(message) = self.control.next().map_err(Failure::of("read a message of the host"))? {
            match message {
                ToAgent::Configure(_) => self.warn("the guest was configured already"),
                ToAgent::Display(wanted) => self.start_display(&wanted),
                ToAgent::Run(run) => self.run(&run),
                ToAgent::Signal { command, signal } => self.signal(command, signal),
                ToAgent::Resize { command, size } => {
                    if let Some(terminal) = self.terminal_of(command)
                        && let Err(e) = command::resize(terminal, size)
                    {
                        self.warn(&format!("resize the terminal of command {}: {e}", command.0));
                    }
                }
                ToAgent::Ping => self.control.send(&FromAgent::Pong),
                ToAgent::Shutdown => return Ok(Some(Stop::Asked)),
            }
        }
        Ok((!open).then_some(Stop::HostGone))
    }

    fn warn(&mut self, text: &str) {
        self.control.send(&FromAgent::Warning(text.to_owned()));
    }

    fn run(&mut self, run: &Run) {
        let command = run.command;
        let answer = match self.start(run) {
            Ok(()) => FromAgent::Started { command },
            Err(NotStarted { step, errno }) => {
                FromAgent::NotStarted { command, step, errno: errno.raw_os_error() }
            }
        };
        self.control.send(&answer);
    }

    fn start(&mut self, run: &Run) -> Result<(), NotStarted> {
        let set_up = NotStarted::at(Step::SetUp);
        if self.commands.len() >= MAX_COMMANDS || self.links.len() >= MAX_LINKS {
            return Err(set_up(Errno::AGAIN));
        }
        if self.commands.contains_key(&run.command) {
            return Err(set_up(Errno::EXIST));
        }
        let (command, streams) = command::start(run, self.user, self.ways.dial)?;
        let links =
            streams.into_iter().map(|(stream, socket, local)| Link::new(run.command, stream, socket, local));
        let added = epoll::add(
            &self.epoll,
            &command.process.pidfd,
            Watched::Command(run.command).token(),
            EventFlags::IN,
        )
        .and_then(|()| links.into_iter().try_for_each(|link| self.add_link(link)));
        if let Err(e) = added {
            command.kill_and_reap();
            self.links.retain(|_, link| link.command != run.command);
            return Err(set_up(e));
        }
        self.commands.insert(run.command, command);
        Ok(())
    }

    fn add_link(&mut self, link: Link) -> Result<(), Errno> {
        let id = self.fresh_number();
        epoll::add(&self.epoll, link.socket(), Watched::Socket(id).token(), BOTH_WAYS)?;
        epoll::add(&self.epoll, link.local(), Watched::Local(id).token(), BOTH_WAYS)?;
        self.links.insert(id, link);
        Ok(())
    }

    /// Watches a relay's sockets and keeps it.
    fn add_relay(&mut self, relay: Relay) -> Result<(), Errno> {
        let id = self.fresh_number();
        epoll::add(&self.epoll, relay.host(), Watched::RelayHost(id).token(), BOTH_WAYS)?;
        epoll::add(&self.epoll, relay.local(), Watched::RelayLocal(id).token(), BOTH_WAYS)?;
        self.relays.insert(id, relay);
        Ok(())
    }

    fn fresh_number(&mut self) -> u32 {
        let id = self.next_link;
        self.next_link = self.next_link.wrapping_add(1);
        id
    }

    /// Lets a link act, and does what it then needs.
    fn with_link(&mut self, id: u32, act: impl FnOnce(&mut Link) -> Next) {
        // An event of a link that an earlier event has closed.
        let Some(link) = self.links.get_mut(&id) else { return };
        match act(link) {
            Next::Wait => {}
            Next::Again => self.again(id),
            Next::Close => drop(self.links.remove(&id)),
        }
    }

    /// Lets a relay act, and does what it then needs.
    fn with_relay(&mut self, id: u32, act: impl FnOnce(&mut Relay) -> Next) {
        let Some(relay) = self.relays.get_mut(&id) else { return };
        match act(relay) {
            Next::Wait => {}
            Next::Again => self.again(id),
            Next::Close => drop(self.relays.remove(&id)),
        }
    }

    fn again(&mut self, id: u32) {
        if !self.unfinished.contains(&id) {
            self.unfinished.push(id);
        }
    }

    fn signal(&mut self, id: CommandId, signal: u8) {
        // One that has ended meanwhile has no use for it.
        let Some(command) = self.commands.get(&id) else { return };
        let sent = command.signal(self.terminal_of(id), signal);
        // ESRCH: ended, and not reaped yet.
        if let Err(e) = sent
            && e != Errno::SRCH
        {
            self.warn(&format!("send signal {signal} to command {}: {e}", id.0));
        }
    }

    fn terminal_of(&self, id: CommandId) -> Option<BorrowedFd<'_>> {
        self.links.values().find(|link| link.command == id).and_then(Link::terminal)
    }

    /// Reaps the children that no command is, and the commands among the others as they come.
    fn reap_orphans(&mut self) {
        if let Some(children) = &self.children {
            // Only empties the descriptor: many signals may have become one.
            let mut signal = [0_u8; size_of::<libc::signalfd_siginfo>()];
            let _ = rustix::io::read(children, &mut signal);
        }
        while let Some(pid) = ended_child() {
            if self.display.as_ref().is_some_and(|display| display.process.pid == pid) {
                self.reap_display();
                continue;
            }
            let command = self.commands.iter().find(|(_, command)| command.process.pid == pid);
            match command.map(|(id, _)| *id) {
                Some(id) => self.reap_command(id),
                None => {
                    let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
                }
            }
        }
    }

    fn reap_command(&mut self, id: CommandId) {
        let Some(command) = self.commands.get(&id) else { return };
        let end = match reap(command.process.pid) {
            Ok(Some(end)) => end,
            Ok(None) => return,
            Err(e) => {
                self.warn(&format!("learn how command {} ended: {e}", id.0));
                End::Exited(u8::MAX)
            }
        };
        self.commands.remove(&id);
        if end != End::Exited(0)
            && let Some(killed) = self.out_of_memory.as_mut().and_then(OutOfMemory::look)
        {
            self.warn(&killed);
        }
        self.control.send(&FromAgent::Ended { command: id, end });
        let links: Vec<u32> =
            self.links.iter().filter(|(_, link)| link.command == id).map(|(&link, _)| link).collect();
        for link in links {
            self.with_link(link, Link::command_ended);
        }
    }
}

/// How a child has ended, if it has.
fn reap(pid: Pid) -> Result<Option<End>, Errno> {
    let ended = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG)?;
    Ok(ended.and_then(|(_, status)| match (status.exit_status(), status.terminating_signal()) {
        (Some(status), _) => Some(End::Exited(status as u8)),
        (None, Some(signal)) => Some(End::Signaled(signal as u8)),
        (None, None) => None,
    }))
}

/// A child that has ended and is not reaped yet.
fn ended_child() -> Option<Pid> {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: all zeros is a valid `siginfo_t`; waitid() fills it, and leaves the pid zero when no child
    // has ended. (rustix's `waitid` does not tell the pid.)
    let pid = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        if libc::waitid(libc::P_ALL, 0, &raw mut info, options) != 0 {
            return None;
        }
        info.si_pid()
    };
    Pid::from_raw(pid)
}

/// A descriptor that is readable when a child has ended.
fn children_signal() -> Result<OwnedFd, Errno> {
    // SAFETY: a local, initialised set; signalfd() returns a new descriptor.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(last_errno()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}
