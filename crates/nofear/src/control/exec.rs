//! `nofear exec`: one more command in a VM that runs, with the streams, terminal and exit status of `nofear run`.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use agent_proto::End;
use anyhow::{Context, anyhow, bail};
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use super::client::{Channel, Vm};
use super::protocol::{self, Ask, StreamName, ToCommand};
use crate::environment::{Variable, environment};
use crate::session::Ending;
use crate::signals::{Insistence, Signals};
use crate::streams::{self, Inbox, Pumps, Standard, StandardStreams, inbox};
use crate::terminal::{self, Terminal};
use crate::{exit, user};

/// Options of `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The VM: its name, as 'nofear ps' shows it, or its profile's
    #[arg(value_name = "VM")]
    vm: String,

    /// The program and its arguments; a login shell if there is none
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    /// Set a variable of the program's environment; without a value, to the one it has here
    #[arg(short, long = "env", value_name = "NAME[=VALUE]",
          value_parser = OsStringValueParser::new().try_map(|text| Variable::parse(&text)))]
    env: Vec<Variable>,

    /// Working directory in the virtual machine [default: the home directory]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<OsString>,

    /// Run the program as root of the virtual machine, which is nobody here
    #[arg(long)]
    root: bool,
}

/// Runs the command, and returns the exit status.
pub fn run(args: ExecArgs) -> u8 {
    terminal::restore_on_panic();
    try_run(args).unwrap_or_else(|e| {
        log::error!("{e:#}");
        exit::FAILED
    })
}

fn try_run(args: ExecArgs) -> anyhow::Result<u8> {
    let vm = Vm::open(&args.vm)?;
    let user = user::current();
    let terminal = Terminal::of_standard_streams();
    let program = args.command.first().map(|program| program.display().to_string());
    let directory = args.workdir.as_ref().map(|directory| directory.display().to_string());
    let root = args.root || user.uid == 0;
    let env = environment(std::env::vars_os(), &user, root, terminal.is_some(), &args.env);
    let exec = protocol::Exec {
        argv: args.command.into_iter().map(|argument| argument.into_vec().into()).collect(),
        env: env.into_iter().map(Into::into).collect(),
        cwd: args.workdir.as_deref().map(OsStr::as_bytes).map(|path| path.to_vec().into()),
        root,
        terminal: terminal.as_ref().map(|terminal| terminal.size().into()),
    };
    // Threads that start from here on inherit the mask.
    let signals = Signals::block()?;
    let (notifier, inbox) = inbox()?;
    // They carry a guest's bytes and need nothing else, as in `nofear run`.
    let confine = || vmm::confine_thread(vmm::ThreadKind::Control).context("confine a thread");
    let pumps = Pumps::start(StandardStreams::of_process(), &notifier, confine)?;
    let channel = vm.ask(Ask::Exec(exec))?;
    channel.wait_for_ever()?;
    let open_outputs = if terminal.is_some() { 1 } else { 2 };
    let mut conversation = Conversation {
        channel: Some(channel),
        signals,
        inbox,
        pumps,
        terminal,
        open_outputs,
        lost_output: None,
        started: false,
        end: None,
        insistence: Insistence::default(),
    };
    let result = conversation.conduct();
    terminal::restore();
    let (status, message) = exit::status(result?, program.as_deref(), directory.as_deref());
    if let Some(message) = message {
        log::error!("{message}");
    }
    Ok(status)
}

struct Conversation {
    /// None: the VM has closed it.
    channel: Option<Channel>,
    signals: Signals,
    inbox: Inbox,
    pumps: Pumps,
    terminal: Option<Terminal>,
    /// The outputs that have not ended, connected or not.
    open_outputs: u32,
    lost_output: Option<anyhow::Error>,
    started: bool,
    end: Option<End>,
    insistence: Insistence,
}

impl Conversation {
    fn conduct(&mut self) -> anyhow::Result<Ending> {
        loop {
            self.wait()?;
            while let Some(signal) = self.signals.next().context("read signals")? {
                if let Some(ending) = self.on_signal(signal)? {
                    return Ok(ending);
                }
            }
            self.inbox.clear();
            while let Some(event) = self.inbox.next() {
                self.on_pump(event);
            }
            if let Some(ending) = self.listen()? {
                return Ok(ending);
            }
            if let Some(end) = self.end.filter(|_| self.open_outputs == 0) {
                return self.lost_output.take().map_or(Ok(Ending::Command(end)), Err);
            }
            if self.channel.is_none() && self.end.is_none() {
                bail!("the VM ended before the command did");
            }
        }
    }

