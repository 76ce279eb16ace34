//! The session against an agent that a thread plays on a Unix socket.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;

use agent_proto::{FromAgent, Hello, MAX_TO_AGENT, TerminalSize, User, VERSION, read_frame, write_frame};
use rustix::pipe::{PipeFlags, pipe, pipe_with};

use vmm::Door;

use super::*;

use crate::streams::{Notifier, StandardStreams, inbox};

mod controlled;
mod real_agent;
mod windowed;

const ID: CommandId = CommandId(1);

/// This side of a session: its streams, signals and socket.
struct Host {
    door: Door,
    input: Option<File>,
    signals: File,
    notifier: Notifier,
    stdout: File,
    stderr: File,
    session: Session<'static>,
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

impl Host {
    fn new(stdio: Stdio) -> Self {
        Self::with_output(stdio, tempfile::tempfile().unwrap())
    }

    fn with_output(stdio: Stdio, stdout: File) -> Self {
        let (door, visitors) = Door::new().unwrap();
        let (stdin, input) = pipe().unwrap();
        let (records, signals) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let stderr = tempfile::tempfile().unwrap();
        let streams = StandardStreams {
            input: leak(stdin).as_fd(),
            output: leak(OwnedFd::from(stdout.try_clone().unwrap())).as_fd(),
            error: leak(OwnedFd::from(stderr.try_clone().unwrap())).as_fd(),
        };
        let (notifier, inbox) = inbox().unwrap();
        let pumps = Pumps::start(streams, &notifier, || Ok(())).unwrap();
        let user = User { name: "u".into(), uid: 1, gid: 1, home: "/home/u".into(), shell: "/bin/sh".into() };
        let session = Session {
            visitors,
            signals: leak(Signals::from_records(records)),
            inbox,
            pumps,
            terminal: None,
            configure: Configure {
                hostname: "h".into(),
                user,
                shares: Vec::new(),
                time: (1, 2),
                machine_id: [7; 16],
                profile: None,
                network: None,
                published: Vec::new(),
            },
            run: Run {
                command: ID,
                argv: vec![b"prog\n\xff".to_vec(), vec![b'x'; 200_000]],
                env: Vec::new(),
                cwd: None,
                root: false,
                stdio,
            },
            software: None,
            control: None,
            windows: None,
            published: None,
            reporter: None,
            lasting: false,
        };
        Self { door, input: Some(input.into()), signals: signals.into(), notifier, stdout, stderr, session }
    }

    /// Runs the session against `agent`, and returns what came out.
    fn against<T: Send>(mut self, agent: impl FnOnce(&Door) -> T + Send) -> Outcome {
        let result = thread::scope(|scope| {
            let agent = scope.spawn(|| agent(&self.door));
            let result = self.session.conduct().0;
            drop(self.input.take());
            agent.join().unwrap();
            result
        });
        let text = |mut file: File| {
            let mut bytes = Vec::new();
            // What can't be rewound or read, as a pipe, is not looked at.
            let _ = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
            bytes
        };
        Outcome { result, stdout: text(self.stdout), stderr: text(self.stderr) }
    }
}

struct Outcome {
    result: anyhow::Result<Ending>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Outcome {
    fn error(self) -> String {
        format!("{:#}", self.result.unwrap_err())
    }
}

/// The guest's side.
struct Agent {
    door: Door,
    control: UnixStream,
}

impl Agent {
    /// Connects and takes the configuration and the command.
    fn start(door: &Door) -> Self {
        let mut agent = Self::connect(door);
        assert!(matches!(agent.receive(), Some(ToAgent::Configure(_))));
        assert!(matches!(agent.receive(), Some(ToAgent::Run(run)) if run.argv[1].len() == 200_000));
        agent
    }

    fn connect(door: &Door) -> Self {
        let control = hello(door, &Hello::Control { version: VERSION });
        Self { door: door.clone(), control }
    }

