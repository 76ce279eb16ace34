//! The agent, in a thread of an ordinary process, with Unix sockets for vsock.
#![allow(clippy::unwrap_used, reason = "clippy knows only test functions as tests, not what they call")]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Duration;

use agent_proto::{
    CommandId, End, FromAgent, Hello, MAX_FROM_AGENT, MAX_TO_AGENT, Run, Stdio, Step, Stream, TerminalSize,
    ToAgent, User, read_frame, write_frame,
};
use nofear_guest::agent::{self, Orphans, Stop, Ways};

/// How long anything may take before the test counts as hung.
const PATIENCE: Duration = Duration::from_secs(60);

/// The host's side.
struct Host {
    control: UnixStream,
    messages: Receiver<FromAgent>,
    streams: Receiver<(Hello, UnixStream)>,
    agent: JoinHandle<Stop>,
    _folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host");
        let listener = UnixListener::bind(&path).unwrap();
        let (control, theirs) = UnixStream::pair().unwrap();
        let user = User {
            name: "me".into(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            home: "/".into(),
            shell: "/bin/sh".into(),
        };
        let agent = std::thread::spawn(move || {
            let dial = |count| (0..count).map(|_| Ok(OwnedFd::from(UnixStream::connect(&path)?))).collect();
            let listen = |_: u32| {
                let listener = UnixListener::bind(path.with_file_name("display"))?;
                listener.set_nonblocking(true)?;
                Ok(OwnedFd::from(listener))
            };
            let ways = Ways { dial: &dial, listen: &listen };
            agent::serve(theirs.into(), ways, &user, &[], Orphans::NotOurs).unwrap()
        });
        let (to_streams, streams) = mpsc::channel();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let hello = read_frame(&mut stream, MAX_FROM_AGENT).unwrap().unwrap();
                if to_streams.send((hello, stream)).is_err() {
                    break;
                }
            }
        });
        let (to_messages, messages) = mpsc::channel();
        let mut reader = control.try_clone().unwrap();
        std::thread::spawn(move || {
            while let Ok(Some(message)) = read_frame(&mut reader, MAX_FROM_AGENT) {
                if to_messages.send(message).is_err() {
                    break;
                }
            }
        });
        Self { control, messages, streams, agent, _folder: folder }
    }

    fn send(&mut self, message: &ToAgent) {
        write_frame(&mut self.control, message).unwrap();
    }

    fn message(&self) -> FromAgent {
        self.messages.recv_timeout(PATIENCE).unwrap()
    }

    fn stream(&self, command: u32, stream: Stream) -> UnixStream {
        let (hello, socket) = self.streams.recv_timeout(PATIENCE).unwrap();
        assert_eq!(hello, Hello::Stream { command: CommandId(command), stream });
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Starts a command with pipes; returns its standard input, output and error.
    fn start(&mut self, command: u32, argv: &[&str]) -> [UnixStream; 3] {
        self.send(&ToAgent::Run(run(command, argv)));
        assert_eq!(self.message(), FromAgent::Started { command: CommandId(command) });
        [Stream::Stdin, Stream::Stdout, Stream::Stderr].map(|stream| self.stream(command, stream))
    }

    fn start_terminal(&mut self, command: u32, argv: &[&str]) -> UnixStream {
        let stdio = Stdio::Terminal(TerminalSize { rows: 33, columns: 77 });
        self.send(&ToAgent::Run(Run { stdio, ..run(command, argv) }));
        assert_eq!(self.message(), FromAgent::Started { command: CommandId(command) });
        self.stream(command, Stream::Terminal)
    }

    fn end(&self, command: u32) -> End {
        match self.message() {
            FromAgent::Ended { command: CommandId(id), end } if id == command => end,
            other => panic!("{other:?} instead of the end of {command}"),
        }
    }

    /// Runs a command to its end, without input; returns its output and its end.
    fn output(&mut self, command: u32, argv: &[&str]) -> (String, End) {
        let [stdin, mut stdout, _stderr] = self.start(command, argv);
        drop(stdin);
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        (text, self.end(command))
    }

    fn refused(&mut self, run: Run) -> (Step, i32) {
        let id = run.command;
        self.send(&ToAgent::Run(run));
        match self.message() {
            FromAgent::NotStarted { command, step, errno } if command == id => (step, errno),
            other => panic!("{other:?}"),
        }
    }
}

fn run(command: u32, argv: &[&str]) -> Run {
    Run {
        command: CommandId(command),
        argv: argv.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        env: vec![b"PATH=/usr/bin:/bin".to_vec()],
        cwd: None,
        root: false,
        stdio: Stdio::Pipes,
    }
}

