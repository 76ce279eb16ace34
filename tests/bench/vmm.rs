//! The VMM of the benchmarks: as an embedder would use it, with nothing of the command beside it.
//!
//! `bench-vmm [--one-process | --unconfined] KERNEL INITRAMFS LINE [TAG=DIRECTORY[,rw]...] [MAC]`: LINE is added to the kernel's command line,
//! and each directory is a 9P share, read-only or not. With an Ethernet address, the standard input is a tap that has
//! it. `--one-process` serves files by threads, and stays in the host's namespaces; `--unconfined` leaves the process and
//! its threads what they had, too: to see what taking it costs.

use std::{env, error::Error, ffi::OsStr, io, net::Ipv4Addr, os::fd::AsFd};

use ninep::{Access, ExportBuilder};
use vmm::net::filter::{self, Ends, Mac};
use vmm::{Config, Exit, Initramfs, Link, Network, Policy, Share};

const USAGE: &str =
    "usage: vmm [--one-process | --unconfined] KERNEL INITRAMFS LINE [TAG=DIRECTORY[,rw]...] [MAC]";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1).peekable();
    let mut policy = Policy::default();
    policy.threads = arguments.next_if(|argument| argument == "--unconfined").is_none();
    policy.processes = policy.threads && arguments.next_if(|argument| argument == "--one-process").is_none();
    policy.namespaces = policy.processes;
    let mut next = || arguments.next().ok_or(USAGE);
    let (kernel, initramfs, line) = (next()?, next()?, next()?);
    let mut config = Config::new(kernel);
    config.memory = 512 << 20;
    config.initramfs.push(Initramfs::File(initramfs.into()));
    config.command_line = line.into_string().map_err(|_| "the line is no text")?;
    for argument in arguments {
        match argument.to_str().and_then(|text| text.parse().ok()) {
            Some(mac) => config.network = Some(network(mac)?),
            None => config.shares.push(share(&argument)?),
        }
    }
    let vm = config.prepare()?.confine(&policy)?;
    let handle = vm.handle();
    let exit = vm.run()?;
    // What the guest had to say, if anything.
    eprint!("{}", String::from_utf8_lossy(&handle.console()));
    match exit {
        Exit::PowerOff => Ok(()),
        exit => Err(format!("the guest ended by {exit}").into()),
    }
}

fn share(argument: &OsStr) -> Result<Share, Box<dyn Error>> {
    let (tag, rest) = argument.to_str().and_then(|text| text.split_once('=')).ok_or(USAGE)?;
    let (directory, access) = match rest.strip_suffix(",rw") {
        Some(directory) => (directory, Access::READ_WRITE),
        None => (rest, Access::READ_ONLY),
    };
    let export = ExportBuilder::new().directory_with("/", directory, access)?.open()?;
    Ok(Share { tag: tag.into(), export })
}

/// The filter as for a program that may reach the Internet, where the other end of the benchmark is.
fn network(gateway_mac: Mac) -> io::Result<Network> {
    let policy = filter::Policy {
        mac: Mac([2, b'n', b'f', 1, 0, 1]),
        gateway_mac,
        v4: Some(Ends { guest: Ipv4Addr::new(10, 9, 0, 2), gateway: Ipv4Addr::new(10, 9, 0, 1) }),
        ..filter::Policy::default()
    };
    let tap = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(Network {
        link: Link::Tap(vec![tap]),
        policy,
        mtu: 1500,
        resolver: None,
        journal: filter::Journal::default(),
    })
}
