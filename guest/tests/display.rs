//! The agent and a display server, which is this program, started once more.
#![allow(clippy::unwrap_used, reason = "clippy knows only test functions as tests, not what they call")]

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use agent_proto::{
    Display, DisplayNews, End, FromAgent, MAX_FROM_AGENT, Step, ToAgent, User, read_frame, write_frame,
};
use nofear_guest::agent::{self, Orphans, Stop, Ways};

/// What the server is told by: where its socket is to be.
const SOCKET: &str = "NOFEAR_TEST_DISPLAY";

/// Not a test in itself: it answers with what it gets, until it gets a line with `end`.
#[test]
fn serve() {
    let Some(path) = std::env::var_os(SOCKET) else { return };
    println!("makes a socket");
    let listener = UnixListener::bind(path).unwrap();
    println!("listens");
    while let Ok((mut client, _)) = listener.accept() {
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        if text == "end\n" {
            std::process::exit(7);
        }
        client.write_all(text.as_bytes()).unwrap();
    }
}

struct Host {
    control: UnixStream,
    agent: thread::JoinHandle<Stop>,
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("port");
        let (control, theirs) = UnixStream::pair().unwrap();
        control.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let user = User {
            name: "me".into(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            home: "/".into(),
            shell: "/bin/sh".into(),
        };
        let agent = thread::spawn(move || {
            let dial = |_| Err(io::ErrorKind::Unsupported.into());
            let listen = |_: u32| {
                let listener = UnixListener::bind(&path)?;
                listener.set_nonblocking(true)?;
                Ok(OwnedFd::from(listener))
            };
            let ways = Ways { dial: &dial, listen: &listen };
            agent::serve(theirs.into(), ways, &user, &[], Orphans::NotOurs).unwrap()
        });
        Self { control, agent, folder }
    }

    fn start(&mut self, program: &Path) {
        let socket = self.folder.path().join("server").to_str().unwrap().to_owned();
        let argv = [program.to_str().unwrap(), "--exact", "serve", "--nocapture"];
        let display = Display {
            beside: Vec::new(),
            opener: false,
            argv: argv.map(|one| one.as_bytes().to_vec()).into(),
            env: vec![format!("{SOCKET}={socket}").into_bytes()],
            socket,
        };
        write_frame(&mut self.control, &ToAgent::Display(display)).unwrap();
    }

    fn news(&mut self) -> DisplayNews {
        match read_frame(&mut self.control, MAX_FROM_AGENT).unwrap() {
            Some(FromAgent::Display(news)) => news,
            other => panic!("{other:?}"),
        }
    }

    /// The next news that are not words, and the words before.
    fn big_news(&mut self) -> (Vec<String>, DisplayNews) {
        let mut words = Vec::new();
        loop {
            match self.news() {
                DisplayNews::Said(line) => words.push(line),
                news => return (words, news),
            }
        }
    }

    fn ask(&self, text: &[u8]) -> Vec<u8> {
        let mut client = UnixStream::connect(self.folder.path().join("port")).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        client.write_all(text).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        answer
    }
}

#[test]
fn a_display_server_is_ready_when_it_answers_and_is_reached_through_the_port() {
    let mut host = Host::new();
    host.start(&std::env::current_exe().unwrap());
    let (words, news) = host.big_news();
    assert_eq!(news, DisplayNews::Ready);
    assert!(words.iter().any(|line| line.contains("makes a socket")), "{words:?}");
    let text = vec![b'x'; 3 << 20];
    assert!(host.ask(&text) == text);
    assert_eq!(host.ask(b""), b"");
    // A second one is refused.
    host.start(Path::new("/bin/true"));
    loop {
        match read_frame(&mut host.control, MAX_FROM_AGENT).unwrap() {
            Some(FromAgent::Display(DisplayNews::Said(_))) => {}
            Some(FromAgent::Warning(text)) if text.contains("already") => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(host.ask(b"end\n"), b"");
    assert_eq!(host.big_news().1, DisplayNews::Ended(End::Exited(7)));
    write_frame(&mut host.control, &ToAgent::Shutdown).unwrap();
    assert_eq!(host.agent.join().unwrap(), Stop::Asked);
}

#[test]
fn a_display_server_that_can_t_be_started_or_ends_at_once_is_told_of() {
    let mut host = Host::new();
    host.start(Path::new("/no/such/program"));
    let errno = 2;
    assert_eq!(host.news(), DisplayNews::NotStarted { step: Step::Execute, errno });
    let mut host = Host::new();
    let script = host.folder.path().join("script");
    fs::write(&script, "#!/bin/sh\nprintf 'one\\ntwo' >&2; exit 3\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    host.start(&script);
    let (words, news) = host.big_news();
    assert_eq!((words, news), (vec!["one".into(), "two".into()], DisplayNews::Ended(End::Exited(3))));
}
