//! The privileged helper of `--net tap`: makes a tap for one VM, and takes it back when the VM has ended.
//!
//! `nofear setup` installs a copy of this program with CAP_NET_ADMIN on its file; any user may start it, and it
//! serves those that `/etc/nofear/network.users` lists. It takes one [`Request`] on its standard input, a socket,
//! answers with the tap's descriptors, and waits for the socket's end. What it changed lies in the kernel alone:
//! a tap that is gone when nobody holds it, and one nftables table, which also remembers which sysctls were
//! changed; so nothing outlives a restart of the machine, and what a killed helper leaves, the next one finds.

mod firewalls;
mod forwarding;
mod rtnetlink;
pub mod ruleset;

use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use vmm::net::filter::Rule;

use crate::network::addresses::Addresses;
use crate::network::host::Host;
use crate::network::tap::protocol::{
    Destination, MAX_LINE, MAX_QUEUES, MAX_RULES, Ready, Reply, Request, VERSION,
};
use crate::{json, sys};
pub use rtnetlink::is_there;
use ruleset::{State, Vm};

/// Where the helper is installed.
pub const PROGRAM: &str = "/usr/local/libexec/nofear-net";

/// Who may use it: a user's number in each line. It is also what helpers lock while they change something.
pub const USERS: &str = "/etc/nofear/network.users";

/// What it is started with. A program that got capabilities by its file is the helper whatever it is started with.
pub const VERB: &str = "--net-helper";

/// The most VMs with a tap at a time.
const MAX_VMS: usize = 256;

/// How often addresses are chosen anew because somebody has them.
const TRIES: usize = 16;

/// The helper's whole life; returns the exit status.
pub fn main() -> u8 {
    let Ok(socket) = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) else { return 1 };
    match serve(&socket) {
        Ok(()) => 0,
        Err(e) => {
            // Nobody hears it when the VM has gone.
            let _ = answer(&socket, &Reply::Refused { text: format!("{e:#}") }, &[]);
            1
        }
    }
}

fn serve(socket: &UnixStream) -> anyhow::Result<()> {
    keep_one_capability()?;
    // The end of the socket is the only end: who is asked to end by a signal would leave the tap's rules.
    let _ = sys::block_signals(&[Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::PIPE]);
    let users = users().with_context(|| format!("read {USERS}; 'sudo nofear setup' makes it"))?;
    let user = rustix::process::getuid().as_raw();
    ensure!(users.contains(&user), "user {user} may not have taps; 'sudo nofear setup' lets them");
    let request = request(socket)?;
    let link = rtnetlink::Link::watch().context("watch this machine's links")?;
    let (vm, taps) = {
        let _lock = lock()?;
        make(&request)?
    };
    let sent = answer(socket, &Reply::Ready(ready(&vm)), &taps);
    // The VM alone keeps the tap alive.
    drop(taps);
    if sent.is_ok() {
        wait(socket, &link, &vm);
    }
    let _lock = lock()?;
    take_back(&vm)
}

/// Gives up all rights but one, which nft inherits.
fn keep_one_capability() -> anyhow::Result<()> {
    let one = CapabilitySet::NET_ADMIN;
    // Root's program would get everything back by starting another. Without CAP_SETPCAP there is nothing to drop.
    for capability in CapabilitySet::all().difference(one).iter() {
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    let sets = CapabilitySets { effective: one, permitted: one, inheritable: one };
    set_capabilities(None, sets).context(
        "keep CAP_NET_ADMIN: its file has lost it, is on a file system that is mounted nosuid, or nofear itself \
         was started without the right to gain any; 'sudo nofear setup --check' tells",
    )?;
    rustix::thread::configure_capability_in_ambient_set(one, true).context("pass CAP_NET_ADMIN on to nft")
}

/// The users that may have taps. Only root can have said so.
pub fn users() -> io::Result<Vec<u32>> {
    let mut file = File::open(USERS)?;
    let about = file.metadata()?;
    if about.uid() != 0 || about.mode() & 0o022 != 0 {
        return Err(io::Error::other("others than root can write it"));
    }
    let mut text = String::new();
    file.by_ref().take(MAX_LINE as u64).read_to_string(&mut text)?;
    Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect())
}

/// Keeps other helpers from changing anything. Of one network namespace there is one list of users, of several too.
pub fn lock() -> anyhow::Result<File> {
    let file = File::open(USERS).with_context(|| format!("open {USERS}"))?;
    flock(&file, FlockOperation::LockExclusive).with_context(|| format!("lock {USERS}"))?;
    Ok(file)
}

