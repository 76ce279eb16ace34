//! Answers the guest's questions for names, in the place of the gateway that it believes to ask.
//!
//! The guest never talks to a name server: its question is read here, asked anew of this machine's own name
//! servers (on its loopback too: 127.0.0.53), and the answer is read before it goes back. What an allowed name
//! has for addresses is opened in the filter before the guest learns of them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, netlink, recv, send,
    socket_with,
};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::Timespec;
use vmm::net::filter::{Cidr, Query};
use vmm::net::resolver::{Channel, MAX_HOST, MAX_PAYLOAD, Message};
use vmm::{Process, Reach, Rights, ThreadKind};

use super::dns::{self, Question, Refused};
use super::host::{self, Host};

mod local;
#[cfg(test)]
mod tests;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS: u16 = 53;

/// No more of the file is read.
const MAX_CONF: u64 = 64 << 10;

/// The most questions that wait for an answer; each has a socket, and so a port that nobody can guess.
const MAX_WAITING: usize = 64;

/// How long a name server may take before the next one is asked, and how often each is.
const TRY: Duration = Duration::from_millis(2500);
const ROUNDS: usize = 2;

/// What a name server may send by UDP: more would come in fragments.
const OUR_SIZE: u16 = 1232;

/// An address of a name is open for so long at least: a program connects a while after it asked.
const OPEN_AT_LEAST: Duration = Duration::from_secs(30);

/// How long a list of name servers is believed.
const REREAD: Duration = Duration::from_secs(5);

/// Groups of netlink messages that tell of changed addresses and routes (linux/rtnetlink.h).
const GROUPS: u32 = 0x10 | 0x40 | 0x100 | 0x400;

/// This machine's addresses are read no more often than this, however often they change.
const SETTLE: Duration = Duration::from_secs(1);

/// A name in `--allow` or `--deny`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// In lower case, without the last dot.
    name: String,
    /// All names below it, and not itself.
    below: bool,
    port: Option<u16>,
}

impl Name {
    /// `example.org` or `*.example.org`.
    pub fn new(text: &str, port: Option<u16>) -> Result<Self, String> {
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let label = |label: &str| (1..64).contains(&label.len()) && label.bytes().all(plain);
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(format!("{text:?} is no name, no IP address and no range of them"));
        }
        Ok(Self { name, below, port })
    }

    fn is(&self, name: &str) -> bool {
        if self.below {
            name.strip_suffix(&self.name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        } else {
            name == self.name
        }
    }
}

/// What is said of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Their addresses are opened.
    pub allow: Vec<Name>,
    /// They are not answered.
    pub deny: Vec<Name>,
    /// Only names that are allowed are asked for: a question is a message to the outside, too.
    pub offline: bool,
    /// Names of the local network, and of this machine, are asked for.
    pub lan: bool,
}

impl Names {
    /// Why a name is not looked up, in words for a person; none: it is.
    fn refuse(&self, name: &str) -> Option<&'static str> {
        let are = |names: &[Name]| names.iter().any(|one| one.is(name));
        if are(&self.deny) {
            Some("closed by --deny")
        } else if are(&self.allow) {
            None
        } else if self.offline {
            Some("not allowed, and --offline is set")
        } else if !self.lan && local::is_local(name) {
            Some("a local name (--lan opens it)")
        } else {
            None
        }
    }
}

/// A forwarder that has not started.
pub struct Resolver {
    channel: Channel,
    names: Names,
}

impl Resolver {
    /// Answers what comes by `channel`.
    pub fn new(channel: Channel, names: Names) -> Self {
        Self { channel, names }
    }

    /// Starts the forwarder in a process of its own, which ends with the device. This one must not have threads yet.
    pub fn start(self) -> anyhow::Result<Process> {
        let netlink = host::socket().context("watch this machine's addresses")?;
        let watch = watch().context("watch this machine's addresses")?;
        let forwarder = Forwarder {
            channel: self.channel,
            names: self.names,
            servers: Servers::default(),
            waiting: Vec::new(),
            netlink,
            watch,
            // They may have changed since the device was told of them.
            untold: Some(Instant::now()),
            told: None,
        };
        let keep = [forwarder.channel.as_fd(), forwarder.netlink.as_fd(), forwarder.watch.as_fd()]
            .map(|fd| fd.as_raw_fd());
        let body = move || {
            let confine = || Ok(vmm::confine_thread_to(ThreadKind::Resolver, reach()?)?);
            if let Err(e) = confine() {
                let e: anyhow::Error = e;
                log::error!(
                    "the process that answers for names can't be confined, so it does not start: {e:#}"
                );
                return;
            }
            if let Err(e) = forwarder.serve() {
                log::warn!("names are not answered any more: {e}");
            }
        };
        Process::start("names", &keep, body).context("answer for names")
    }
}

