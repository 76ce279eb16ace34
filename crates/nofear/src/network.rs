//! The VM's network: who the guest is, what it may reach, and what carries its frames.
//!
//! Nothing here needs a right that the user doesn't have. `docs/network.md` says what is promised.

pub mod addresses;
mod dns;
pub mod host;
pub mod options;
pub mod passt;
pub mod publish;
pub mod resolver;
pub mod settings;
pub mod tap;

use std::net::IpAddr;

use agent_proto::Ends;
use anyhow::{Context, bail, ensure};
use vmm::Link;
use vmm::net::filter::{Journal, Policy};
use vmm::net::resolver::Channel;

use addresses::Addresses;
use host::Host;
use options::{Mode, NetworkArgs};

/// A network that is ready for its VM.
pub struct Network {
    /// For the VM.
    pub device: vmm::Network,
    /// For the guest's agent.
    pub guest: agent_proto::Network,
    /// What runs beside the VM, and ends with it.
    pub beside: Beside,
    /// Answers the guest's questions for names.
    pub resolver: resolver::Resolver,
    /// What was refused.
    pub journal: Journal,
}

/// What carries the frames on the host's side.
pub enum Beside {
    /// passt.
    Passt(passt::Passt),
    /// The helper that has made a tap.
    Tap(tap::Helper),
}

impl Beside {
    /// Tells when it ends before the VM.
    pub fn watch(self) -> anyhow::Result<()> {
        match self {
            Self::Passt(passt) => passt.watch(),
            Self::Tap(helper) => helper.watch(),
        }
    }
}

/// The MTU of a tap: what the ways out of nearly all machines take.
const TAP_MTU: u16 = 1500;

/// What to do for a tap.
const TAP_ADVICE: &str = "run 'sudo nofear setup' once";

/// Makes the network that the options ask for, a tap with a queue for each of so many CPUs; none with `--net none`, or where there is no way to have one.
///
/// # Errors
///
/// When the back end that was asked for can't be had.
pub fn open(args: &NetworkArgs, cpus: u8) -> anyhow::Result<Option<Network>> {
    match args.mode() {
        Mode::None => Ok(None),
        Mode::Passt => match passt::find() {
            Some(program) => by_passt(args, &program).map(Some),
            None => bail!("--net passt: there is no passt here; {}", passt::ADVICE),
        },
        Mode::Tap => {
            ensure!(tap::is_set_up(), "--net tap: nobody has a tap here yet; {TAP_ADVICE}");
            by_tap(args, cpus).context("--net tap").map(Some)
        }
        Mode::Auto => {
            let host = Host::read().context("ask the kernel for this machine's addresses")?;
            if !host.has_route(false) && !host.has_route(true) {
                log::info!("the virtual machine has no network: this machine has no route to one");
                return Ok(None);
            }
            if tap::is_set_up() {
                match by_tap(args, cpus) {
                    Ok(network) => return Ok(Some(network)),
                    Err(e) => log::info!("the virtual machine has no tap: {e:#}"),
                }
            }
            let Some(program) = passt::find() else {
                log::warn!(
                    "the virtual machine has no network: {}, or {TAP_ADVICE}, or use --net none",
                    passt::ADVICE
                );
                return Ok(None);
            };
            by_passt(args, &program).map(Some)
        }
    }
}

fn by_passt(args: &NetworkArgs, program: &std::path::Path) -> anyhow::Result<Network> {
    let host = Host::read().context("ask the kernel for this machine's addresses")?;
    let addresses = Addresses::choose(&host).context("choose addresses for the virtual machine")?;
    // passt passes long packets on in pieces of the path's size; the longer they are, the fewer there are.
    let mtu = args.mtu.unwrap_or(vmm::net::MAX_MTU);
    let passt = passt::Passt::start(program, &addresses, mtu)?;
    let link = Link::Passt(passt.stream()?);
    network(args, &host, &addresses, mtu, (link, Beside::Passt(passt)))
}

fn by_tap(args: &NetworkArgs, cpus: u8) -> anyhow::Result<Network> {
    let mtu = args.mtu.unwrap_or(TAP_MTU);
    let destinations = |list: &[options::Target]| {
        list.iter().filter_map(options::Target::rule).map(|rule| (&rule).into()).collect()
    };
    let names = args.allow.iter().any(|target| target.rule().is_none());
    let request = tap::protocol::Request {
        version: tap::protocol::VERSION,
        queues: cpus.into(),
        mtu,
        lan: args.is_lan(),
        // What a name opens the device's filter knows, and only that one.
        offline: args.is_offline() && !names,
        allow: destinations(&args.allow),
        deny: destinations(&args.deny),
    };
    let tap::Tap { queues, ready, helper } = tap::open(&request)?;
    let host = Host::read().context("ask the kernel for this machine's addresses")?;
    let addresses = Addresses::given(&ready).context("read what the network's helper says")?;
    log::info!("the virtual machine's network is the tap {}", ready.interface);
    network(args, &host, &addresses, mtu, (Link::Tap(queues), Beside::Tap(helper)))
}

/// What both ways have in common: policy, names, and what the guest is told.
fn network(
    args: &NetworkArgs,
    host: &Host,
    addresses: &Addresses,
    mtu: u16,
    (link, beside): (Link, Beside),
) -> anyhow::Result<Network> {
    let (ours, theirs) = Channel::pair().context("make a socket for name look-ups")?;
    let policy = policy(args, host, addresses);
    let journal = Journal::default();
    let resolver = resolver::Resolver::new(theirs, args.names());
    let ends = ends(addresses);
    let guest =
        agent_proto::Network { nameservers: ends.iter().take(1).map(|ends| ends.gateway).collect(), ends };
    let device = vmm::Network { link, policy, mtu, resolver: Some(ours), journal: journal.clone() };
    Ok(Network { device, guest, beside, resolver, journal })
}

fn policy(args: &NetworkArgs, host: &Host, addresses: &Addresses) -> Policy {
    Policy {
        mac: addresses.mac,
        gateway_mac: addresses.gateway_mac,
        v4: addresses.v4,
        v6: addresses.v6,
        offline: args.is_offline(),
        lan: args.is_lan(),
        allow: args.allow.iter().filter_map(options::Target::rule).collect(),
        deny: args.deny.iter().filter_map(options::Target::rule).collect(),
        host: host.own(),
        on_link: host.networks(),
        guests: addresses.pools.clone(),
    }
}

fn ends(addresses: &Addresses) -> Vec<Ends> {
    let v4 = addresses.v4.map(|ends| Ends {
        guest: IpAddr::V4(ends.guest),
        gateway: IpAddr::V4(ends.gateway),
        prefix: addresses::PREFIX_V4,
    });
    let v6 = addresses.v6.map(|ends| Ends {
        guest: IpAddr::V6(ends.guest),
        gateway: IpAddr::V6(ends.gateway),
        prefix: addresses::PREFIX_V6,
    });
    v4.into_iter().chain(v6).collect()
}