fn request(socket: &UnixStream) -> anyhow::Result<Request> {
    let mut line = Vec::new();
    BufReader::new(socket.take(MAX_LINE as u64)).read_until(b'\n', &mut line).context("read the request")?;
    let request: Request = serde_json::from_slice(&line).context("read the request")?;
    ensure!(
        request.version == VERSION,
        "nofear and its helper differ: 'sudo nofear setup' renews the helper"
    );
    ensure!((1..=MAX_QUEUES).contains(&request.queues.into()), "1 to {MAX_QUEUES} queues are possible");
    ensure!((vmm::net::MIN_MTU..=vmm::net::MAX_MTU).contains(&request.mtu), "the MTU is out of its range");
    ensure!(request.allow.len().max(request.deny.len()) <= MAX_RULES, "more than {MAX_RULES} rules");
    Ok(request)
}

fn rules(list: &[Destination]) -> anyhow::Result<Vec<Rule>> {
    list.iter().map(|one| one.rule().with_context(|| format!("{:?} is no range", one.range))).collect()
}

/// Makes everything, or takes back what it has made.
fn make(request: &Request) -> anyhow::Result<(Vm, Vec<OwnedFd>)> {
    let state = State::read()?;
    sweep(&state).context("take back what a VM left behind")?;
    ensure!(state.vms.len() < MAX_VMS, "{MAX_VMS} virtual machines have a tap already");
    if let Some(table) = firewalls::blocks(&ruleset::all()?) {
        bail!("{}", firewalls::advice(&table));
    }
    let (interface, taps) = sys::open_tap("nofear%d", request.queues).context("make a tap")?;
    let link = rtnetlink::Link::new(&interface).context("find the new tap")?;
    let mut tries = 0;
    let host = loop {
        let host = Host::read().context("ask the kernel for this machine's addresses")?;
        let addresses = Addresses::choose(&host)?;
        ensure!(addresses.v4.is_some() || addresses.v6.is_some(), "this machine has no route to a network");
        match link.set_up(&addresses, request.mtu) {
            Ok(()) => break (host, addresses),
            // Another VM has the address.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => tries += 1,
            Err(e) => return Err(e).context("set the tap up"),
        }
    };
    let (host, addresses) = host;
    let vm = Vm {
        interface,
        addresses,
        on_link: host.networks(),
        lan: request.lan,
        offline: request.offline,
        allow: rules(&request.allow)?,
        deny: rules(&request.deny)?,
    };
    let made = ruleset::add(&vm).and_then(|()| forwarding::turn_on(&vm));
    if let Err(e) = made {
        drop(taps);
        let _ = take_back(&vm);
        return Err(e);
    }
    Ok((vm, taps))
}

fn ready(vm: &Vm) -> Ready {
    let addresses = &vm.addresses;
    Ready {
        interface: vm.interface.clone(),
        mac: addresses.mac.to_string(),
        gateway_mac: addresses.gateway_mac.to_string(),
        v4: addresses.v4.map(|ends| [ends.guest, ends.gateway]),
        v6: addresses.v6.map(|ends| [ends.guest, ends.gateway]),
        pools: addresses.pools.iter().map(ToString::to_string).collect(),
    }
}

/// Waits for the VM's end. Meanwhile interfaces may come, and others may want this machine to forward, too.
fn wait(socket: &UnixStream, link: &OwnedFd, vm: &Vm) {
    let mut bytes = [0; 4096];
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(link.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        let [over, news] = [0, 1].map(|at| !fds[at].revents().is_empty());
        if over && !matches!(recv(socket, &mut bytes[..], RecvFlags::DONTWAIT), Ok((_, 1..))) {
            return;
        }
        if news {
            while recv(link, &mut bytes[..], RecvFlags::DONTWAIT).is_ok() {}
            // What can't be done now is tried with the next piece of news.
            if let Ok(_lock) = lock() {
                let _ = forwarding::follow(vm);
            }
        }
    }
}

/// Removes a VM's tap and rules, and with the last one everything.
fn take_back(vm: &Vm) -> anyhow::Result<()> {
    // Its holder may not have gone through its descriptors yet.
    rtnetlink::remove(&vm.interface);
    sweep(&State::read()?)
}

/// Removes the rules of VMs that have no tap any more, and with the last one everything.
pub fn sweep(state: &State) -> anyhow::Result<()> {
    if !state.exists {
        return Ok(());
    }
    let (live, dead): (Vec<_>, Vec<_>) = state.vms.iter().partition(|interface| is_there(interface));
    if live.is_empty() {
        forwarding::turn_off(state);
        return ruleset::remove_all();
    }
    dead.iter().try_for_each(|interface| ruleset::remove(interface))
}

/// Sends a line, with descriptors.
fn answer(socket: &UnixStream, reply: &Reply, taps: &[OwnedFd]) -> io::Result<()> {
    let line = json::line(reply)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_QUEUES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let borrowed: Vec<_> = taps.iter().map(AsFd::as_fd).collect();
    if !borrowed.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    let sent = sendmsg(socket, &[IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