/// The list of name servers, by the folder that it is in: whoever changes it puts another file in its place.
fn reach() -> anyhow::Result<Reach> {
    let list = fs::canonicalize(RESOLV_CONF);
    let folder = list.as_deref().ok().and_then(Path::parent).unwrap_or(Path::new("/etc"));
    let reach = Reach::nothing()?;
    Ok(match File::open(folder) {
        Ok(folder) => reach.and(folder, Rights::Read)?,
        // There is no list.
        Err(_) => reach,
    })
}

fn watch() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &netlink::SocketAddrNetlink::new(0, GROUPS))?;
    Ok(socket)
}

struct Forwarder {
    channel: Channel,
    names: Names,
    servers: Servers,
    waiting: Vec<Waiting>,
    /// Asks for addresses.
    netlink: OwnedFd,
    /// Tells that they have changed.
    watch: OwnedFd,
    /// The device does not know of them yet; when it is to be told.
    untold: Option<Instant>,
    /// When that was tried last.
    told: Option<Instant>,
}

/// A question that a name server is to answer.
struct Waiting {
    asker: Query,
    /// The guest's message.
    asked: Vec<u8>,
    question: Question,
    /// Ours.
    query: Vec<u8>,
    socket: OwnedFd,
    /// How often it was sent.
    tries: usize,
    until: Instant,
}

impl Forwarder {
    fn serve(mut self) -> io::Result<()> {
        loop {
            let ready = self.wait()?;
            let (channel, watch) = (ready[0], ready[1]);
            for at in (0..self.waiting.len()).rev() {
                if ready[2 + at] {
                    self.hear(at);
                }
            }
            self.retry();
            if watch {
                self.take_news();
            }
            self.tell_addresses();
            if channel {
                match self.take() {
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                    other => other?,
                }
            }
        }
    }