    fn receive(&mut self) -> Option<ToAgent> {
        read_frame(&mut self.control, MAX_TO_AGENT).unwrap()
    }

    fn send(&mut self, message: &FromAgent) {
        // The host may have ended the session already.
        let _ = write_frame(&mut self.control, message);
    }

    fn stream(&self, stream: Stream) -> UnixStream {
        hello(&self.door, &Hello::Stream { command: ID, stream })
    }

    fn pipes(&self) -> [UnixStream; 3] {
        [Stream::Stdin, Stream::Stdout, Stream::Stderr].map(|stream| self.stream(stream))
    }

    fn started(&mut self) {
        self.send(&FromAgent::Started { command: ID });
    }

    fn ended(&mut self, end: End) {
        self.send(&FromAgent::Ended { command: ID, end });
    }
}

/// A connection of the guest's.
fn enter(door: &Door) -> UnixStream {
    let stream = door.enter().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream
}

fn hello(door: &Door, hello: &Hello) -> UnixStream {
    let mut stream = enter(door);
    write_frame(&mut stream, hello).unwrap();
    stream
}

fn signal(to: &mut File, signal: Signal) {
    to.write_all(&Signals::record(signal)).unwrap();
}

#[test]
fn streams_are_separate_and_binary_and_the_status_is_the_commands() {
    let mut host = Host::new(Stdio::Pipes);
    let mut input = host.input.take().unwrap();
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 253) as u8).collect();
    let expected = sent.clone();
    let writer = thread::spawn(move || input.write_all(&sent).unwrap());
    let outcome = host.against(|door| {
        let mut agent = Agent::start(door);
        let [mut stdin, mut stdout, mut stderr] = agent.pipes();
        agent.started();
        let mut bytes = Vec::new();
        // Only ends because the host's end of input is passed on.
        stdin.read_to_end(&mut bytes).unwrap();
        stderr.write_all(b"\xff\0err").unwrap();
        agent.ended(End::Exited(7));
        // What comes after the end is output still.
        stdout.write_all(&bytes).unwrap();
    });
    writer.join().unwrap();
    assert_eq!(outcome.result.unwrap(), Ending::Command(End::Exited(7)));
    assert!(outcome.stdout == expected);
    assert_eq!(outcome.stderr, b"\xff\0err");
}

#[test]
fn bytes_right_behind_the_hello_are_the_streams() {
    let outcome = Host::new(Stdio::Pipes).against(|door| {
        let mut agent = Agent::start(door);
        let mut first = Vec::new();
        write_frame(&mut first, &Hello::Stream { command: ID, stream: Stream::Stdout }).unwrap();
        first.extend(b"at once");
        enter(door).write_all(&first).unwrap();
        drop(agent.stream(Stream::Stderr));
        agent.started();
        agent.ended(End::Exited(0));
    });
    assert_eq!(outcome.stdout, b"at once");
    assert_eq!(outcome.result.unwrap(), Ending::Command(End::Exited(0)));
}

#[test]
fn a_terminal_is_one_stream_both_ways() {
    let mut host = Host::new(Stdio::Terminal(TerminalSize { rows: 24, columns: 80 }));
    host.input.as_mut().unwrap().write_all(b"keys").unwrap();
    let outcome = host.against(|door| {
        let mut agent = Agent::start(door);
        let mut terminal = agent.stream(Stream::Terminal);
        agent.started();
        let mut keys = [0; 4];
        terminal.read_exact(&mut keys).unwrap();
        terminal.write_all(&keys).unwrap();
        agent.ended(End::Signaled(9));
    });
    assert_eq!(outcome.result.unwrap(), Ending::Command(End::Signaled(9)));
    assert_eq!(outcome.stdout, b"keys");
}

