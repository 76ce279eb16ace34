use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, Read, Write};
use std::rc::Rc;

use agent_proto::{End, Step};

use super::*;
use crate::control::client::Channel;
use crate::control::protocol::{Exec, Registers, Statistics, StepName};

const FIRST: CommandId = CommandId(2);

/// A server, and where it listens.
struct Served {
    folder: tempfile::TempDir,
    server: Server,
}

impl Served {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("control.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let status = Status {
            vm: "01234567".into(),
            profile: None,
            command: vec![b"sh".to_vec().into()],
            state: LifeState::Starting,
            started: 1,
            memory: 2,
            cpus: 3,
            windows: false,
            display: None,
        };
        Self { folder, server: Server::new(listener, status, FIRST) }
    }

    fn connect(&self) -> BufReader<UnixStream> {
        BufReader::new(UnixStream::connect(self.folder.path().join("control.sock")).unwrap())
    }

    /// What the server does with these lines of a new client.
    fn say(&mut self, lines: &str) -> (BufReader<UnixStream>, Vec<Wish>) {
        let client = self.connect();
        client.get_ref().write_all(lines.as_bytes()).unwrap();
        let wishes = self.server.serve(Guest::Ready);
        (client, wishes)
    }

    /// A client of a command that runs.
    fn command(&mut self) -> Channel {
        let socket = self.connect().into_inner();
        let mut channel = Channel::new(socket);
        let exec = Exec { argv: Vec::new(), env: Vec::new(), cwd: None, root: false, terminal: None };
        channel.send(&Request::from(Ask::Exec(exec))).unwrap();
        let [Wish::Tell(run)] = &self.server.serve(Guest::Ready)[..] else { panic!() };
        assert!(matches!(&**run, ToAgent::Run(run) if run.command == FIRST));
        channel
    }
}

fn line(client: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    line
}

