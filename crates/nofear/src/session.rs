//! The conversation with the guest's agent, from its first connection to the command's end.
//!
//! The guest is hostile. Whatever it may send at this moment is a state of [`Session`]; anything else ends the
//! VM. Nothing here waits for the guest alone: signals, the VM's end and the standard streams wake the loop.
//!
//! The session is over when the command has ended *and* each of its output streams has: a child that the
//! command leaves in the background holds its output open, as it does in a shell's pipeline and with `ssh`.
//! (A terminal is closed by the agent with its command.) No byte is lost to a timer, and whoever does not
//! want to wait sends any signal.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use agent_proto::{CommandId, Configure, End, Run, Stdio, Step, Stream, ToAgent};
use anyhow::{Context, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use rustix::time::Timespec;
use vmm::Visitors;

use crate::control::server::{Guest, Server, Wish};
use crate::detach::Reporter;
use crate::exit;
use crate::frames::Connection;
use crate::gui::Windows;
use crate::gui::client::Client;
use crate::signals::{Insistence, Signals};
use crate::software::SoftwareWatch;
use crate::streams::{Event, Inbox, Pumps, Standard};
use crate::terminal::{self, Terminal};

use self::pulse::Pulse;

mod agent;
mod parting;
mod pulse;
mod windows;

#[cfg(test)]
mod tests;

/// The most connections that have not said hello: the control connection and three streams, and as many.
const MAX_GREETING: usize = 8;

/// How long the guest may take for what needs no work of the command: to connect the streams of a command
/// that has ended, or to end the VM after its agent has gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// After this much silence the user is told what can be done. No limit: a machine may be slow, and any signal
/// ends the VM before its command runs.
const LONG_START: Duration = Duration::from_secs(30);

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The command ran and ended.
    Command(End),
    /// It could not be started.
    NotStarted {
        /// What failed.
        step: Step,
        /// The guest's error number.
        errno: i32,
    },
    /// The user ended the VM by this signal.
    Signal(Signal),
}

/// The guest's own failure, for which the kernel's last messages may be the reason.
#[derive(Debug)]
pub struct GuestFailed(String);

impl fmt::Display for GuestFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl GuestFailed {
    fn because(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The agent sent what it must not.
    fn protocol(text: impl fmt::Display) -> Self {
        Self(format!("the guest's agent broke its protocol: {text}"))
    }

    /// The agent sent what is no message.
    fn unreadable() -> Self {
        Self("the guest's agent broke its protocol".into())
    }
}

/// What a session works with.
pub struct Session<'a> {
    /// Where the guest's connections come out.
    pub visitors: Visitors,
    /// The signals of this process.
    pub signals: &'a Signals,
    /// What the other threads tell.
    pub inbox: Inbox,
    /// The standard streams.
    pub pumps: Pumps,
    /// The terminal, if the command is to have one.
    pub terminal: Option<Terminal>,
    /// What the guest is to look like.
    pub configure: Configure,
    /// The command.
    pub run: Run,
    /// What tells that the host's software changes meanwhile.
    pub software: Option<SoftwareWatch>,
    /// Where other processes reach the VM, if they may.
    pub control: Option<Server>,
    /// The windows of the command, if it is to have any.
    pub windows: Option<Windows>,
    /// What clients of published ports wait for: it is made readable when the agent listens for them.
    pub published: Option<OwnedFd>,
    /// Who is told that the command runs.
    pub reporter: Option<Reporter>,
    /// Something of the guest lasts: after the command it writes everything back and powers off by itself.
    pub lasting: bool,
}

impl Session<'_> {
    /// Runs the command. Returns the windows' client, too, if it has not ended.
    ///
    /// # Errors
    ///
    /// [`GuestFailed`] when the guest ended before its command or broke the protocol; others for what the host
    /// refuses.
    pub fn conduct(self) -> (anyhow::Result<Ending>, Option<Client>) {
        let streams = match self.run.stdio {
            Stdio::Terminal(_) => vec![Stream::Terminal],
            Stdio::Pipes => vec![Stream::Stdin, Stream::Stdout, Stream::Stderr],
        };
        let open_outputs = streams.iter().filter(|stream| **stream != Stream::Stdin).count();
        let lasting = self.lasting;
        let mut conversation = Conversation {
            command: self.run.command,
            session: self,
            state: State::Booting,
            greeting: VecDeque::new(),
            control: None,
            unconnected: streams,
            open_outputs,
            lost_output: None,
            vm_ended: None,
            deadline: Some(Instant::now() + LONG_START),
            looked: Instant::now(),
            pulse: Pulse::new(),
            stop: None,
            warnings: 0,
            insistence: Insistence::default(),
        };
        let result = conversation.conduct();
        if let Some(server) = &mut conversation.session.control {
            let status = result.as_ref().map_or(exit::FAILED, |&ending| exit::status(ending, None, None).0);
            server.over(status);
        }
        let is_agent_there = conversation.control.is_some() && conversation.vm_ended.is_none();
        let is_parting = match conversation.stop {
            // The commands are told to end, too, if nothing of what they wrote lasts.
            Some(Stop::InOrder) => true,
            Some(Stop::AtOnce) => false,
            None => lasting,
        };
        // Before that, no command has written anything.
        let has_run = matches!(conversation.state, State::Running | State::Ended(_));
        let is_sane = !result.as_ref().is_err_and(|e| e.is::<GuestFailed>());
        if is_parting && has_run && is_agent_there && is_sane {
            conversation.part();
        }
        (result, conversation.session.windows.and_then(|windows| windows.client))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The agent has not said hello.
    Booting,
    /// The command has been sent, or what it needs is being started.
    Starting,
    Running,
    Ended(End),
}