#[test]
fn after_the_commands_end_no_terminal_is_kept_from_the_user() {
    let _alone = terminal::tests::ALONE.lock();
    let mut host = Host::new(Stdio::Terminal(TerminalSize { rows: 24, columns: 80 }));
    host.session.terminal = Some(terminal::tests::terminal().0);
    let mut signals = host.signals.try_clone().unwrap();
    let outcome = host.against(move |door| {
        let mut agent = Agent::start(door);
        agent.started();
        agent.ended(End::Exited(3));
        thread::sleep(Duration::from_millis(200));
        // Late, and then held open for ever.
        let held = agent.stream(Stream::Terminal);
        thread::sleep(Duration::from_millis(200));
        let raw = terminal::is_raw();
        signal(&mut signals, Signal::INT);
        assert_eq!(agent.receive(), None);
        drop(held);
        assert!(!raw, "Ctrl-C would be a byte for the guest");
    });
    assert_eq!(outcome.result.unwrap(), Ending::Command(End::Exited(3)));
}

#[test]
fn output_that_nobody_reads_closes_the_guests_stream() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let outcome = Host::with_output(Stdio::Pipes, writer.into()).against(|door| {
        let mut agent = Agent::start(door);
        let [_, mut stdout, stderr] = agent.pipes();
        agent.started();
        // As `yes` does: until SIGPIPE.
        while stdout.write_all(&[b'y'; 4096]).is_ok() {}
        drop(stderr);
        agent.ended(End::Signaled(13));
    });
    assert_eq!(outcome.result.unwrap(), Ending::Command(End::Signaled(13)));
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let outcome = Host::with_output(Stdio::Pipes, full).against(|door| {
        let mut agent = Agent::start(door);
        let [_, mut stdout, _] = agent.pipes();
        agent.started();
        stdout.write_all(b"x").unwrap();
        agent.ended(End::Exited(0));
    });
    assert!(!outcome.result.as_ref().is_err_and(|e| e.is::<GuestFailed>()));
    let error = outcome.error();
    assert!(error.contains("standard output") && error.contains("No space"), "{error}");
}

#[test]
fn a_command_that_was_not_started_is_told_with_the_step() {
    let outcome = Host::new(Stdio::Pipes).against(|door| {
        let mut agent = Agent::start(door);
        agent.send(&FromAgent::NotStarted { command: ID, step: Step::Execute, errno: 2 });
    });
    assert_eq!(outcome.result.unwrap(), Ending::NotStarted { step: Step::Execute, errno: 2 });
}

#[test]
fn a_signal_is_passed_on_and_the_third_ends_the_vm() {
    let host = Host::new(Stdio::Pipes);
    let mut signals = host.signals.try_clone().unwrap();
    let outcome = host.against(move |door| {
        let mut agent = Agent::start(door);
        let _streams = agent.pipes();
        agent.started();
        // Until the host has seen that the command runs, a signal ends the session.
        thread::sleep(Duration::from_millis(200));
        for one in [Signal::HUP, Signal::INT, Signal::TERM] {
            signal(&mut signals, one);
            let number = u8::try_from(one.as_raw()).unwrap();
            assert_eq!(agent.receive(), Some(ToAgent::Signal { command: ID, signal: number }));
        }
        signal(&mut signals, Signal::INT);
        assert_eq!(agent.receive(), None);
    });
    assert_eq!(outcome.result.unwrap(), Ending::Signal(Signal::INT));
}

#[test]
fn a_signal_while_the_guest_boots_ends_the_session() {
    let mut host = Host::new(Stdio::Pipes);
    signal(&mut host.signals, Signal::TERM);
    assert_eq!(host.against(|_| {}).result.unwrap(), Ending::Signal(Signal::TERM));
}