    fn wait(&self) -> anyhow::Result<()> {
        let read = |descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN);
        let mut descriptors = vec![read(self.signals.as_fd()), read(self.inbox.as_fd())];
        descriptors.extend(self.channel.iter().map(|channel| read(channel.as_fd())));
        match poll(&mut descriptors, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e).context("wait for the VM"),
        }
    }

    /// Reads what the VM tells.
    fn listen(&mut self) -> anyhow::Result<Option<Ending>> {
        loop {
            let Some(channel) = &mut self.channel else { return Ok(None) };
            if !channel.has_buffered() && !has_come(channel)? {
                return Ok(None);
            }
            match channel.next()? {
                None => self.channel = None,
                Some(protocol::Event::Stream { stream }) => {
                    let socket = channel.stream()?;
                    self.on_stream(stream, socket)?;
                }
                Some(protocol::Event::Started) => self.started = true,
                Some(protocol::Event::NotStarted { step, errno }) => {
                    return Ok(Some(Ending::NotStarted { step: step.into(), errno }));
                }
                Some(protocol::Event::Ended { status, signal }) => {
                    self.end = Some(match (status, signal) {
                        (Some(status), _) => End::Exited(status),
                        (None, signal) => End::Signaled(signal.context("the VM told no end")?),
                    });
                    // A guest that never closes the terminal's stream must not keep the user from Ctrl-C.
                    if let Some(terminal) = &self.terminal
                        && let Err(e) = terminal.allow_signals()
                    {
                        log::debug!("{e:#}");
                    }
                }
                Some(protocol::Event::Error { text }) => bail!("the VM refused: {text}"),
                Some(event) => log::debug!("an event that nobody asked for: {event:?}"),
            }
        }
    }

    fn on_stream(
        &mut self,
        stream: StreamName,
        socket: std::os::unix::net::UnixStream,
    ) -> anyhow::Result<()> {
        match stream {
            StreamName::Stdin => self.pumps.connect(Standard::Input, socket),
            StreamName::Stdout => self.pumps.connect(Standard::Output, socket),
            StreamName::Stderr => self.pumps.connect(Standard::Error, socket),
            StreamName::Terminal => {
                if let Some(terminal) = self.terminal.as_ref().filter(|_| self.end.is_none()) {
                    terminal.enter_raw_mode()?;
                }
                let both = socket.try_clone().context("share the terminal's connection")?;
                self.pumps.connect(Standard::Input, both);
                self.pumps.connect(Standard::Output, socket);
            }
        }
        Ok(())
    }

    fn on_signal(&mut self, signal: Signal) -> anyhow::Result<Option<Ending>> {
        let message = match (signal, self.end) {
            (Signal::WINCH | Signal::CONT, _) => match &self.terminal {
                Some(terminal) => {
                    // The shell has set its own modes meanwhile.
                    if signal == Signal::CONT && terminal::is_raw() {
                        terminal.enter_raw_mode()?;
                    }
                    ToCommand::Resize(terminal.size().into())
                }
                None => return Ok(None),
            },
            // Only its output is open.
            (_, Some(end)) => return Ok(Some(Ending::Command(end))),
            _ if !self.started || self.insistence.grows(signal) => return Ok(Some(Ending::Signal(signal))),
            _ => ToCommand::Signal(u8::try_from(signal.as_raw()).context("pass a signal on")?),
        };
        if let Some(channel) = &mut self.channel {
            channel.send(&message)?;
        }
        Ok(None)
    }

    fn on_pump(&mut self, event: streams::Event) {
        match event {
            streams::Event::PumpEnded(Standard::Input, Ok(())) | streams::Event::VmEnded(_) => {}
            streams::Event::PumpEnded(Standard::Input, Err(e)) => log::warn!("read the standard input: {e}"),
            streams::Event::PumpEnded(output, result) => {
                self.open_outputs = self.open_outputs.saturating_sub(1);
                if let Err(e) = result {
                    self.lost_output
                        .get_or_insert(anyhow!(e).context(format!("write the {}", output.name())));
                }
            }
        }
    }
}

/// Whether something has come, or the connection ended.
fn has_come(channel: &Channel) -> anyhow::Result<bool> {
    let at_once = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut [PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN)], Some(&at_once)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(e).context("wait for the VM"),
    }
}