/// What another process has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    InOrder,
    AtOnce,
}

struct Conversation<'a> {
    command: CommandId,
    session: Session<'a>,
    state: State,
    greeting: VecDeque<Connection>,
    control: Option<Connection>,
    /// The streams that the agent has not connected yet.
    unconnected: Vec<Stream>,
    /// The outputs that have not ended, connected or not.
    open_outputs: usize,
    /// An output that this process could not write.
    lost_output: Option<anyhow::Error>,
    vm_ended: Option<String>,
    deadline: Option<Instant>,
    /// When the deadline was looked at last.
    looked: Instant,
    pulse: Pulse,
    stop: Option<Stop>,
    warnings: u32,
    insistence: Insistence,
}

impl Conversation<'_> {
    fn conduct(&mut self) -> anyhow::Result<Ending> {
        loop {
            self.wait()?;
            self.hold_deadlines();
            while let Some(signal) = self.session.signals.next().context("read signals")? {
                if let Some(ending) = self.on_signal(signal)? {
                    return Ok(ending);
                }
            }
            self.session.inbox.clear();
            while let Some(event) = self.session.inbox.next() {
                self.on_event(event)?;
            }
            self.look_at_software();
            self.accept()?;
            self.greet()?;
            if let Some(ending) = self.listen()? {
                return Ok(ending);
            }
            if let Some(ending) = self.hear_client()? {
                return Ok(ending);
            }
            // Behind the agent's messages: what waits for the guest to be ready is not woken for again.
            if let Some(ending) = self.serve_others()? {
                return Ok(ending);
            }
            self.feel_pulse()?;
            if let Some(control) = &mut self.control {
                control.flush().context("write to the guest's agent")?;
            }
            if let Some(ending) = self.judge()? {
                return Ok(ending);
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) -> anyhow::Result<()> {
        let session = &self.session;
        let read = |descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN);
        let mut descriptors = vec![read(session.signals.as_fd()), read(session.inbox.as_fd())];
        if self.greeting.len() < MAX_GREETING {
            descriptors.push(read(session.visitors.as_fd()));
        }
        descriptors.extend(session.control.iter().flat_map(Server::descriptors).map(read));
        descriptors.extend(
            session
                .windows
                .iter()
                .filter_map(|windows| windows.client.as_ref())
                .map(|client| read(client.as_fd())),
        );
        descriptors.extend(session.software.iter().map(|watch| read(watch.as_fd())));
        if let Some(control) = &self.control {
            let write = if control.has_waiting() { PollFlags::OUT } else { PollFlags::empty() };
            descriptors.push(PollFd::from_borrowed_fd(control.as_fd(), PollFlags::IN | write));
        }
        descriptors.extend(self.greeting.iter().map(|connection| read(connection.as_fd())));
        let pulse = (self.state == State::Running).then(|| self.pulse.due()).flatten();
        let look = session.windows.as_ref().and_then(|windows| windows.look);
        let next = self.deadline.into_iter().chain(pulse).chain(look).min().filter(|_| !self.is_paused());
        let left = next.map(|next| next.saturating_duration_since(Instant::now()));
        let left = left.into_iter().chain(session.control.as_ref().and_then(Server::again)).min();
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e).context("wait for the guest"),
        }
    }

    fn is_paused(&self) -> bool {
        self.session.control.as_ref().is_some_and(Server::is_paused)
    }

    /// The time in which a guest is paused is not taken from what it has.
    fn hold_deadlines(&mut self) {
        let now = Instant::now();
        let passed = now.duration_since(std::mem::replace(&mut self.looked, now));
        if self.is_paused() {
            self.deadline = self.deadline.map(|deadline| deadline + passed);
            self.pulse.stood_still(passed);
        }
    }

    /// Says, once, that the host's software has changed.
    fn look_at_software(&mut self) {
        if self.session.software.as_ref().is_some_and(SoftwareWatch::has_changed) {
            self.session.software = None;
            log::warn!(
                "this machine's software was changed while the VM uses it: if a program in it misbehaves, start \
                 the VM anew"
            );
        }
    }

    /// Does what other processes of the user ask for.
    fn serve_others(&mut self) -> anyhow::Result<Option<Ending>> {
        let ready = matches!(self.state, State::Running | State::Ended(_)) && self.control.is_some();
        let guest = if ready { Guest::Ready } else { Guest::Starts };
        let hangs = self.pulse.is_lost();
        let serve = |server: &mut Server| server.serve(if hangs { Guest::Hangs } else { guest });
        let wishes = self.session.control.as_mut().map(serve).unwrap_or_default();
        for wish in wishes {
            match wish {
                Wish::Tell(message) => {
                    let taken = self.send(&message)?;
                    if let (false, ToAgent::Run(run), Some(server)) =
                        (taken, &*message, &mut self.session.control)
                    {
                        server.refused(run.command);
                    }
                }
                Wish::Stop { force } => {
                    log::info!("another process ends the VM");
                    self.stop = Some(if force { Stop::AtOnce } else { Stop::InOrder });
                    return Ok(Some(Ending::Signal(if force { Signal::KILL } else { Signal::TERM })));
                }
            }
        }
        Ok(None)
    }

    /// Whether the session is over.
    fn judge(&mut self) -> anyhow::Result<Option<Ending>> {
        let late = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        if let State::Ended(end) = self.state {
            if self.open_outputs == 0 {
                return match self.lost_output.take() {
                    Some(lost) => Err(lost),
                    None => Ok(Some(Ending::Command(end))),
                };
            }
            if self.unconnected.iter().all(|stream| *stream == Stream::Stdin) {
                self.deadline = None;
                return Ok(None);
            }
            ensure!(
                !late && self.vm_ended.is_none(),
                GuestFailed::because("the guest's agent did not connect the command's output")
            );
            return Ok(None);
        }
        if let Some(why) = self.vm_ended.take() {
            bail!(GuestFailed::because(format!("the VM ended before the command did: {why}")));
        }
        if late && self.state == State::Booting {
            self.deadline = None;
            let seconds = LONG_START.as_secs();
            log::warn!(
                "the guest has not answered for {seconds} s; Ctrl-C ends it, --console shows its kernel"
            );
            return Ok(None);
        }
        ensure!(!late, GuestFailed::because("the guest's agent has gone"));
        Ok(None)
    }

    fn on_signal(&mut self, signal: Signal) -> anyhow::Result<Option<Ending>> {
        match (signal, self.state) {
            (Signal::WINCH | Signal::CONT, _) => {
                if let (Some(terminal), State::Starting | State::Running) =
                    (&self.session.terminal, self.state)
                {
                    // The shell has set its own modes meanwhile.
                    if signal == Signal::CONT
                        && terminal::is_raw()
                        && let Err(e) = terminal.enter_raw_mode()
                    {
                        // SIGHUP and SIGCONT come together when the terminal has gone.
                        log::debug!("{e:#}");
                    }
                    let size = terminal.size();
                    self.send(&ToAgent::Resize { command: self.command, size })?;
                }
                Ok(None)
            }
            // Only its output is open.
            (_, State::Ended(end)) => Ok(Some(Ending::Command(end))),
            (_, State::Booting | State::Starting) => Ok(Some(Ending::Signal(signal))),
            (_, State::Running) => {
                if self.insistence.grows(signal) {
                    return Ok(Some(Ending::Signal(signal)));
                }
                let number = u8::try_from(signal.as_raw()).context("pass a signal on")?;
                self.send(&ToAgent::Signal { command: self.command, signal: number })?;
                Ok(None)
            }
        }
    }

    fn on_event(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::VmEnded(why) => self.vm_ended = Some(why),
            Event::PumpEnded(Standard::Input, Ok(())) => {}
            // The command has seen the end of its input, as if there were no more.
            Event::PumpEnded(Standard::Input, Err(e)) => log::warn!("read the standard input: {e}"),
            Event::PumpEnded(output, result) => {
                self.open_outputs = self.open_outputs.saturating_sub(1);
                if let Err(e) = result {
                    let lost = anyhow!(e).context(format!("write the {}", output.name()));
                    self.lost_output.get_or_insert(lost);
                }
            }
        }
        Ok(())
    }
}
