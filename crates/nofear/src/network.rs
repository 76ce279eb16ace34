//! The VM's network: who the guest is, what it may reach, and what carries its frames.
//!
//! Nothing here needs a right that the user doesn't have. `docs/network.md` says what is promised.

pub mod addresses;
mod dns;
pub mod host;
pub mod options;
mod passt;
pub mod resolver;

use std::net::IpAddr;

use agent_proto::Ends;
use anyhow::{Context, bail};
use vmm::Link;
use vmm::net::filter::Policy;
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
    pub passt: passt::Passt,
    /// Answers the guest's questions for names.
    pub resolver: resolver::Resolver,
}

/// Makes the network that the options ask for; none with `--net none`, or where there is no way to have one.
///
/// # Errors
///
/// When the back end that was asked for can't be had.
pub fn open(args: &NetworkArgs) -> anyhow::Result<Option<Network>> {
    match args.net {
        Mode::None => Ok(None),
        Mode::Passt => match passt::find() {
            Some(program) => by_passt(args, &program).map(Some),
            None => bail!("--net passt: there is no passt here; {}", passt::ADVICE),
        },
        Mode::Auto => {
            let Some(program) = passt::find() else {
                log::warn!("the virtual machine has no network: {}, or use --net none", passt::ADVICE);
                return Ok(None);
            };
            let host = Host::read().context("ask the kernel for this machine's addresses")?;
            if !host.has_route(false) && !host.has_route(true) {
                log::info!("the virtual machine has no network: this machine has no route to one");
                return Ok(None);
            }
            by_passt(args, &program).map(Some)
        }
    }
}

fn by_passt(args: &NetworkArgs, program: &std::path::Path) -> anyhow::Result<Network> {
    let host = Host::read().context("ask the kernel for this machine's addresses")?;
    let addresses = Addresses::choose(&host).context("choose addresses for the virtual machine")?;
    // passt passes long packets on in pieces of the path's size; the longer they are, the fewer there are.
    let mtu = args.mtu.unwrap_or(vmm::net::MAX_MTU);
    let passt = passt::Passt::start(program, &addresses, mtu, &args.publish)?;
    let (ours, theirs) = Channel::pair().context("make a socket for name look-ups")?;
    let policy = policy(args, &host, &addresses);
    let names = args.names();
    let resolver = resolver::Resolver::new(theirs, names, args.offline);
    let ends = ends(&addresses);
    let guest =
        agent_proto::Network { nameservers: ends.iter().take(1).map(|ends| ends.gateway).collect(), ends };
    let link = Link::Passt(passt.stream()?);
    Ok(Network { device: vmm::Network { link, policy, mtu, resolver: Some(ours) }, guest, passt, resolver })
}

fn policy(args: &NetworkArgs, host: &Host, addresses: &Addresses) -> Policy {
    let (published_udp, published_tcp): (Vec<_>, Vec<_>) = args.publish.iter().partition(|p| p.udp);
    let ports = |list: Vec<&options::Publish>| list.into_iter().map(|p| p.guest_port).collect();
    Policy {
        mac: addresses.mac,
        gateway_mac: addresses.gateway_mac,
        v4: addresses.v4,
        v6: addresses.v6,
        offline: args.offline,
        lan: args.lan,
        allow: args.allow.iter().filter_map(options::Target::rule).collect(),
        deny: args.deny.iter().filter_map(options::Target::rule).collect(),
        host: host.addresses(),
        on_link: host.networks(),
        guests: addresses.pools.clone(),
        published_tcp: ports(published_tcp),
        published_udp: ports(published_udp),
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
