//! The agent and ports that are published: what stands for the host's vsock connections are Unix sockets here.
#![allow(clippy::unwrap_used, reason = "clippy knows only test functions as tests, not what they call")]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use agent_proto::{Datagrams, PUBLISHED_PORT, Published, ToAgent, User, datagram_header, write_frame};
use nofear_guest::agent::{self, Orphans, Stop, Ways};

const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

struct Host {
    control: UnixStream,
    agent: thread::JoinHandle<Stop>,
    folder: tempfile::TempDir,
}

impl Host {
    fn new(published: Vec<Published>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let (control, theirs) = UnixStream::pair().unwrap();
        let user = User { name: "me".into(), uid: 1, gid: 1, home: "/".into(), shell: "/bin/sh".into() };
        let ports: Vec<u32> = published.iter().map(|one| one.port).collect();
        let agent = thread::spawn(move || {
            let dial = |_| Err(io::ErrorKind::Unsupported.into());
            let listen = |port: u32| {
                let listener = UnixListener::bind(path.join(port.to_string()))?;
                listener.set_nonblocking(true)?;
                Ok(OwnedFd::from(listener))
            };
            let ways = Ways { dial: &dial, listen: &listen };
            agent::serve(theirs.into(), ways, &user, &published, Orphans::NotOurs).unwrap()
        });
        for port in ports {
            while !Path::exists(&folder.path().join(port.to_string())) {
                thread::sleep(Duration::from_millis(5));
            }
        }
        Self { control, agent, folder }
    }

    fn connect(&self, port: u32) -> UnixStream {
        let path = self.folder.path().join(port.to_string());
        // Between the socket's name and its first client it comes to listen.
        let stream = loop {
            match UnixStream::connect(&path) {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                other => break other.unwrap(),
            }
        };
        stream.set_read_timeout(PATIENCE).unwrap();
        stream
    }

    fn end(mut self) {
        write_frame(&mut self.control, &ToAgent::Shutdown).unwrap();
        assert_eq!(self.agent.join().unwrap(), Stop::Asked);
    }
}

fn published(number: u32, to: SocketAddr, udp: bool) -> Published {
    Published { port: PUBLISHED_PORT + number, to, udp }
}

#[test]
fn connections_lead_to_the_program_and_end_with_it() {
    let program = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let to = program.local_addr().unwrap();
    let host = Host::new(vec![published(0, to, false), published(1, nobody, false)]);
    thread::spawn(move || {
        for client in program.incoming() {
            thread::spawn(move || {
                let mut client = client.unwrap();
                let mut all = Vec::new();
                client.read_to_end(&mut all).unwrap();
                client.write_all(&all).unwrap();
            });
        }
    });
    let question: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let mut clients: Vec<_> = (0..3).map(|_| host.connect(PUBLISHED_PORT)).collect();
    for client in &mut clients {
        client.write_all(&question).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert!(answer == question);
    }
    let mut answer = Vec::new();
    let _ = host.connect(PUBLISHED_PORT + 1).read_to_end(&mut answer);
    assert!(answer.is_empty());
    host.end();
}

#[test]
fn datagrams_of_clients_come_from_ports_of_their_own_and_answers_find_back() {
    let program = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    program.set_read_timeout(PATIENCE).unwrap();
    let host = Host::new(vec![published(0, program.local_addr().unwrap(), true)]);
    let mut stream = host.connect(PUBLISHED_PORT);
    for (client, text) in [(7, "a"), (8, "b"), (7, "c"), (8, ""), (9, "e")] {
        stream.write_all(&datagram_header(client, text.len() as u16)).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
    }
    let mut from = Vec::new();
    for _ in 0..5 {
        let mut datagram = [0; 100];
        let (length, sender) = program.recv_from(&mut datagram).unwrap();
        from.push(sender);
        program.send_to(&datagram[..length], sender).unwrap();
    }
    assert_eq!((from[0], from[1]), (from[2], from[3]));
    assert!(from[0] != from[1] && from[4] != from[0] && from[4] != from[1]);
    let (mut incoming, mut answers, mut bytes) = (Datagrams::default(), Vec::new(), [0; 100]);
    while answers.len() < 5 {
        let count = stream.read(&mut bytes).unwrap();
        incoming.add(&bytes[..count]);
        while let Some((client, datagram)) = incoming.take() {
            answers.push((client, String::from_utf8(datagram.to_vec()).unwrap()));
        }
    }
    answers.sort();
    let wanted = [(7, "a"), (7, "c"), (8, ""), (8, "b"), (9, "e")];
    assert!(answers.iter().map(|(client, text)| (*client, text.as_str())).eq(wanted), "{answers:?}");
    host.end();
}
