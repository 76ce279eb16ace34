//! Sysctls that let packets through: of the taps, and of the interfaces that answers come in by.
//!
//! IPv4 is switched on interface by interface, never for all: so a switch for all is somebody else's, and shows
//! that forwarding is wanted beyond us. IPv6 has only the one for all; where it is off, interfaces that learn
//! routes from routers must be told to go on (`accept_ra` 2). What was not forwarded before, and is not ours, is
//! dropped by our table for as long as the switches are ours.

use std::fs;

use anyhow::Context;

use super::ruleset::{self, ON_V4, ON_V6, PREFIX, RA_V6, State, Vm, WAS_V6};

const ROOT: &str = "/proc/sys/net";

/// Lets a VM's packets pass, and their answers.
pub fn turn_on(vm: &Vm) -> anyhow::Result<()> {
    let state = State::read()?;
    if vm.addresses.v4.is_some() {
        set("ipv4", &vm.interface, "forwarding", "1")?;
        turn_on_v4()?;
    }
    if vm.addresses.v6.is_some() || !state.set(ON_V6).is_empty() {
        turn_on_v6(&state)?;
    }
    Ok(())
}

/// An interface has come, or somebody has switched forwarding.
pub fn follow(vm: &Vm) -> anyhow::Result<()> {
    if vm.addresses.v4.is_some() {
        turn_on_v4()?;
    }
    // One that has come since, and would not learn its routes.
    let deaf = |name: &String| get("ipv6", name, "accept_ra") == "1";
    if interfaces("ipv6").iter().any(deaf) && !State::read()?.set(ON_V6).is_empty() {
        keep_routers()?;
    }
    Ok(())
}

/// Interfaces that learn their routes from routers go on, though this machine forwards.
fn keep_routers() -> anyhow::Result<()> {
    let all = interfaces("ipv6").into_iter();
    let routers: Vec<String> = all.filter(|name| get("ipv6", name, "accept_ra") == "1").collect();
    ruleset::remember(RA_V6, &routers)?;
    routers.iter().try_for_each(|name| set("ipv6", name, "accept_ra", "2"))
}

fn turn_on_v4() -> anyhow::Result<()> {
    if get("ipv4", "all", "forwarding") == "1" {
        // Others forward, too: what passes is theirs to say.
        return ruleset::forget(ON_V4);
    }
    let off: Vec<String> =
        interfaces("ipv4").into_iter().filter(|name| get("ipv4", name, "forwarding") == "0").collect();
    // First what keeps others' packets from passing.
    ruleset::remember(ON_V4, &off)?;
    off.iter().try_for_each(|name| set("ipv4", name, "forwarding", "1"))
}

fn turn_on_v6(state: &State) -> anyhow::Result<()> {
    if !state.set(ON_V6).is_empty() {
        // The table's chains were made anew.
        return ruleset::close_v6();
    }
    if get("ipv6", "all", "forwarding") != "0" {
        return Ok(());
    }
    let names = interfaces("ipv6");
    let was: Vec<String> = names.into_iter().filter(|name| get("ipv6", name, "forwarding") == "1").collect();
    ruleset::remember(ON_V6, &["all".into()])?;
    ruleset::remember(WAS_V6, &was)?;
    ruleset::close_v6()?;
    keep_routers()?;
    set("ipv6", "all", "forwarding", "1")
}

/// Makes everything as it was. What can't be is an interface that is gone.
pub fn turn_off(state: &State) {
    if get("ipv4", "all", "forwarding") == "0" {
        for name in state.set(ON_V4) {
            let _ = set("ipv4", name, "forwarding", "0");
        }
    }
    if state.set(ON_V6).is_empty() {
        return;
    }
    let _ = set("ipv6", "all", "forwarding", "0");
    for name in state.set(WAS_V6) {
        let _ = set("ipv6", name, "forwarding", "1");
    }
    for name in state.set(RA_V6).iter().filter(|name| get("ipv6", name, "accept_ra") == "2") {
        let _ = set("ipv6", name, "accept_ra", "1");
    }
}

/// All but ours, and the loopback interface.
fn interfaces(version: &str) -> Vec<String> {
    let entries = fs::read_dir(format!("{ROOT}/{version}/conf")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    // nft takes no name with other characters between quotes.
    let plain = |name: &String| !name.contains(['"', '\\', '*']);
    names
        .filter(|name| {
            !["all", "default", "lo"].contains(&&**name) && !name.starts_with(PREFIX) && plain(name)
        })
        .collect()
}

fn get(version: &str, interface: &str, key: &str) -> String {
    let text = fs::read_to_string(format!("{ROOT}/{version}/conf/{interface}/{key}")).unwrap_or_default();
    text.trim().to_owned()
}

fn set(version: &str, interface: &str, key: &str, value: &str) -> anyhow::Result<()> {
    let path = format!("{ROOT}/{version}/conf/{interface}/{key}");
    fs::write(&path, value).with_context(|| format!("write {path}"))
}
