//! A command with windows: the agent's display server and the client's keeper are played here.

use agent_proto::{Display, DisplayNews};
use rustix::event::{EventfdFlags, eventfd};

use crate::gui::client::Client;
use crate::gui::keeper::{LOOK, News};

use super::*;

/// A session with windows, the keeper's end of the client's socket, and what the server's readiness is written to.
fn windowed() -> (Host, UnixStream, OwnedFd) {
    let mut host = Host::new(Stdio::Pipes);
    let (client, keeper) = UnixStream::pair().unwrap();
    let hold = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let argv = vec![b"xpra".to_vec()];
    let server = Display { beside: Vec::new(), opener: false, argv, env: Vec::new(), socket: "/s".into() };
    host.session.windows = Some(Windows {
        server,
        hold: hold.try_clone().unwrap(),
        client: Some(Client::kept_by_test(client)),
        keep: false,
        ready: false,
        lines: 0,
        last_words: String::new(),
        sound: false,
        program: String::new(),
        patience: Duration::from_secs(1000),
        look: None,
        opener: None,
    });
    (host, keeper, hold)
}

/// An agent that was asked for the display server.
fn asked(door: &Door) -> Agent {
    let mut agent = Agent::connect(door);
    assert!(matches!(agent.receive(), Some(ToAgent::Configure(_))));
    assert!(matches!(agent.receive(), Some(ToAgent::Display(display)) if display.argv == [b"xpra"]));
    agent
}

fn tell(agent: &mut Agent, news: DisplayNews) {
    agent.send(&FromAgent::Display(news));
}

/// An agent whose command runs.
fn running(door: &Door) -> Agent {
    let mut agent = asked(door);
    tell(&mut agent, DisplayNews::Ready);
    assert!(matches!(agent.receive(), Some(ToAgent::Run(_))));
    agent.started();
    agent
}

/// The agent is asked to end the VM, and does.
fn shuts_down(agent: &mut Agent, notifier: &Notifier) {
    assert_eq!(agent.receive(), Some(ToAgent::Shutdown));
    notifier.tell(Event::VmEnded("it was switched off".into()));
}

fn keeper_says(keeper: &mut UnixStream, news: &News) {
    keeper.write_all(format!("{}\n", serde_json::to_string(news).unwrap()).as_bytes()).unwrap();
}

#[test]
fn the_command_starts_when_its_display_is_ready_and_ends_the_session() {
    let (host, _keeper, hold) = windowed();
    let outcome = host.against(|door| {
        let mut agent = asked(door);
        let lifted = || rustix::io::read(&hold, &mut [0; 8]).is_ok();
        tell(&mut agent, DisplayNews::Said("starts".into()));
        agent.control.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        read_frame::<ToAgent>(&mut agent.control, MAX_TO_AGENT).unwrap_err();
        assert!(!lifted());
        agent.control.set_read_timeout(None).unwrap();
        tell(&mut agent, DisplayNews::Ready);
        assert!(matches!(agent.receive(), Some(ToAgent::Run(_))));
        assert!(lifted());
        agent.started();
        drop(agent.pipes());
        agent.ended(End::Exited(7));
    });
    assert_eq!(outcome.result.unwrap(), Ending::Command(End::Exited(7)));
}

#[test]
fn a_client_that_is_closed_ends_the_vm_in_order() {
    let (host, mut keeper, _) = windowed();
    let notifier = host.notifier.clone();
    let outcome = host.against(|door| {
        let mut agent = running(door);
        keeper_says(&mut keeper, &News::Exited(0));
        shuts_down(&mut agent, &notifier);
    });
    assert_eq!(outcome.result.unwrap(), Ending::Signal(Signal::TERM));
}

#[test]
fn the_keeper_is_asked_once_whether_a_window_is_shown() {
    let (mut host, mut keeper, _) = windowed();
    host.session.windows.as_mut().unwrap().patience = Duration::ZERO;
    let outcome = host.against(|door| {
        let mut agent = running(door);
        let mut byte = [0];
        keeper.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [LOOK]);
        // The answer ends nothing, and there is no other question.
        keeper_says(&mut keeper, &News::Shown(false));
        drop(agent.pipes());
        agent.ended(End::Exited(5));
    });
    assert_eq!(outcome.result.unwrap(), Ending::Command(End::Exited(5)));
    assert_eq!(keeper.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_command_that_is_to_be_kept_goes_on_without_its_client() {
    for news in [News::Exited(0), News::Signaled(9)] {
        let (mut host, mut keeper, _) = windowed();
        host.session.windows.as_mut().unwrap().keep = true;
        let outcome = host.against(|door| {
            let mut agent = running(door);
            keeper_says(&mut keeper, &news);
            drop(keeper);
            drop(agent.pipes());
            agent.ended(End::Exited(3));
        });
        assert_eq!(outcome.result.unwrap(), Ending::Command(End::Exited(3)));
    }
}

#[test]
fn a_client_that_crashes_or_disappears_is_an_error_with_its_last_words_and_ends_the_vm_in_order() {
    for (news, part) in [
        (Some(News::Signaled(11)), "was ended by signal 11: last \u{fffd}[2Jwords"),
        (Some(News::Exited(3)), "ended with status 3: last"),
        (Some(News::Failed("no such program".into())), "no such program"),
        (None, "has gone"),
    ] {
        let (host, mut keeper, _) = windowed();
        let notifier = host.notifier.clone();
        let outcome = host.against(|door| {
            let mut agent = running(door);
            keeper_says(&mut keeper, &News::Said("last \x1b[2Jwords".into()));
            if let Some(news) = &news {
                keeper_says(&mut keeper, news);
            }
            drop(keeper);
            shuts_down(&mut agent, &notifier);
        });
        let error = outcome.error();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_display_server_that_fails_is_an_error_that_says_why() {
    for (news, part) in [
        (vec![DisplayNews::NotStarted { step: Step::Execute, errno: 2 }], "could not execute Xpra"),
        (
            vec![
                DisplayNews::Said("ModuleNotFoundError: No module named 'PIL'".into()),
                DisplayNews::Ended(End::Exited(1)),
            ],
            "apt install python3-pil",
        ),
        (vec![DisplayNews::Ended(End::Signaled(9))], "was ended by signal 9"),
    ] {
        let (host, _keeper, _) = windowed();
        let outcome = host.against(|door| {
            let mut agent = asked(door);
            for news in news {
                tell(&mut agent, news);
            }
        });
        let error = outcome.error();
        assert!(error.contains(part), "{error}");
    }
    // In the middle of it all, the rest is ended in order.
    let (host, _keeper, _) = windowed();
    let notifier = host.notifier.clone();
    let outcome = host.against(|door| {
        let mut agent = running(door);
        tell(&mut agent, DisplayNews::Ended(End::Exited(1)));
        shuts_down(&mut agent, &notifier);
    });
    assert!(outcome.error().contains("ended with status 1"));
}

#[test]
fn news_that_can_t_be_are_a_broken_protocol() {
    for news in [DisplayNews::Ready, DisplayNews::NotStarted { step: Step::SetUp, errno: 1 }] {
        let (host, _keeper, _) = windowed();
        let outcome = host.against(|door| tell(&mut running(door), news));
        assert!(outcome.error().contains("broke its protocol"));
    }
    // Without windows there are none.
    let outcome = Host::new(Stdio::Pipes).against(|door| tell(&mut Agent::start(door), DisplayNews::Ready));
    assert!(outcome.error().contains("broke its protocol"));
}
