//! The session against the guest's real agent, which runs its commands on this machine.

use std::io;

use nofear_guest::agent::{Orphans, Ways, serve};

use super::*;

/// Runs a command through a session and the agent.
fn run(argv: &[&[u8]], stdio: Stdio, prepare: impl FnOnce(&mut Host)) -> Outcome {
    let mut host = Host::new(stdio);
    host.session.run.argv = argv.iter().map(|one| one.to_vec()).collect();
    host.session.run.env = vec![b"PATH=/usr/bin:/bin".to_vec()];
    host.session.run.cwd = Some(b"/".to_vec());
    prepare(&mut host);
    host.against(|door| {
        let mut control = hello(door, &Hello::Control { version: VERSION });
        let configure = read_frame(&mut control, MAX_TO_AGENT).unwrap();
        let Some(ToAgent::Configure(configure)) = configure else { panic!("{configure:?}") };
        let dial =
            |count| -> io::Result<Vec<OwnedFd>> { (0..count).map(|_| Ok(enter(door).into())).collect() };
        let ways = Ways { dial: &dial, listen: &|_| Err(io::ErrorKind::Unsupported.into()) };
        serve(control.into(), ways, &configure.user, &configure.published, Orphans::NotOurs).unwrap();
    })
}

fn shell(script: &str, prepare: impl FnOnce(&mut Host)) -> Outcome {
    run(&[b"sh", b"-c", script.as_bytes()], Stdio::Pipes, prepare)
}

fn no_input(host: &mut Host) {
    host.input = None;
}

fn status(outcome: Outcome) -> Ending {
    outcome.result.unwrap()
}

#[test]
fn the_commands_end_is_the_sessions() {
    assert_eq!(status(shell("exit 7", no_input)), Ending::Command(End::Exited(7)));
    assert_eq!(status(shell("kill -9 $$", no_input)), Ending::Command(End::Signaled(9)));
    let missing = run(&[b"nosuchprogram"], Stdio::Pipes, no_input);
    assert_eq!(status(missing), Ending::NotStarted { step: Step::Execute, errno: 2 });
    let forbidden = run(&[b"/etc/passwd"], Stdio::Pipes, no_input);
    assert_eq!(status(forbidden), Ending::NotStarted { step: Step::Execute, errno: 13 });
}

#[test]
fn input_comes_back_whole_and_its_end_is_passed_on() {
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n ^ n >> 7) as u8).collect();
    let sent = bytes.clone();
    let outcome = shell("cat; echo end >&2", |host| {
        let mut input = host.input.take().unwrap();
        thread::spawn(move || input.write_all(&sent).unwrap());
    });
    assert!(outcome.stdout == bytes);
    assert_eq!(outcome.stderr, b"end\n");
}

#[test]
fn arguments_arrive_byte_for_byte() {
    let long = vec![b'x'; 100_000];
    let odd: [&[u8]; 5] = [b"two\nlines", b"\"a\" 'b' $HOME `id` \\", b"\xff\xfe", b"", &long];
    let argv: Vec<&[u8]> = [&b"printf"[..], b"%s\\0"].into_iter().chain(odd).collect();
    let outcome = run(&argv, Stdio::Pipes, no_input);
    assert!(outcome.stdout == odd.iter().flat_map(|one| [*one, b"\0"].concat()).collect::<Vec<u8>>());
}

#[test]
fn output_of_a_child_in_the_background_is_waited_for() {
    let outcome = shell("(sleep 0.3; echo late) & echo early; exit 3", no_input);
    assert_eq!(outcome.stdout, b"early\nlate\n");
    assert_eq!(status(outcome), Ending::Command(End::Exited(3)));
}

#[test]
fn a_command_dies_of_output_that_nobody_reads() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let outcome = shell("yes; exit $?", |host| {
        no_input(host);
        let output = StandardStreams {
            input: leak(pipe().unwrap().0).as_fd(),
            output: leak(writer).as_fd(),
            error: leak(OwnedFd::from(host.stderr.try_clone().unwrap())).as_fd(),
        };
        host.session.pumps = Pumps::start(output, &host.notifier, || Ok(())).unwrap();
    });
    // The shell's status for SIGPIPE.
    assert_eq!(status(outcome), Ending::Command(End::Exited(128 + 13)));
}

#[test]
fn a_signal_reaches_the_command() {
    let outcome = shell("trap 'echo got; exit 9' TERM; while :; do sleep 0.05; done", |host| {
        let mut signals = host.signals.try_clone().unwrap();
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(1));
            signal(&mut signals, Signal::TERM);
        });
    });
    assert_eq!(outcome.stdout, b"got\n");
    assert_eq!(status(outcome), Ending::Command(End::Exited(9)));
}

#[test]
fn a_terminal_ends_with_its_command_whoever_still_has_it() {
    let stdio = Stdio::Terminal(TerminalSize { rows: 33, columns: 91 });
    let script = b"stty size; read line; echo \"<$line>\"; sleep 100 & exit 4";
    let outcome = run(&[b"sh", b"-c", script], stdio, |host| {
        host.input.as_mut().unwrap().write_all(b"keys\r").unwrap();
    });
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    assert!(text.contains("33 91\r\n") && text.contains("<keys>\r\n"), "{text:?}");
    assert_eq!(status(outcome), Ending::Command(End::Exited(4)));
}
