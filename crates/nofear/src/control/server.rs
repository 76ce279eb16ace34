//! The VM's side of its control socket.
//!
//! A part of the session's loop: nothing here waits, but for CPUs to tell their registers, a second at most. A client is
//! a process of the same user, which has no more rights than the VM's own process; what it may not do is to make that
//! process wait or grow.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use agent_proto::{CommandId, FromAgent, Stdio, Stream, ToAgent};
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, send, sendmsg,
    sockopt::socket_peercred,
};
use rustix::process::{Signal, Uid};
use vmm::net::filter::Journal;

use self::console::Console;
use super::machine::{self, Machine};
use super::net;
use crate::text::printable;
use crate::{environment, json};

use super::protocol::{Ask, Event, LifeState, MAX_LINE, Request, Status, ToCommand, VERSION};

mod console;
#[cfg(test)]
pub(crate) mod tests;

/// The most clients at a time.
const MAX_CLIENTS: usize = 32;

/// The most commands that have not come to their end, whether who asked for them is still there or not: a guest that
/// never ends one, or leaves out a stream, must not make this process grow.
const MAX_COMMANDS: usize = 1024;

/// The most characters of a display's name.
const MAX_DISPLAY: usize = 80;

/// The most bytes that wait for a client to take them: the longest answer, a kernel's log of nothing but control
/// characters, and as much again.
const MOST_OUTPUT: usize = 1 << 20;

/// The most bytes taken from a client before anything else gets its turn.
const TURN: usize = 1 << 20;

/// What a client wants of the session.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    /// This message for the agent.
    Tell(Box<ToAgent>),
    /// The end of the VM.
    Stop {
        /// At once.
        force: bool,
    },
}

/// Whether the guest can be asked for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// Its agent is not there yet.
    Starts,
    /// Its agent takes commands.
    Ready,
    /// Its agent does not answer.
    Hangs,
}

/// The server.
pub struct Server {
    listener: UnixListener,
    /// Whose process this is: a confined thread can't ask.
    user: Uid,
    status: Status,
    /// The VM, once there is one.
    machine: Option<Box<dyn Machine>>,
    clients: BTreeMap<u64, Client>,
    next_client: u64,
    /// The commands that were asked for here.
    commands: BTreeMap<CommandId, Command>,
    next_command: u32,
    /// Variables that every command gets, each `NAME=value`, unless it has others.
    variables: Vec<Vec<u8>>,
    /// What the network's filter has refused; none: there is no network.
    journal: Option<Journal>,
    /// Clients have the serial port.
    is_watched: bool,
    /// Not all of its bytes could be moved.
    is_behind: bool,
}

struct Client {
    socket: UnixStream,
    /// What has come of the next line, and how much of it is known to hold no line's end.
    input: Vec<u8>,
    searched: usize,
    /// What it asked for, for as long as the guest is not ready for it.
    waiting: Option<Box<Ask>>,
    stage: Stage,
    console: Option<Console>,
    /// The display that it shows windows on.
    shows: Option<String>,
    /// What its socket had no room for.
    output: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its request has not come.
    Asking,
    /// It has been answered, or waits for the guest.
    Answered,
    /// It has a command.
    Commanding(CommandId),
    /// It waits for the end.
    Waiting,
    /// It has the serial port.
    Console,
}

struct Command {
    /// Who asked for it; none: it has gone.
    client: Option<u64>,
    /// The streams that the agent has not connected.
    unconnected: Vec<Stream>,
    life: Life,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Asked,
    Started,
    Ended,
}

impl Server {
    /// A server of `listener`, which is non-blocking. `first` is a command's number that nothing else uses, nor those
    /// behind it.
    pub fn new(listener: UnixListener, status: Status, first: CommandId) -> Self {
        Self {
            listener,
            user: rustix::process::getuid(),
            status,
            machine: None,
            clients: BTreeMap::new(),
            next_client: 0,
            commands: BTreeMap::new(),
            next_command: first.0,
            variables: Vec::new(),
            journal: None,
            is_watched: false,
            is_behind: false,
        }
    }

    /// There is a network, and this is written of it.
    pub fn set_journal(&mut self, journal: Journal) {
        self.journal = Some(journal);
    }

    /// From now on this is the VM.
    pub fn manage(&mut self, machine: impl Machine + 'static) {
        self.machine = Some(Box::new(machine));
    }

    /// Who showed the windows from the start has ended.
    pub fn forget_display(&mut self) {
        self.status.display = None;
    }

    /// What the VM is now. Who came last has the windows: Xpra's server has one client.
    fn status(&self) -> Status {
        let state = if self.is_paused() { LifeState::Paused } else { self.status.state };
        let shown = self.clients.values().rev().find_map(|client| client.shows.clone());
        let display = shown.or_else(|| self.status.display.clone());
        Status { state, display, ..self.status.clone() }
    }