/// Bytes that repeat with no power of two.
fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

#[test]
fn status_and_signal_of_a_command_arrive() {
    let mut host = Host::new();
    assert_eq!(host.output(1, &["sh", "-c", "exit 7"]), (String::new(), End::Exited(7)));
    assert_eq!(host.output(2, &["sh", "-c", "kill -9 $$"]), (String::new(), End::Signaled(9)));
    assert_eq!(host.output(3, &["true"]), (String::new(), End::Exited(0)));
}

#[test]
fn arguments_environment_and_folder_arrive_unchanged() {
    let mut host = Host::new();
    let long = "x".repeat(100_000);
    let mut command =
        run(1, &["sh", "-c", r#"pwd; printf '%s|' "$@" "$ODD""#, "sh", "a\nb", "'\"$ \\", &long]);
    command.argv.push(b"\xff\xfe".to_vec());
    command.argv.push(Vec::new());
    command.env.push(b"ODD=\xc3\x28 =".to_vec());
    command.cwd = Some(b"/usr/bin".to_vec());
    host.send(&ToAgent::Run(command));
    assert_eq!(host.message(), FromAgent::Started { command: CommandId(1) });
    let [_stdin, mut stdout, _stderr] =
        [Stream::Stdin, Stream::Stdout, Stream::Stderr].map(|stream| host.stream(1, stream));
    let mut output = Vec::new();
    stdout.read_to_end(&mut output).unwrap();
    let expected =
        [b"/usr/bin\na\nb|'\"$ \\|", long.as_bytes(), b"|\xff\xfe||\xc3\x28 =|".as_slice()].concat();
    assert!(output == expected, "{} bytes, {} expected", output.len(), expected.len());
}

#[test]
fn what_can_not_be_started_says_why() {
    let mut host = Host::new();
    assert_eq!(host.refused(run(1, &["nosuchprogram"])), (Step::Execute, libc::ENOENT));
    assert_eq!(host.refused(run(2, &["/etc/passwd"])), (Step::Execute, libc::EACCES));
    assert_eq!(host.refused(run(3, &["/usr"])), (Step::Execute, libc::EACCES));
    assert_eq!(host.refused(run(4, &[""])), (Step::Execute, libc::ENOENT));
    assert_eq!(host.refused(run(5, &["a\0b"])), (Step::Execute, libc::EINVAL));
    let elsewhere = Run { cwd: Some(b"/nowhere".to_vec()), ..run(6, &["true"]) };
    assert_eq!(host.refused(elsewhere), (Step::WorkingDirectory, libc::ENOENT));
    assert!(host.streams.try_recv().is_err(), "a stream of a command that never ran");
}

#[test]
fn a_text_file_without_an_interpreter_is_run_by_the_shell() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, "echo \"$0 $1\"\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let script = script.to_str().unwrap();
    let (output, end) = Host::new().output(1, &[script, "one"]);
    assert_eq!((output, end), (format!("{script} one\n"), End::Exited(0)));
}

#[test]
fn no_arguments_mean_a_login_shell() {
    let mut host = Host::new();
    let [mut stdin, mut stdout, _stderr] = host.start(1, &[]);
    stdin.write_all(b"echo $0\n").unwrap();
    drop(stdin);
    let mut output = String::new();
    stdout.read_to_string(&mut output).unwrap();
    assert_eq!(output, "-sh\n");
}

#[test]
fn a_hundred_megabytes_pass_both_ways() {
    let mut host = Host::new();
    let [mut stdin, mut stdout, _stderr] = host.start(1, &["cat"]);
    let data = pattern(100_000_000);
    let copy = data.clone();
    let writer = std::thread::spawn(move || {
        stdin.write_all(&copy).unwrap();
        stdin.shutdown(Shutdown::Write).unwrap();
    });
    // A slow start, so that every buffer on the way fills up.
    std::thread::sleep(Duration::from_millis(300));
    let mut output = Vec::with_capacity(data.len());
    stdout.read_to_end(&mut output).unwrap();
    writer.join().unwrap();
    assert!(output == data);
    assert_eq!(host.end(1), End::Exited(0));
}

#[test]
fn the_two_outputs_stay_apart() {
    let mut host = Host::new();
    let [_stdin, mut stdout, mut stderr] = host.start(1, &["sh", "-c", "echo out; echo err >&2"]);
    let mut text = [String::new(), String::new()];
    stdout.read_to_string(&mut text[0]).unwrap();
    stderr.read_to_string(&mut text[1]).unwrap();
    assert_eq!(text, ["out\n", "err\n"]);
}

#[test]
fn a_command_that_reads_no_more_lets_the_host_notice() {
    let mut host = Host::new();
    let [mut stdin, mut stdout, _stderr] = host.start(1, &["sh", "-c", "exec <&-; echo closed; read x <&1"]);
    let mut line = [0; 7];
    stdout.read_exact(&mut line).unwrap();
    // Nothing was ever written, and still the connection closes.
    assert_eq!(stdin.read(&mut [0]).unwrap(), 0);
    assert!(stdin.write_all(&pattern(1 << 20)).is_err());
}

#[test]
fn a_host_that_reads_no_more_lets_the_command_notice() {
    let mut host = Host::new();
    let [_stdin, mut stdout, _stderr] = host.start(1, &["yes"]);
    stdout.read_exact(&mut [0; 4096]).unwrap();
    drop(stdout);
    assert_eq!(host.end(1), End::Signaled(libc::SIGPIPE as u8));
}

#[test]
fn output_of_a_background_child_outlives_the_command() {
    let mut host = Host::new();
    let [_stdin, mut stdout, _stderr] = host.start(1, &["sh", "-c", "(sleep 0.3; echo late) & echo early"]);
    assert_eq!(host.end(1), End::Exited(0));
    let mut output = String::new();
    stdout.read_to_string(&mut output).unwrap();
    assert_eq!(output, "early\nlate\n");
}

#[test]
fn a_signal_reaches_the_whole_process_group() {
    let mut host = Host::new();
    let [_stdin, mut stdout, _stderr] = host.start(1, &["sh", "-c", "echo up; sleep 60 | sleep 60"]);
    stdout.read_exact(&mut [0; 3]).unwrap();
    host.send(&ToAgent::Signal { command: CommandId(1), signal: libc::SIGTERM as u8 });
    assert_eq!(host.end(1), End::Signaled(libc::SIGTERM as u8));
    // The end of the output tells that the two sleeps have ended as well.
    assert_eq!(stdout.read(&mut [0]).unwrap(), 0);
    // Too late, and no harm.
    host.send(&ToAgent::Signal { command: CommandId(1), signal: libc::SIGTERM as u8 });
    assert_eq!(host.output(2, &["true"]).1, End::Exited(0));
}

#[test]
fn a_command_starts_with_default_signals_and_no_stray_descriptors() {
    let mut host = Host::new();
    let (output, _) = host.output(1, &["grep", "-E", "^(SigBlk|SigIgn):", "/proc/self/status"]);
    for line in output.lines() {
        let set = u64::from_str_radix(line.split('\t').nth(1).unwrap(), 16).unwrap();
        // 32 and 33 are the C library's own, which it refuses to touch; some test runners ignore them.
        assert_eq!(set & !(0b11 << 31), 0, "{line}");
    }
    // 3 is ls's own, on the folder.
    assert_eq!(host.output(2, &["ls", "/proc/self/fd"]).0, "0\n1\n2\n3\n");
    assert_eq!(host.output(3, &["sh", "-c", "umask; ulimit -Sn"]).0, "0022\n1024\n");
}

#[test]
fn a_terminal_has_its_size_and_is_the_controlling_one() {
    let mut host = Host::new();
    let mut terminal = host.start_terminal(1, &["sh", "-c", "stty size; tty </dev/tty; exit 3"]);
    let mut output = String::new();
    terminal.read_to_string(&mut output).unwrap();
    let mut lines = output.lines();
    assert_eq!(lines.next(), Some("33 77"));
    assert!(lines.next().unwrap().starts_with("/dev/"), "{output}");
    assert_eq!(host.end(1), End::Exited(3));
}

#[test]
fn a_new_size_and_keys_reach_the_foreground() {
    let mut host = Host::new();
    let script = "trap 'stty size' WINCH; trap 'echo int; exit 4' INT; echo up; while :; do sleep 0.05; done";
    let mut terminal = host.start_terminal(1, &["sh", "-c", script]);
    let mut seen = String::new();
    let mut until = |terminal: &mut UnixStream, what: &str| {
        while !seen.contains(what) {
            let mut bytes = [0; 256];
            let n = terminal.read(&mut bytes).unwrap();
            assert_ne!(n, 0, "{seen}");
            seen.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
        }
    };
    until(&mut terminal, "up");
    let size = TerminalSize { rows: 11, columns: 22 };
    host.send(&ToAgent::Resize { command: CommandId(1), size });
    until(&mut terminal, "11 22");
    terminal.write_all(b"\x03").unwrap();
    until(&mut terminal, "int");
    assert_eq!(host.end(1), End::Exited(4));
}

#[test]
fn the_last_output_of_a_terminal_is_not_lost_and_its_background_is_hung_up() {
    let mut host = Host::new();
    let script = "trap '' HUP; sleep 60 & seq 20000";
    let mut terminal = host.start_terminal(1, &["sh", "-c", script]);
    let mut output = String::new();
    // Ends although the sleep still has the terminal open.
    terminal.read_to_string(&mut output).unwrap();
    assert_eq!(output.lines().last(), Some("20000"));
    assert_eq!(output.lines().count(), 20_000);
    assert_eq!(host.end(1), End::Exited(0));
}

#[test]
fn the_end_of_the_input_is_typed_into_a_terminal() {
    let mut host = Host::new();
    let mut terminal = host.start_terminal(1, &["sh", "-c", "stty -echo; echo ready; exec cat"]);
    let mut bytes = [0; 7];
    terminal.read_exact(&mut bytes).unwrap();
    terminal.write_all(b"half a line").unwrap();
    terminal.shutdown(Shutdown::Write).unwrap();
    let mut output = String::new();
    terminal.read_to_string(&mut output).unwrap();
    assert_eq!(output, "half a line");
    assert_eq!(host.end(1), End::Exited(0));
}

#[test]
fn a_command_that_closes_its_terminal_lives_on_and_may_open_it_again() {
    let mut host = Host::new();
    let script = "exec </dev/null >/dev/null 2>&1; sleep 0.2; echo back >/dev/tty; sleep 0.2; exit 5";
    let mut terminal = host.start_terminal(1, &["sh", "-c", script]);
    let mut output = String::new();
    terminal.read_to_string(&mut output).unwrap();
    assert_eq!(output, "back\r\n");
    assert_eq!(host.end(1), End::Exited(5));
}

#[test]
fn a_lost_terminal_connection_hangs_the_command_up() {
    let mut host = Host::new();
    let terminal = host.start_terminal(1, &["sleep", "60"]);
    drop(terminal);
    assert_eq!(host.end(1), End::Signaled(libc::SIGHUP as u8));
}

#[test]
fn many_commands_run_at_once_and_their_number_is_bounded() {
    let mut host = Host::new();
    let mut inputs = Vec::new();
    for id in 0..agent::MAX_COMMANDS as u32 {
        let [stdin, stdout, stderr] = host.start(id, &["cat"]);
        inputs.push((stdin, stdout, stderr));
    }
    assert_eq!(host.refused(run(1000, &["cat"])), (Step::SetUp, libc::EAGAIN));
    drop(inputs);
    for _ in 0..agent::MAX_COMMANDS {
        assert!(matches!(host.message(), FromAgent::Ended { end: End::Exited(0), .. }));
    }
    assert_eq!(host.output(2000, &["echo", "free"]).0, "free\n");
}

#[test]
fn a_name_in_use_is_refused() {
    let mut host = Host::new();
    let _streams = host.start(1, &["cat"]);
    assert_eq!(host.refused(run(1, &["cat"])), (Step::SetUp, libc::EEXIST));
}

#[test]
fn shutdown_and_a_lost_host_end_the_agent() {
    let mut host = Host::new();
    let _streams = host.start(1, &["sleep", "0.1"]);
    host.send(&ToAgent::Shutdown);
    assert_eq!(host.agent.join().unwrap(), Stop::Asked);

    let host = Host::new();
    host.control.shutdown(Shutdown::Both).unwrap();
    assert_eq!(host.agent.join().unwrap(), Stop::HostGone);
}

#[test]
fn frames_may_come_in_pieces_and_together() {
    let mut host = Host::new();
    let mut bytes = Vec::new();
    for id in [1, 2] {
        write_frame(&mut bytes, &ToAgent::Run(run(id, &["nosuchprogram"]))).unwrap();
    }
    for byte in &bytes[..40] {
        host.control.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    host.control.write_all(&bytes[40..]).unwrap();
    for id in [1, 2] {
        let command = CommandId(id);
        assert_eq!(
            host.message(),
            FromAgent::NotStarted { command, step: Step::Execute, errno: libc::ENOENT }
        );
    }
}

#[test]
fn a_frame_that_is_too_long_ends_the_agent() {
    let mut host = Host::new();
    host.control.write_all(&(MAX_TO_AGENT as u32 + 1).to_le_bytes()).unwrap();
    assert!(host.agent.join().is_err(), "the agent went on");
}