#[test]
fn a_request_comes_in_pieces_and_is_answered_once() {
    let mut served = Served::new();
    let mut client = served.connect();
    for part in [r#"{"version":1,"#, r#""request":"#, "\"status\"}\n"] {
        assert!(served.server.serve(Guest::Starts).is_empty());
        client.get_ref().write_all(part.as_bytes()).unwrap();
    }
    served.server.serve(Guest::Starts);
    let answer = line(&mut client);
    assert!(
        answer.starts_with(r#"{"event":"status","vm":"01234567","profile":null,"command":["sh"]"#),
        "{answer}"
    );
    assert!(answer.contains(r#""state":"starting""#), "{answer}");
    client.get_ref().write_all(b"{\"version\":1,\"request\":\"stop\"}\n").unwrap();
    assert!(served.server.serve(Guest::Ready).is_empty());
    assert!(line(&mut client).contains("one request"));
}

#[test]
fn what_can_not_be_read_is_refused_with_a_reason() {
    let mut served = Served::new();
    for (bad, reason) in [
        ("\n", "can't be read"),
        ("{}\n", "version"),
        ("{\"version\":2,\"request\":\"status\"}\n", "version 2"),
        ("{\"version\":1,\"request\":\"fly\"}\n", "fly"),
        ("{\"version\":1,\"request\":\"exec\",\"argv\":[\"a\",[256]]}\n", "can't be read"),
    ] {
        let (mut client, wishes) = served.say(bad);
        assert!(wishes.is_empty());
        let answer = line(&mut client);
        assert!(answer.contains("\"error\"") && answer.contains(reason), "{bad}: {answer}");
    }
}

#[test]
fn a_client_that_sends_without_end_or_never_reads_is_dropped() {
    let mut served = Served::new();
    let flood = served.connect();
    flood.get_ref().set_nonblocking(true).unwrap();
    let mut sent = 0;
    let zeros = vec![b'0'; 1 << 20];
    let ended = loop {
        match flood.get_ref().write(&zeros) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break true,
        }
        served.server.serve(Guest::Ready);
        if sent > 4 * MAX_LINE {
            break false;
        }
    };
    assert!(ended && served.server.clients.is_empty());

    // Each of its lines is answered with an error, which it does not take.
    let silent = served.connect();
    silent.get_ref().set_nonblocking(true).unwrap();
    for _ in 0..10_000 {
        if silent.get_ref().write_all(&b"\n".repeat(1000)).is_err() && served.server.clients.is_empty() {
            return;
        }
        served.server.serve(Guest::Ready);
    }
    panic!("it is still there");
}

#[test]
fn no_more_clients_are_taken_than_are_served() {
    let mut served = Served::new();
    let clients: Vec<_> = (0..MAX_CLIENTS + 3).map(|_| served.connect()).collect();
    served.server.serve(Guest::Ready);
    assert_eq!(served.server.clients.len(), MAX_CLIENTS);
    assert_eq!(served.server.descriptors().count(), MAX_CLIENTS);
    drop(clients);
    served.server.serve(Guest::Ready);
    assert_eq!(served.server.clients.len(), 0);
}

#[test]
fn the_streams_of_a_command_go_to_who_asked_for_it() {
    let mut served = Served::new();
    let mut channel = served.command();
    let server = &mut served.server;
    for stream in [Stream::Stdin, Stream::Stdout, Stream::Stderr] {
        let (mut guest, host) = UnixStream::pair().unwrap();
        server.on_stream(FIRST, stream, host).unwrap();
        assert_eq!(channel.next().unwrap(), Some(Event::Stream { stream: stream.into() }));
        guest.write_all(b"from the guest").unwrap();
        drop(guest);
        let mut text = String::new();
        channel.stream().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "from the guest");
    }
    // Each comes once, and only for what was asked for.
    let pair = || UnixStream::pair().unwrap().1;
    assert!(server.on_stream(FIRST, Stream::Stdout, pair()).is_err());
    assert!(server.on_stream(CommandId(3), Stream::Stdout, pair()).is_err());

    assert!(!server.on_message(&FromAgent::Ended { command: FIRST, end: End::Exited(0) }));
    assert!(server.on_message(&FromAgent::Started { command: FIRST }));
    assert!(!server.on_message(&FromAgent::Started { command: FIRST }));
    assert!(!server.on_message(&FromAgent::NotStarted { command: FIRST, step: Step::Execute, errno: 2 }));
    channel.send(&ToCommand::Signal(15)).unwrap();
    let signal = Wish::Tell(Box::new(ToAgent::Signal { command: FIRST, signal: 15 }));
    assert_eq!(server.serve(Guest::Ready), [signal]);
    assert!(server.on_message(&FromAgent::Ended { command: FIRST, end: End::Signaled(15) }));
    assert_eq!(channel.next().unwrap(), Some(Event::Started));
    assert_eq!(channel.next().unwrap(), Some(Event::Ended { status: None, signal: Some(15) }));
    assert!(!server.on_message(&FromAgent::Ended { command: FIRST, end: End::Exited(0) }));
    assert!(server.commands.is_empty());
}

#[test]
fn a_command_waits_for_the_guest_and_ends_with_its_client() {
    let mut served = Served::new();
    let request = "{\"version\":1,\"request\":\"exec\",\"argv\":[]}\n";
    let client = served.connect();
    client.get_ref().write_all(request.as_bytes()).unwrap();
    assert!(served.server.serve(Guest::Starts).is_empty());
    assert_eq!(served.server.serve(Guest::Ready).len(), 1);
    assert!(served.server.serve(Guest::Ready).is_empty());
    drop(client);
    let hang_up = Wish::Tell(Box::new(ToAgent::Signal { command: FIRST, signal: 1 }));
    assert_eq!(served.server.serve(Guest::Ready), [hang_up]);
    // The guest may still tell of it; nobody hears it.
    assert!(served.server.on_message(&FromAgent::Started { command: FIRST }));
    assert!(served.server.on_stream(FIRST, Stream::Stdin, UnixStream::pair().unwrap().0).is_ok());
    // The next command has another number.
    let (_client, wishes) = served.say(request);
    assert!(
        matches!(&wishes[..], [Wish::Tell(run)] if matches!(&**run, ToAgent::Run(run) if run.command == CommandId(3)))
    );
}

#[test]
fn what_can_not_be_started_says_why_and_a_stop_is_passed_on() {
    let mut served = Served::new();
    let mut channel = served.command();
    let not_started = FromAgent::NotStarted { command: FIRST, step: Step::Execute, errno: 2 };
    assert!(served.server.on_message(&not_started));
    let event = channel.next().unwrap();
    assert_eq!(event, Some(Event::NotStarted { step: StepName::Execute, errno: 2 }));
    let (mut client, wishes) = served.say("{\"version\":1,\"request\":\"stop\",\"force\":true}\n");
    assert_eq!(wishes, [Wish::Stop { force: true }]);
    assert_eq!(line(&mut client), "{\"event\":\"stopping\"}\n");
    // The end of the VM is the end of the connection.
    drop(served);
    assert_eq!(line(&mut client), "");
}

#[test]
fn a_guest_that_ends_no_command_does_not_make_this_process_grow() {
    let mut served = Served::new();
    let request = "{\"version\":1,\"request\":\"exec\",\"argv\":[]}\n";
    // Beside the hang-up of the one before.
    let runs = |wishes: &[Wish]| {
        wishes.iter().any(|wish| matches!(wish, Wish::Tell(run) if matches!(**run, ToAgent::Run(_))))
    };
    for _ in 0..MAX_COMMANDS {
        let (client, wishes) = served.say(request);
        assert!(runs(&wishes));
        drop(client);
    }
    let (mut client, wishes) = served.say(request);
    assert!(!runs(&wishes) && line(&mut client).contains("1024 commands have not come to their end"));
    // One of them ends, and there is room.
    let pair = || UnixStream::pair().unwrap().0;
    for stream in [Stream::Stdin, Stream::Stdout, Stream::Stderr] {
        served.server.on_stream(FIRST, stream, pair()).unwrap();
    }
    assert!(served.server.on_message(&FromAgent::NotStarted {
        command: FIRST,
        step: Step::Execute,
        errno: 2
    }));
    let (_client, wishes) = served.say(request);
    assert!(runs(&wishes));
}

/// What was done to it.
#[derive(Clone, Default)]
pub(crate) struct FakeVm {
    done: Rc<RefCell<Vec<String>>>,
    paused: Rc<Cell<bool>>,
    said: Rc<RefCell<Vec<u8>>>,
    log: Rc<RefCell<Vec<u8>>>,
}

impl Machine for FakeVm {
    fn pause(&self) {
        self.paused.set(true);
    }
    fn resume(&self) {
        self.paused.set(false);
    }
    fn is_paused(&self) -> bool {
        self.paused.get()
    }
    fn set_balloon(&self, bytes: u64) -> bool {
        self.done.borrow_mut().push(format!("balloon {bytes}"));
        true
    }
    fn statistics(&self) -> Statistics {
        Statistics { balloon_held: 4096, ..Statistics::default() }
    }
    fn registers(&self) -> Vec<Option<Registers>> {
        vec![None]
    }
    fn interrupt(&self, cpu: u8) -> Option<Vec<Option<Registers>>> {
        (cpu == 0).then(|| vec![None])
    }
    fn console_since(&self, from: u64) -> (Vec<u8>, u64) {
        let said = self.said.borrow();
        (said.get(from as usize..).unwrap_or_default().to_vec(), said.len() as u64)
    }
    fn type_to_console(&self, bytes: &[u8]) -> usize {
        let room = bytes.len().min(16);
        self.done.borrow_mut().push(String::from_utf8(bytes[..room].to_vec()).unwrap());
        room
    }
    fn console_changed(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn watch_console(&self, watched: bool) {
        self.done.borrow_mut().push(format!("watched: {watched}"));
    }
    fn log(&self) -> Vec<u8> {
        match self.log.borrow().is_empty() {
            true => b"boot\n\xff".to_vec(),
            false => self.log.borrow().clone(),
        }
    }
}

#[test]
fn the_machine_is_paused_measured_and_looked_into() {
    let mut served = Served::new();
    served.server.status.memory = 256 << 20;
    let ask = |served: &mut Served, request: &str| {
        let (mut client, wishes) = served.say(&format!("{{\"version\":1,\"request\":{request}}}\n"));
        (line(&mut client), wishes)
    };
    assert!(ask(&mut served, "\"pause\"").0.contains("has not started"));
    let vm = FakeVm::default();
    served.server.manage(vm.clone());
    for (request, part) in [
        ("\"statistics\"", "\"memory\":268435456,\"balloon-asked\":0,\"balloon-held\":4096"),
        ("\"registers\"", "{\"event\":\"registers\",\"cpus\":[null]}"),
        ("\"log\"", "{\"event\":\"log\",\"text\":[98,111,111,116,10,255]}"),
        ("\"balloon\",\"memory\":134217728", "done"),
        ("\"balloon\",\"memory\":1", "64.00 MiB to 256.00 MiB"),
        ("\"balloon\",\"memory\":268435457", "can keep"),
        ("\"balloon\"", "memory"),
        ("\"nmi\",\"cpu\":0", "{\"event\":\"registers\",\"cpus\":[null]}"),
        ("\"nmi\",\"cpu\":1", "no CPU 1"),
        ("\"nmi\",\"cpu\":256", "error"),
        ("\"pause\"", "done"),
        ("\"status\"", "\"state\":\"paused\""),
        ("\"exec\",\"argv\":[\"sh\"]", "nofear resume"),
        ("\"resume\"", "done"),
        ("\"status\"", "\"state\":\"running\""),
        ("\"pause\"", "done"),
    ] {
        let (answer, wishes) = ask(&mut served, request);
        assert!(answer.contains(part), "{request}: {answer}");
        assert_eq!(wishes, []);
    }
    assert_eq!(*vm.done.borrow(), ["balloon 134217728"]);
    // Who is to end in order has to run.
    assert_eq!(ask(&mut served, "\"stop\"").1, [Wish::Stop { force: false }]);
    assert!(!vm.is_paused());
}

#[test]
fn a_console_carries_bytes_both_ways_and_no_more_keys_than_the_guest_takes() {
    let mut served = Served::new();
    let (mut early, _) = served.say("{\"version\":1,\"request\":\"console\"}\n");
    assert!(line(&mut early).contains("has not started"));
    let vm = FakeVm::default();
    vm.said.borrow_mut().extend_from_slice(b"boot\xff\x1b\n");
    served.server.manage(vm.clone());
    // Keys may come with the request.
    let (mut client, _) = served.say("{\"version\":1,\"request\":\"console\"}\nls\n");
    assert_eq!(line(&mut client), "{\"event\":\"console\"}\n");
    let mut said = [0; 7];
    client.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"boot\xff\x1b\n");
    assert_eq!(*vm.done.borrow(), ["ls\n", "watched: true"]);
    vm.said.borrow_mut().extend_from_slice(b"more\n");
    served.server.serve(Guest::Ready);
    assert_eq!(line(&mut client), "more\n");

    // A guest that takes few keys holds their sender up, and nobody else.
    vm.done.borrow_mut().clear();
    client.get_ref().set_nonblocking(true).unwrap();
    let mut sent = 0;
    for _ in 0..100 {
        while let Ok(count) = client.get_ref().write(&[b'k'; 4096]) {
            sent += count;
        }
        served.server.serve(Guest::Ready);
    }
    let held = served.server.clients.values().map(|client| client.input.len()).max().unwrap();
    assert!(
        served.server.again().is_some() && held <= console::MOST_KEYS + TURN && sent > held,
        "{held} of {sent}"
    );
    let (mut other, _) = served.say("{\"version\":1,\"request\":\"status\"}\n");
    assert!(line(&mut other).contains("status"));
    // Its end is seen all the same, and nobody watches any more.
    drop((client, other, early));
    served.server.serve(Guest::Ready);
    served.server.serve(Guest::Ready);
    assert!(served.server.clients.is_empty() && served.server.again().is_none());
    assert_eq!(vm.done.borrow().last().unwrap(), "watched: false");
}

#[test]
fn an_answer_that_is_longer_than_a_sockets_buffer_comes_whole() {
    let mut served = Served::new();
    let vm = FakeVm::default();
    *vm.log.borrow_mut() = vec![0xff; 64 << 10];
    served.server.manage(vm);
    let (mut client, _) = served.say("{\"version\":1,\"request\":\"log\"}\n");
    let reader = std::thread::spawn(move || line(&mut client));
    while served.server.again().is_some() {
        served.server.serve(Guest::Ready);
    }
    let Event::Log { text } = serde_json::from_str(&reader.join().unwrap()).unwrap() else { panic!() };
    assert_eq!(Vec::from(text), vec![0xff; 64 << 10]);
}

#[test]
fn who_waits_is_told_how_it_ended() {
    let mut served = Served::new();
    let (mut waiting, _) = served.say("{\"version\":1,\"request\":\"wait\"}\n");
    let (mut other, _) = served.say("{\"version\":1,\"request\":\"status\"}\n");
    served.server.over(7);
    assert_eq!(line(&mut waiting), "{\"event\":\"ended\",\"status\":7}\n");
    assert!(line(&mut other).contains("status"));
    drop(served);
    assert_eq!((line(&mut waiting), line(&mut other)), (String::new(), String::new()));
}