    /// The VM, if there is one.
    pub fn machine(&self) -> Option<&dyn Machine> {
        self.machine.as_deref()
    }

    /// Whether its CPUs are stopped.
    pub fn is_paused(&self) -> bool {
        self.machine.as_ref().is_some_and(|machine| machine.is_paused())
    }

    /// Gives variables to the commands that are asked for here, each `NAME=value`.
    pub fn set_variables(&mut self, variables: Vec<Vec<u8>>) {
        self.variables = variables;
    }

    /// How soon it is to be served again, whatever comes.
    pub fn again(&self) -> Option<Duration> {
        self.is_behind.then_some(console::AGAIN)
    }

    /// What to poll for reading.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listener = (self.clients.len() < MAX_CLIENTS).then(|| self.listener.as_fd());
        let changed = self.is_watched.then(|| self.machine.as_ref()?.console_changed()).flatten();
        // What it has sent before waits for the guest.
        let clients = self.clients.values().filter(|client| !client.types_too_much());
        listener.into_iter().chain(changed).chain(clients.map(|client| client.socket.as_fd()))
    }

    /// Takes what clients have sent.
    pub fn serve(&mut self, guest: Guest) -> Vec<Wish> {
        let ready = guest != Guest::Starts;
        self.status.state = match guest {
            Guest::Starts => LifeState::Starting,
            Guest::Ready => LifeState::Running,
            Guest::Hangs => LifeState::Hung,
        };
        self.accept();
        let mut wishes = Vec::new();
        let ids: Vec<u64> = self.clients.keys().copied().collect();
        for id in ids {
            if let Err(e) = self.serve_client(id, ready, &mut wishes) {
                log::debug!("a control connection: {e}");
                self.drop_client(id, &mut wishes);
            }
        }
        self.send_on(&mut wishes);
        wishes
    }

    /// Sends what waits, and moves the bytes of the serial port.
    fn send_on(&mut self, wishes: &mut Vec<Wish>) {
        let machine = self.machine.as_deref();
        let (mut lost, mut watchers) = (Vec::new(), 0);
        self.is_behind = false;
        for (&id, client) in &mut self.clients {
            let carried = match (client.flush(), &mut client.console, machine) {
                (Ok(false), Some(console), Some(machine)) => {
                    console.carry(machine, &client.socket, &mut client.input)
                }
                (flushed, ..) => flushed,
            };
            watchers += usize::from(client.console.is_some());
            match carried {
                Ok(is_behind) => self.is_behind |= is_behind,
                Err(e) => {
                    log::debug!("a control connection: {e}");
                    lost.push(id);
                }
            }
        }
        if let Some(machine) = machine
            && self.is_watched != (watchers > 0)
        {
            self.is_watched = watchers > 0;
            machine.watch_console(self.is_watched);
            // What came before it was watched.
            self.is_behind |= self.is_watched;
        }
        for id in lost {
            self.drop_client(id, wishes);
        }
    }

    fn accept(&mut self) {
        while self.clients.len() < MAX_CLIENTS {
            let Ok((socket, _)) = self.listener.accept() else { return };
            // The folder's mode says the same; a mode can be changed.
            let is_user = socket_peercred(&socket).is_ok_and(|peer| peer.uid == self.user);
            if !is_user {
                log::warn!("a process of another user connected to the control socket, and was refused");
                continue;
            }
            let client = Client {
                socket,
                input: Vec::new(),
                searched: 0,
                waiting: None,
                stage: Stage::Asking,
                console: None,
                shows: None,
                output: Vec::new(),
            };
            self.clients.insert(self.next_client, client);
            self.next_client += 1;
        }
    }

    /// An error is the end of the client.
    fn serve_client(&mut self, id: u64, ready: bool, wishes: &mut Vec<Wish>) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        let open = client.types_too_much() || client.fill()?;
        let line = |client: &mut Client| if client.console.is_some() { None } else { client.line() };
        while let Some(line) = self.clients.get_mut(&id).and_then(line) {
            self.on_line(id, &line, wishes)?;
        }
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        if let Some(ask) = client.waiting.take_if(|_| ready) {
            self.on_ask(id, *ask, wishes)?;
        }
        if open { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn on_line(&mut self, id: u64, line: &[u8], wishes: &mut Vec<Wish>) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        match client.stage {
            Stage::Asking => {
                client.stage = Stage::Answered;
                match request(line) {
                    Ok(ask @ Ask::Exec(_)) => client.waiting = Some(Box::new(ask)),
                    Ok(ask) => self.on_ask(id, ask, wishes)?,
                    Err(text) => client.tell(&Event::Error { text }, None)?,
                }
            }
            Stage::Commanding(command) => {
                let message: ToCommand = serde_json::from_slice(line)?;
                let message = match message {
                    ToCommand::Signal(signal) => ToAgent::Signal { command, signal },
                    ToCommand::Resize(size) => ToAgent::Resize { command, size: size.into() },
                };
                wishes.push(Wish::Tell(Box::new(message)));
            }
            Stage::Answered | Stage::Waiting | Stage::Console => {
                let text = "a connection is for one request".into();
                client.tell(&Event::Error { text }, None)?;
            }
        }
        Ok(())
    }

    fn on_ask(&mut self, id: u64, ask: Ask, wishes: &mut Vec<Wish>) -> io::Result<()> {
        let is_paused = self.is_paused();
        let status = matches!(ask, Ask::Status).then(|| self.status());
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        match ask {
            Ask::NetLog { after } => {
                let event = match &self.journal {
                    Some(journal) => net::event(&journal.open(), after),
                    None => Event::Error { text: "it has no network".into() },
                };
                client.tell(&event, None)
            }
            Ask::Console if self.machine.is_some() => {
                client.tell(&Event::Console, None)?;
                client.stage = Stage::Console;
                client.console = Some(Console::new());
                Ok(())
            }
            Ask::Wait => {
                client.stage = Stage::Waiting;
                Ok(())
            }
            Ask::Status => status.map_or(Ok(()), |status| client.tell(&Event::Status(status), None)),
            Ask::Show { .. } if !self.status.windows => {
                client.tell(&Event::Error { text: "it has no windows".into() }, None)
            }
            Ask::Show { display } => {
                client.shows = Some(printable(&display, MAX_DISPLAY));
                client.tell(&Event::Done, None)
            }
            Ask::Stop { force } => {
                // A guest that stands still does not end.
                if let Some(machine) = self.machine.as_ref().filter(|_| !force) {
                    machine.resume();
                }
                wishes.push(Wish::Stop { force });
                client.tell(&Event::Stopping, None)
            }
            Ask::Exec(_) if self.commands.len() >= MAX_COMMANDS => {
                let text = format!("{MAX_COMMANDS} commands have not come to their end");
                client.tell(&Event::Error { text }, None)
            }
            Ask::Exec(_) if is_paused => {
                client.tell(&Event::Error { text: "it is paused ('nofear resume')".into() }, None)
            }
            Ask::Exec(exec) => {
                let command = CommandId(self.next_command);
                self.next_command += 1;
                client.stage = Stage::Commanding(command);
                let mut run = exec.into_run(command);
                environment::add(&mut run.env, &self.variables);
                let unconnected = match run.stdio {
                    Stdio::Terminal(_) => vec![Stream::Terminal],
                    Stdio::Pipes => vec![Stream::Stdin, Stream::Stdout, Stream::Stderr],
                };
                self.commands.insert(command, Command { client: Some(id), unconnected, life: Life::Asked });
                wishes.push(Wish::Tell(Box::new(ToAgent::Run(run))));
                Ok(())
            }
            ask => {
                let answer =
                    self.machine.as_deref().and_then(|vm| machine::answer(vm, self.status.memory, &ask));
                let starting = || Event::Error { text: "it has not started".into() };
                client.tell(&answer.unwrap_or_else(starting), None)
            }
        }
    }

    fn drop_client(&mut self, id: u64, wishes: &mut Vec<Wish>) {
        self.clients.remove(&id);
        for (&command, known) in self.commands.iter_mut().filter(|(_, known)| known.client == Some(id)) {
            known.client = None;
            let signal = u8::try_from(Signal::HUP.as_raw()).unwrap_or_default();
            wishes.push(Wish::Tell(Box::new(ToAgent::Signal { command, signal })));
        }
    }

    /// The VM's first command has ended, with this exit status, and the VM will.
    pub fn over(&mut self, status: u8) {
        for client in self.clients.values_mut().filter(|client| client.stage == Stage::Waiting) {
            let event = Event::Ended { status: Some(status), signal: None };
            if let Err(e) = client.tell(&event, None) {
                log::debug!("tell a control connection: {e}");
            }
        }
    }

    /// The agent did not take the message that starts a command.
    pub fn refused(&mut self, command: CommandId) {
        let Some(known) = self.commands.remove(&command) else { return };
        let text = "the arguments and the environment are too long".into();
        self.tell(known.client, &Event::Error { text }, None);
    }

    /// A stream of the agent's.
    ///
    /// # Errors
    ///
    /// Gives it back when nobody here has asked for it.
    pub fn on_stream(
        &mut self,
        command: CommandId,
        stream: Stream,
        socket: UnixStream,
    ) -> Result<(), UnixStream> {
        let Some(known) = self.commands.get_mut(&command) else { return Err(socket) };
        let Some(at) = known.unconnected.iter().position(|one| *one == stream) else { return Err(socket) };
        known.unconnected.remove(at);
        let client = known.client;
        self.tell(client, &Event::Stream { stream: stream.into() }, Some(socket.as_fd()));
        self.forget_if_over(command);
        Ok(())
    }

    /// A message of the agent's. `false`: it is about no command that was asked for here, or is not what comes next.
    pub fn on_message(&mut self, message: &FromAgent) -> bool {
        let (id, event) = match message {
            FromAgent::Started { command } => (*command, Event::Started),
            FromAgent::NotStarted { command, step, errno } => {
                (*command, Event::NotStarted { step: (*step).into(), errno: *errno })
            }
            FromAgent::Ended { command, end } => (*command, (*end).into()),
            FromAgent::Display(_) | FromAgent::OpenUrl(_) | FromAgent::Pong | FromAgent::Warning(_) => {
                return false;
            }
        };
        let Some(known) = self.commands.get_mut(&id) else { return false };
        let client = known.client;
        match event {
            Event::Started if known.life == Life::Asked => known.life = Life::Started,
            Event::NotStarted { .. } if known.life == Life::Asked => known.life = Life::Ended,
            // Streams that come later still go to the client.
            Event::Ended { .. } if known.life == Life::Started => known.life = Life::Ended,
            _ => return false,
        }
        self.tell(client, &event, None);
        self.forget_if_over(id);
        true
    }

    /// Forgets a command of which nothing more can come.
    fn forget_if_over(&mut self, id: CommandId) {
        let is_over = |known: &Command| known.life == Life::Ended && known.unconnected.is_empty();
        if self.commands.get(&id).is_some_and(is_over) {
            self.commands.remove(&id);
        }
    }

    fn tell(&mut self, client: Option<u64>, event: &Event, with: Option<BorrowedFd<'_>>) {
        let Some(id) = client else { return };
        let Some(client) = self.clients.get_mut(&id) else { return };
        if let Err(e) = client.tell(event, with) {
            // It is dropped when its connection is read next: that is where its command is hung up.
            log::debug!("tell a control connection: {e}");
            let _ = client.socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// What a first line asks for, or why it can't be done.
fn request(line: &[u8]) -> Result<Ask, String> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let unreadable = |e: serde_json::Error| format!("the request can't be read: {e}");
    let Versioned { version } = serde_json::from_slice(line).map_err(unreadable)?;
    if version != VERSION {
        return Err(format!("the request has version {version}, and this VM speaks version {VERSION}"));
    }
    serde_json::from_slice::<Request>(line).map(|request| request.ask).map_err(unreadable)
}

impl Client {
    fn types_too_much(&self) -> bool {
        self.console.is_some() && self.input.len() > console::MOST_KEYS
    }

    /// Takes what has come. `false`: no more will.
    fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = [0_u8; 16 << 10];
        let mut taken = 0;
        while taken < TURN {
            match recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Ok(false),
                Ok((n, _)) => {
                    taken += n;
                    self.input.extend_from_slice(&bytes[..n]);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(e) => return Err(e.into()),
            }
            if self.input.len() > MAX_LINE + TURN {
                return Err(io::Error::other("a line is too long"));
            }
        }
        Ok(true)
    }

    /// The next whole line, without its end.
    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.input[self.searched..].iter().position(|&byte| byte == b'\n');
        let Some(end) = end.map(|at| at + self.searched) else {
            self.searched = self.input.len();
            return None;
        };
        let rest = self.input.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.input, rest);
        line.pop();
        self.searched = 0;
        Some(line)
    }

    /// Sends a line, with a descriptor. What its socket has no room for waits, but not much of it: who does not take
    /// lines is at fault.
    fn tell(&mut self, event: &Event, with: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let line = json::line(event)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = with.map(|descriptor| [descriptor]);
        if let Some(descriptors) = &descriptors {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if !self.output.is_empty() && with.is_some() {
            return Err(io::Error::other("it takes no lines"));
        }
        let sent = match self.output.is_empty() {
            true => match sendmsg(&self.socket, &[IoSlice::new(&line)], &mut control, flags) {
                Err(Errno::AGAIN) if with.is_none() => 0,
                sent => sent?,
            },
            false => 0,
        };
        if self.output.len() + line.len() - sent > MOST_OUTPUT {
            return Err(io::Error::other("it takes no lines"));
        }
        self.output.extend_from_slice(&line[sent..]);
        Ok(())
    }

    /// Sends on what there was no room for. True: there is none yet.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.output.is_empty() {
            match send(&self.socket, &self.output, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(true),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(false)
    }
}
