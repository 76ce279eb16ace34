//! What the guest's agent says, each thing checked against what it may say now, and what it is told.

use std::time::Instant;

use agent_proto::{CommandId, FromAgent, Hello, MAX_FROM_AGENT, Run, Stream, ToAgent, VERSION};
use anyhow::{Context, bail, ensure};

use super::{Conversation, Ending, GuestFailed, MAX_GREETING, PATIENCE, State};
use crate::frames::{Connection, Received};
use crate::streams::Standard;
use crate::text::printable;

/// The longest [`Hello`] frame, in bytes; a real one has at most 8.
const MAX_HELLO: usize = 64;

/// The most warnings of the agent that are shown.
const MAX_WARNINGS: u32 = 32;

/// The most frames of the agent that are handled before anything else gets its turn.
const TURN: u32 = 64;

impl Conversation<'_> {
    /// Takes the guest's new connections.
    pub(super) fn accept(&mut self) -> anyhow::Result<()> {
        while self.greeting.len() < MAX_GREETING {
            match self.session.visitors.accept() {
                Ok(socket) => self.greeting.push_back(Connection::new(socket)),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e).context("accept a connection of the guest"),
            }
        }
        Ok(())
    }

    /// Hears what the new connections are.
    pub(super) fn greet(&mut self) -> anyhow::Result<()> {
        for _ in 0..self.greeting.len() {
            let Some(mut connection) = self.greeting.pop_front() else { break };
            match connection.receive(MAX_HELLO).context(GuestFailed::unreadable())? {
                Received::Nothing => self.greeting.push_back(connection),
                Received::End => log::debug!("the guest opened a connection and said nothing"),
                Received::Message(Hello::Control { version }) => self.on_control(connection, version)?,
                Received::Message(Hello::Stream { command, stream }) => {
                    self.on_stream(connection, command, stream)?;
                }
            }
        }
        Ok(())
    }

    fn on_control(&mut self, connection: Connection, version: u32) -> anyhow::Result<()> {
        ensure!(
            version == VERSION,
            "the guest's agent speaks version {version} of the protocol and this program version {VERSION}: \
             install both from one build"
        );
        ensure!(self.state == State::Booting, GuestFailed::protocol("a second control connection"));
        log::info!("the guest's agent is there");
        self.control = Some(connection);
        self.state = State::Starting;
        self.deadline = None;
        self.send(&ToAgent::Configure(self.session.configure.clone()))?;
        match &self.session.windows {
            Some(windows) => {
                let server = windows.server.clone();
                ensure!(self.send(&ToAgent::Display(server))?, "the display server's arguments are too long");
            }
            None => self.start_command()?,
        }
        Ok(())
    }

    pub(super) fn start_command(&mut self) -> anyhow::Result<()> {
        // Moved, not copied: they can be as long as Linux allows.
        let argv = std::mem::take(&mut self.session.run.argv);
        let env = std::mem::take(&mut self.session.run.env);
        if let (Some(windows), Some(program)) = (&mut self.session.windows, argv.first()) {
            windows.program = printable(&String::from_utf8_lossy(program), 80);
        }
        let run = Run { argv, env, ..self.session.run.clone() };
        ensure!(self.send(&ToAgent::Run(run))?, "the arguments and the environment are too long");
        Ok(())
    }

    fn on_stream(
        &mut self,
        connection: Connection,
        command: CommandId,
        stream: Stream,
    ) -> anyhow::Result<()> {
        if command != self.command
            && let Some(server) = &mut self.session.control
        {
            if server.on_stream(command, stream, connection.into_socket()).is_err() {
                let what = format!("an unasked connection for {stream:?} of command {}", command.0);
                bail!(GuestFailed::protocol(what));
            }
            return Ok(());
        }
        let expected = self.unconnected.iter().position(|one| *one == stream);
        let (Some(at), true, true) = (expected, command == self.command, self.state != State::Booting) else {
            let what = format!("an unasked connection for {stream:?} of command {}", command.0);
            bail!(GuestFailed::protocol(what));
        };
        self.unconnected.remove(at);
        let socket = connection.into_socket();
        match stream {
            Stream::Stdin => self.session.pumps.connect(Standard::Input, socket),
            Stream::Stdout => self.session.pumps.connect(Standard::Output, socket),
            Stream::Stderr => self.session.pumps.connect(Standard::Error, socket),
            Stream::Terminal => {
                // Not before: until the command can have it, Ctrl-C is to end this program; nor after its end.
                if let (Some(terminal), State::Starting | State::Running) =
                    (&self.session.terminal, self.state)
                {
                    terminal.enter_raw_mode()?;
                }
                let both = socket.try_clone().context("share the terminal's connection")?;
                self.session.pumps.connect(Standard::Input, both);
                self.session.pumps.connect(Standard::Output, socket);
            }
        }
        Ok(())
    }

    /// Reads the agent's messages.
    pub(super) fn listen(&mut self) -> anyhow::Result<Option<Ending>> {
        let mut turn = 0;
        // After the VM's end no more can come, and what has come counts.
        while turn < TURN || self.vm_ended.is_some() {
            turn += 1;
            let Some(control) = &mut self.control else { break };
            let received = control.receive(MAX_FROM_AGENT).context(GuestFailed::unreadable())?;
            match received {
                Received::Nothing => break,
                Received::End => {
                    self.control = None;
                    if !matches!(self.state, State::Ended(_)) {
                        // The kernel most likely dies of it; then the VM's end tells more.
                        self.deadline = Some(Instant::now() + PATIENCE);
                    }
                }
                Received::Message(message) => {
                    if let Some(ending) = self.on_message(message)? {
                        return Ok(Some(ending));
                    }
                }
            }
        }
        Ok(None)
    }

    fn on_message(&mut self, message: FromAgent) -> anyhow::Result<Option<Ending>> {
        match (message, self.state) {
            (FromAgent::Started { command }, State::Starting) if command == self.command => {
                self.state = State::Running;
                if let Some(windows) = &mut self.session.windows {
                    windows.look = Some(Instant::now() + windows.patience);
                }
                if let Some(hold) = self.session.published.take() {
                    rustix::io::write(&hold, &1_u64.to_ne_bytes()).context("open the published ports")?;
                }
                if let Some(reporter) = &mut self.session.reporter {
                    reporter.runs();
                }
            }
            (FromAgent::NotStarted { command, step, errno }, State::Starting) if command == self.command => {
                return Ok(Some(Ending::NotStarted { step, errno }));
            }
            (FromAgent::Ended { command, end }, State::Running) if command == self.command => {
                self.state = State::Ended(end);
                self.deadline = Some(Instant::now() + PATIENCE);
                // A guest that never closes the terminal's stream must not keep the user from Ctrl-C.
                if let Some(terminal) = &self.session.terminal
                    && let Err(e) = terminal.allow_signals()
                {
                    log::debug!("{e:#}");
                }
            }
            (FromAgent::Display(news), _) if self.session.windows.is_some() => self.on_display_news(news)?,
            (FromAgent::Pong, _) => self.on_pulse()?,
            (FromAgent::OpenUrl(url), _) => self.on_url(&url),
            (FromAgent::Warning(text), _) => {
                self.warnings = self.warnings.saturating_add(1);
                if self.warnings <= MAX_WARNINGS {
                    log::warn!("in the VM: {}", printable(&text, 300));
                } else if self.warnings == MAX_WARNINGS + 1 {
                    log::warn!("in the VM: more warnings are not shown");
                }
            }
            (message, _) if self.session.control.as_mut().is_some_and(|it| it.on_message(&message)) => {}
            (message, state) => {
                bail!(GuestFailed::protocol(format!("{message:?} while {state:?}")))
            }
        }
        Ok(None)
    }

    /// Queues a message for the agent. `false`: it takes none, and this one is lost.
    pub(super) fn send(&mut self, message: &ToAgent) -> anyhow::Result<bool> {
        let Some(control) = &mut self.control else { return Ok(true) };
        control.queue(message).context("write to the guest's agent")
    }
}
