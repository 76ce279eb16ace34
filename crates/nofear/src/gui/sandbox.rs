//! Landlock around the client for windows, where bubblewrap is not to be had.
//!
//! As much as the kernel has: files since 5.13, TCP since 6.7, signals since 6.12.

use std::path::{Path, PathBuf};

use anyhow::Context;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};

/// What is known of Landlock here.
const VERSION: ABI = ABI::V6;

/// Devices that programs expect to be able to open.
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"];

/// Xpra reads /proc/cpuinfo before it connects. Of processes outside, Landlock itself hides what tells of their memory
/// and environment; their names and arguments can be read.
const PROCESSES: &str = "/proc";

/// From here on this process, and what it starts, can read and execute what is below `readable`, write nothing, and
/// connect to no port but `tcp_port`.
pub fn enter(readable: &[PathBuf], tcp_port: Option<u16>) -> anyhow::Result<()> {
    let readable = readable.iter().map(PathBuf::as_path).chain([Path::new(PROCESSES)]);
    let devices = DEVICES.iter().map(Path::new);
    let make = || {
        let rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(VERSION))?
            .handle_access(AccessNet::from_all(VERSION))?
            // Not abstract sockets: X's is one, and where it can't be reached its library does not try the other.
            .scope(Scope::Signal)?
            .create()?
            .add_rules(path_beneath_rules(readable, AccessFs::from_read(VERSION)))?
            .add_rules(path_beneath_rules(devices, AccessFs::ReadFile | AccessFs::WriteFile))?;
        let rules = match tcp_port {
            Some(port) => rules.add_rule(NetPort::new(port, AccessNet::ConnectTcp))?,
            None => rules,
        };
        rules.restrict_self()
    };
    let status = make().context("set Landlock up")?;
    if status.ruleset == RulesetStatus::NotEnforced {
        // A program of the host's then, like any other that reads what others send.
        eprintln!(
            "nofear: this kernel has no Landlock and bubblewrap is not to be had: the client is not confined"
        );
    }
    Ok(())
}