    /// Which of the channel, the watch and the questions' sockets have something, in this order.
    fn wait(&self) -> io::Result<Vec<bool>> {
        let fds = [self.channel.as_fd(), self.watch.as_fd()].into_iter();
        let mut fds: Vec<PollFd> = fds
            .chain(self.waiting.iter().map(|waiting| waiting.socket.as_fd()))
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let next = self.waiting.iter().map(|waiting| waiting.until).chain(self.untold).min();
        let timeout = next.and_then(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec::try_from(left).ok()
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
    }

    /// Takes the guest's questions.
    fn take(&mut self) -> io::Result<()> {
        for _ in 0..MAX_WAITING {
            match self.channel.receive() {
                Ok(Message::Datagram { query, payload }) => self.ask(query, payload),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn ask(&mut self, asker: Query, asked: Vec<u8>) {
        let Some(question) = dns::question(&asked) else { return };
        if let Some(why) = self.names.refuse(&question.name) {
            self.tell(&Message::Refused { text: format!("refused to look {} up: {why}", question.name) });
            self.refuse(asker, &asked, Refused::Refused);
            return;
        }
        if self.waiting.len() >= MAX_WAITING {
            self.refuse(asker, &asked, Refused::ServerFailure);
            return;
        }
        match self.start(asker, &asked, question) {
            Ok(waiting) => self.waiting.push(waiting),
            Err(e) => {
                log::debug!("can't ask a name server: {e}");
                self.refuse(asker, &asked, Refused::ServerFailure);
            }
        }
    }

    fn start(&mut self, asker: Query, asked: &[u8], question: Question) -> io::Result<Waiting> {
        let mut id = [0; 2];
        getrandom(&mut id, GetRandomFlags::empty())?;
        let query = dns::query(u16::from_ne_bytes(id), asked, &question, OUR_SIZE);
        let socket = send_query(self.servers.number(0), &query)?;
        let until = Instant::now() + TRY;
        Ok(Waiting { asker, asked: asked.into(), question, query, socket, tries: 1, until })
    }

    /// Reads what a name server says.
    fn hear(&mut self, at: usize) {
        let mut answer = [0; MAX_PAYLOAD];
        let waiting = &self.waiting[at];
        let length = match recv(&waiting.socket, &mut answer[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
            Err(e) => {
                // Nobody listens there: the next one, at once.
                log::debug!("a name server does not answer: {e}");
                self.waiting[at].until = Instant::now();
                return;
            }
        };
        let answer = &answer[..length];
        if !dns::answers(answer, &waiting.query) {
            return;
        }
        let waiting = self.waiting.swap_remove(at);
        let Some(payload) = dns::reply(answer, &waiting.asked, dns::size(&waiting.asked)) else {
            self.refuse(waiting.asker, &waiting.asked, Refused::ServerFailure);
            return;
        };
        for name in self.names.allow.iter().filter(|name| name.is(&waiting.question.name)) {
            for (address, time) in dns::addresses(answer) {
                self.tell(&Message::Open { address, port: name.port, time: time.max(OPEN_AT_LEAST) });
            }
        }
        self.tell(&Message::Datagram { query: waiting.asker, payload });
    }

    /// Asks the next name server what has taken too long.
    fn retry(&mut self) {
        let now = Instant::now();
        for at in (0..self.waiting.len()).rev() {
            if self.waiting[at].until > now {
                continue;
            }
            let servers = self.servers.count();
            let waiting = &mut self.waiting[at];
            let tried = waiting.tries;
            if tried >= servers * ROUNDS {
                let waiting = self.waiting.swap_remove(at);
                self.refuse(waiting.asker, &waiting.asked, Refused::ServerFailure);
                continue;
            }
            waiting.tries += 1;
            waiting.until = now + TRY;
            match send_query(self.servers.number(tried), &waiting.query) {
                Ok(socket) => waiting.socket = socket,
                Err(e) => {
                    log::debug!("can't ask a name server: {e}");
                    waiting.until = now;
                }
            }
        }
    }

    fn refuse(&self, asker: Query, asked: &[u8], why: Refused) {
        if let Some(payload) = dns::refusal(asked, why) {
            self.tell(&Message::Datagram { query: asker, payload });
        }
    }

    /// Something has changed; more of it may be coming.
    fn take_news(&mut self) {
        let mut news = [0; 4096];
        // Also when some of it was lost: what counts is read anew.
        while let Ok(_) | Err(rustix::io::Errno::NOBUFS) =
            recv(&self.watch, &mut news[..], RecvFlags::DONTWAIT)
        {}
        self.untold.get_or_insert_with(|| self.told.map_or_else(Instant::now, |told| told + SETTLE));
    }

    /// The filter must know of addresses that this machine gets while the guest runs. What it could not be told, it is
    /// told again: a guest must not keep it from that by questions without end.
    fn tell_addresses(&mut self) {
        if self.untold.is_none_or(|due| due > Instant::now()) {
            return;
        }
        let now = Instant::now();
        self.told = Some(now);
        let told = Host::read_by(&self.netlink).and_then(|host| {
            let (mut addresses, mut on_link) = (host.own(), host.networks());
            if addresses.len() + on_link.len() > MAX_HOST {
                // More than can be told: nothing is the Internet any more, rather than something that is not.
                log::warn!(
                    "this machine has more addresses than a filter can know; the guest reaches nothing"
                );
                addresses =
                    [Cidr::new(Ipv4Addr::UNSPECIFIED.into(), 0), Cidr::new(Ipv6Addr::UNSPECIFIED.into(), 0)]
                        .into();
                on_link.clear();
            }
            self.channel.send(&Message::Host { addresses, on_link })
        });
        self.untold = match told {
            Ok(()) => None,
            Err(e) => {
                log::debug!("the filter could not be told of this machine's addresses: {e}");
                Some(now + SETTLE)
            }
        };
    }

    /// A device that does not take its messages has a guest that asks without listening.
    fn tell(&self, message: &Message) {
        if let Err(e) = self.channel.send(message) {
            log::debug!("an answer for a name was dropped: {e}");
        }
    }
}

/// Sends a query by a socket of its own.
fn send_query(server: SocketAddr, query: &[u8]) -> io::Result<OwnedFd> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
    connect(&socket, &server)?;
    send(&socket, query, SendFlags::DONTWAIT)?;
    Ok(socket)
}

/// This machine's name servers.
#[derive(Default)]
struct Servers {
    list: Vec<SocketAddr>,
    read: Option<Instant>,
}

impl Servers {
    /// One of them, in turn.
    fn number(&mut self, number: usize) -> SocketAddr {
        if self.read.is_none_or(|at| at.elapsed() > REREAD) {
            self.read = Some(Instant::now());
            // A list that can't be read any more is as it was.
            let mut text = String::new();
            let file = File::open(Path::new(RESOLV_CONF));
            if file.and_then(|file| file.take(MAX_CONF).read_to_string(&mut text)).is_ok() {
                self.list = name_servers(&text);
            }
        }
        let default = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DNS);
        let count = self.list.len().max(1);
        self.list.get(number % count).copied().unwrap_or(default)
    }

    fn count(&self) -> usize {
        self.list.len().max(1)
    }
}

/// The `nameserver` lines of a resolv.conf.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then_some(())?;
        // An address with a scope (fe80::1%eth0) is left out: UDP sockets want its number.
        words.next()?.parse::<IpAddr>().ok()
    });
    servers.map(|address| SocketAddr::new(address, DNS)).collect()
}