#[test]
fn a_signal_after_the_commands_end_stops_the_wait_for_its_children() {
    let host = Host::new(Stdio::Pipes);
    let mut signals = host.signals.try_clone().unwrap();
    let outcome = host.against(move |door| {
        let mut agent = Agent::start(door);
        let streams = agent.pipes();
        agent.started();
        agent.ended(End::Exited(3));
        thread::sleep(Duration::from_millis(200));
        signal(&mut signals, Signal::INT);
        assert_eq!(agent.receive(), None);
        drop(streams);
    });
    assert_eq!(outcome.result.unwrap(), Ending::Command(End::Exited(3)));
}

#[test]
fn the_vms_end_before_the_commands_is_a_failure_that_says_why() {
    let host = Host::new(Stdio::Pipes);
    host.notifier.tell(Event::VmEnded("kernel panic".into()));
    let error = host.against(|_| {}).error();
    assert!(error.contains("kernel panic"), "{error}");
}

#[test]
fn what_the_agent_sent_before_the_vms_end_counts() {
    let host = Host::new(Stdio::Pipes);
    let notifier = host.notifier.clone();
    let outcome = host.against(move |door| {
        let mut agent = Agent::start(door);
        let streams = agent.pipes();
        agent.started();
        thread::sleep(Duration::from_millis(100));
        agent.ended(End::Exited(4));
        drop((streams, agent));
        notifier.tell(Event::VmEnded("power off".into()));
    });
    assert_eq!(outcome.result.unwrap(), Ending::Command(End::Exited(4)));
}

#[test]
fn an_agent_of_another_build_is_refused() {
    let outcome = Host::new(Stdio::Pipes).against(|door| {
        hello(door, &Hello::Control { version: VERSION + 1 });
    });
    assert!(outcome.error().contains("version"));
}

/// Runs an agent that has started the command and then does what it must not.
fn hostile(act: impl FnOnce(&mut Agent) + Send) -> String {
    let outcome = Host::new(Stdio::Pipes).against(|door| {
        let mut agent = Agent::start(door);
        act(&mut agent);
        // The host ends the session; an agent that got through would hang here.
        let _ = agent.control.read(&mut [0]);
    });
    assert!(outcome.result.as_ref().is_err_and(|e| e.is::<GuestFailed>()));
    let error = outcome.error();
    assert!(error.contains("protocol"), "{error}");
    error
}

#[test]
fn streams_that_were_not_asked_for_end_the_session() {
    hostile(|agent| drop(agent.stream(Stream::Terminal)));
    hostile(|agent| drop([agent.stream(Stream::Stdout), agent.stream(Stream::Stdout)]));
    hostile(|agent| {
        drop(hello(&agent.door, &Hello::Stream { command: CommandId(2), stream: Stream::Stdout }));
    });
}

#[test]
fn a_stream_before_the_control_connection_ends_the_session() {
    let outcome = Host::new(Stdio::Pipes).against(|door| {
        hello(door, &Hello::Stream { command: ID, stream: Stream::Stdout });
    });
    assert!(outcome.error().contains("protocol"));
}

#[test]
fn a_second_control_connection_ends_the_session() {
    hostile(|agent| drop(hello(&agent.door, &Hello::Control { version: VERSION })));
}

#[test]
fn messages_of_another_command_or_out_of_order_end_the_session() {
    hostile(|agent| agent.send(&FromAgent::Started { command: CommandId(0) }));
    hostile(|agent| agent.ended(End::Exited(0)));
    hostile(|agent| {
        agent.started();
        agent.started();
    });
    hostile(|agent| {
        agent.started();
        agent.send(&FromAgent::NotStarted { command: ID, step: Step::SetUp, errno: 1 });
    });
    hostile(|agent| {
        agent.started();
        agent.ended(End::Exited(0));
        agent.ended(End::Exited(1));
    });
}

#[test]
fn frames_that_are_too_long_or_garbage_end_the_session() {
    let error = hostile(|agent| agent.control.write_all(&u32::MAX.to_le_bytes()).unwrap());
    assert!(error.contains("limit"), "{error}");
    hostile(|agent| agent.control.write_all(&[1, 0, 0, 0, 0xee]).unwrap());
    hostile(|agent| agent.control.write_all(&[0, 0, 0, 0]).unwrap());
    hostile(|agent| enter(&agent.door).write_all(&[65, 0, 0, 0]).unwrap());
}

