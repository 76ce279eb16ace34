//! Other processes at the session's control socket.

use std::os::unix::net::UnixListener;

use crate::control::client::Channel;
use crate::control::protocol::{Ask, Event, Exec, LifeState, Request, Status, StreamName, ToCommand};

use super::*;
use crate::control::server::tests::FakeVm;

const OTHER: CommandId = CommandId(2);

/// A session, and the folder of its control socket.
fn controlled() -> (tempfile::TempDir, Host) {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::new(Stdio::Pipes);
    let listener = UnixListener::bind(folder.path().join("control")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let status = Status {
        vm: "01234567".into(),
        profile: None,
        command: Vec::new(),
        state: LifeState::Starting,
        started: 0,
        memory: 0,
        cpus: 1,
        windows: false,
        display: None,
    };
    host.session.control = Some(Server::new(listener, status, OTHER));
    (folder, host)
}

fn ask(folder: &tempfile::TempDir, ask: Ask) -> Channel {
    let mut channel = Channel::new(UnixStream::connect(folder.path().join("control")).unwrap());
    channel.send(&Request::from(ask)).unwrap();
    channel
}

fn exec() -> Ask {
    Ask::Exec(Exec {
        argv: vec![b"other".to_vec().into()],
        env: Vec::new(),
        cwd: None,
        root: false,
        terminal: None,
    })
}

#[test]
fn a_command_that_another_process_asks_for_runs_beside_the_first() {
    let (folder, host) = controlled();
    let outcome = host.against(|door| {
        // Asked for before there is an agent, it waits.
        let mut channel = ask(&folder, exec());
        let mut agent = Agent::start(door);
        let [_stdin, stdout, stderr] = agent.pipes();
        agent.started();
        assert!(matches!(agent.receive(), Some(ToAgent::Run(run)) if run.command == OTHER && run.argv == [b"other"]));
        let mut theirs = hello(door, &Hello::Stream { command: OTHER, stream: Stream::Stdout });
        agent.send(&FromAgent::Started { command: OTHER });
        theirs.write_all(b"for the other process").unwrap();
        drop(theirs);
        let mut events = [channel.next().unwrap(), channel.next().unwrap()];
        events.sort_by_key(|event| *event == Some(Event::Started));
        assert_eq!(events, [Some(Event::Stream { stream: StreamName::Stdout }), Some(Event::Started)]);
        let mut text = String::new();
        channel.stream().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "for the other process");
        channel.send(&ToCommand::Signal(2)).unwrap();
        assert_eq!(agent.receive(), Some(ToAgent::Signal { command: OTHER, signal: 2 }));
        agent.send(&FromAgent::Ended { command: OTHER, end: End::Signaled(2) });
        assert_eq!(channel.next().unwrap(), Some(Event::Ended { status: None, signal: Some(2) }));
        // The first goes on, and its end is the session's.
        drop((stdout, stderr));
        agent.ended(End::Exited(5));
    });
    assert_eq!(outcome.result.unwrap(), Ending::Command(End::Exited(5)));
    assert!(outcome.stdout.is_empty());
}

#[test]
fn what_nobody_asked_for_ends_the_vm_with_others_there_too() {
    for lie in [
        FromAgent::Started { command: OTHER },
        FromAgent::Ended { command: CommandId(9), end: End::Exited(0) },
        FromAgent::Started { command: ID },
    ] {
        let (_folder, host) = controlled();
        let outcome = host.against(|door| {
            let mut agent = Agent::start(door);
            agent.started();
            agent.send(&lie);
            assert_eq!(agent.receive(), None);
        });
        assert!(outcome.error().contains("protocol"));
    }
    let (_folder, host) = controlled();
    let outcome = host.against(|door| {
        let mut agent = Agent::start(door);
        hello(door, &Hello::Stream { command: OTHER, stream: Stream::Stdout });
        assert_eq!(agent.receive(), None);
    });
    assert!(outcome.error().contains("unasked"));
}

#[test]
fn a_stop_asks_the_guest_and_a_forced_one_does_not() {
    for (force, signal) in [(false, Signal::TERM), (true, Signal::KILL)] {
        let (folder, host) = controlled();
        let notifier = host.notifier.clone();
        let outcome = host.against(|door| {
            let mut agent = Agent::start(door);
            agent.started();
            let mut channel = ask(&folder, Ask::Stop { force });
            assert_eq!(channel.next().unwrap(), Some(Event::Stopping));
            assert_eq!(channel.next().unwrap(), None);
            let expected = if force { None } else { Some(ToAgent::Shutdown) };
            assert_eq!(agent.receive(), expected);
            notifier.tell(crate::streams::Event::VmEnded("power off".into()));
        });
        assert_eq!(outcome.result.unwrap(), Ending::Signal(signal));
    }
}

#[test]
fn a_paused_guest_has_all_the_time_that_it_had() {
    let (folder, mut host) = controlled();
    host.session.control.as_mut().unwrap().manage(FakeVm::default());
    let outcome = host.against(|door| {
        let mut agent = Agent::start(door);
        let _streams = agent.pipes();
        agent.started();
        assert_eq!(ask(&folder, Ask::Pause).next().unwrap(), Some(Event::Done));
        // From now on it has a few seconds to end in order.
        drop(agent);
        thread::sleep(PATIENCE + Duration::from_secs(1));
        let Some(Event::Status(status)) = ask(&folder, Ask::Status).next().unwrap() else { panic!() };
        assert_eq!(status.state, LifeState::Paused);
        assert_eq!(ask(&folder, Ask::Resume).next().unwrap(), Some(Event::Done));
    });
    assert!(outcome.error().contains("agent has gone"));
}

#[test]
fn an_answer_that_nobody_asked_for_ends_the_vm() {
    let (_folder, host) = controlled();
    let outcome = host.against(|door| {
        let mut agent = Agent::start(door);
        let _streams = agent.pipes();
        agent.started();
        agent.send(&FromAgent::Pong);
        agent.receive();
    });
    assert!(outcome.error().contains("nobody asked"));
}