#[test]
fn connections_that_say_nothing_hold_up_nobody() {
    let outcome = Host::new(Stdio::Pipes).against(|door| {
        let silent: Vec<_> = (0..3).map(|_| enter(door)).collect();
        let mut agent = Agent::start(door);
        // Half a frame, and then silence.
        let mut half = enter(door);
        half.write_all(&[9, 0]).unwrap();
        drop(agent.pipes());
        agent.started();
        agent.ended(End::Exited(0));
        let _ = agent.control.read(&mut [0]);
        drop((silent, half));
    });
    assert_eq!(outcome.result.unwrap(), Ending::Command(End::Exited(0)));
}

#[test]
fn a_flood_of_warnings_is_taken_and_the_command_goes_on() {
    let outcome = Host::new(Stdio::Pipes).against(|door| {
        let mut agent = Agent::start(door);
        drop(agent.pipes());
        agent.started();
        for _ in 0..10_000 {
            agent.send(&FromAgent::Warning("\x1b[2J".repeat(50)));
        }
        agent.ended(End::Exited(5));
    });
    assert_eq!(outcome.result.unwrap(), Ending::Command(End::Exited(5)));
}

#[test]
fn a_guest_of_which_something_lasts_is_ended_in_order() {
    let mut host = Host::new(Stdio::Pipes);
    host.session.lasting = true;
    let notifier = host.notifier.clone();
    let outcome = host.against(|door| {
        let mut agent = Agent::start(door);
        let streams = agent.pipes();
        agent.started();
        agent.ended(End::Exited(3));
        drop(streams);
        assert_eq!(agent.receive(), Some(ToAgent::Shutdown));
        // What a guest may still say on its way down.
        agent.send(&FromAgent::Warning("x".into()));
        notifier.tell(Event::VmEnded("power off".into()));
    });
    assert_eq!(outcome.result.unwrap(), Ending::Command(End::Exited(3)));
}

#[test]
fn a_signal_ends_the_waiting_for_a_guest_that_does_not_end() {
    let mut host = Host::new(Stdio::Pipes);
    host.session.lasting = true;
    let mut signals = host.signals.try_clone().unwrap();
    let outcome = host.against(|door| {
        let mut agent = Agent::start(door);
        let streams = agent.pipes();
        agent.started();
        agent.ended(End::Exited(3));
        drop(streams);
        assert_eq!(agent.receive(), Some(ToAgent::Shutdown));
        signal(&mut signals, Signal::TERM);
        // Until the host closes its end.
        assert_eq!(agent.receive(), None);
    });
    assert_eq!(outcome.result.unwrap(), Ending::Command(End::Exited(3)));
}

#[test]
fn a_guest_that_has_not_started_the_command_is_not_waited_for() {
    let mut host = Host::new(Stdio::Pipes);
    host.session.lasting = true;
    let mut signals = host.signals.try_clone().unwrap();
    let outcome = host.against(|door| {
        let mut agent = Agent::start(door);
        signal(&mut signals, Signal::INT);
        assert_eq!(agent.receive(), None);
    });
    assert_eq!(outcome.result.unwrap(), Ending::Signal(Signal::INT));
}

#[test]
fn a_guest_that_broke_the_protocol_is_not_waited_for() {
    let mut host = Host::new(Stdio::Pipes);
    host.session.lasting = true;
    let outcome = host.against(|door| {
        let mut agent = Agent::start(door);
        agent.send(&FromAgent::Ended { command: CommandId(99), end: End::Exited(0) });
        assert_eq!(agent.receive(), None);
    });
    assert!(outcome.error().contains("protocol"));
}
