//! The one nftables table of ours, as text for nft(8) and as nft lists it.
//!
//! Behind the device's filter, which judges each frame, it is the second line: whatever comes out of a tap is held
//! to the same destinations by the kernel. It also masquerades. Two chains for each VM, for what goes to this
//! machine and what goes through it; sets remember which sysctls were changed, for as long as that holds.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;
use vmm::net::filter::{Cidr, Ranges, Rule, ranges};

use crate::network::addresses::Addresses;

#[cfg(test)]
mod tests;

/// Where nft may be; nothing in the user's environment says.
const NFT: [&str; 4] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];

/// The table.
pub const TABLE: &str = "nofear";

/// How the taps' names begin.
pub const PREFIX: &str = "nofear";

/// Interfaces on which IPv4 forwarding was switched on.
pub const ON_V4: &str = "on4";
/// Holds "all" when IPv6 forwarding was switched on.
pub const ON_V6: &str = "on6";
/// Interfaces that had IPv6 forwarding before.
pub const WAS_V6: &str = "was6";
/// Interfaces whose `accept_ra` was 1.
pub const RA_V6: &str = "ra6";

/// A VM with a tap.
#[derive(Clone, Debug)]
pub struct Vm {
    /// The tap.
    pub interface: String,
    /// Who the guest is.
    pub addresses: Addresses,
    /// Networks that this machine is on.
    pub on_link: Vec<Cidr>,
    /// Local networks are open.
    pub lan: bool,
    /// Only what is allowed is.
    pub offline: bool,
    /// What is open.
    pub allow: Vec<Rule>,
    /// What is closed.
    pub deny: Vec<Rule>,
}

/// What the table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// It is there.
    pub exists: bool,
    /// The taps that it has chains for.
    pub vms: Vec<String>,
    /// The sets' elements.
    sets: Vec<(String, Vec<String>)>,
}

impl State {
    /// Asks nft.
    pub fn read() -> anyhow::Result<Self> {
        let tables = list(&["list", "tables"])?;
        let ours = |entry: &Value| entry["table"]["name"] == TABLE && entry["table"]["family"] == "inet";
        if !tables.iter().any(ours) {
            return Ok(Self::default());
        }
        Ok(Self::of(&list(&["list", "table", "inet", TABLE])?))
    }

    fn of(entries: &[Value]) -> Self {
        let mut state = Self { exists: true, ..Self::default() };
        for entry in entries {
            let chain = entry["chain"]["name"].as_str().and_then(|name| name.strip_suffix(THROUGH));
            state.vms.extend(chain.map(ToOwned::to_owned));
            if let (Some(name), Some(elements)) =
                (entry["set"]["name"].as_str(), entry["set"]["elem"].as_array())
            {
                let elements = elements.iter().filter_map(|one| one.as_str().map(ToOwned::to_owned));
                state.sets.push((name.to_owned(), elements.collect()));
            }
        }
        state
    }

    /// A set's elements.
    pub fn set(&self, name: &str) -> &[String] {
        self.sets
            .iter()
            .find(|(set, _)| set == name)
            .map(|(_, elements)| elements.as_slice())
            .unwrap_or_default()
    }
}

/// Everything that nft knows, of others too.
pub fn all() -> anyhow::Result<Vec<Value>> {
    list(&["list", "ruleset"])
}

/// How a VM's chains end: for what goes through this machine, and for what goes to it.
const THROUGH: &str = "_through";
const INPUT: &str = "_input";

/// Adds a VM, and the table if it is not there.
pub fn add(vm: &Vm) -> anyhow::Result<()> {
    run(&(table() + &chains(vm)))
}

/// Removes a VM's chains.
pub fn remove(interface: &str) -> anyhow::Result<()> {
    let mut text = String::new();
    for (map, suffix) in [("through", THROUGH), ("to_host", INPUT)] {
        // `add` first: what a killed helper has not made can be deleted, too.
        let _ = writeln!(text, "add chain inet {TABLE} {interface}{suffix}");
        let _ =
            writeln!(text, "add element inet {TABLE} {map} {{ {interface:?} : goto {interface}{suffix} }}");
        let _ = writeln!(text, "delete element inet {TABLE} {map} {{ {interface:?} }}");
        let _ = writeln!(text, "delete chain inet {TABLE} {interface}{suffix}");
    }
    run(&text)
}

/// Removes the table.
pub fn remove_all() -> anyhow::Result<()> {
    run(&format!("add table inet {TABLE}\ndelete table inet {TABLE}\n"))
}

/// Remembers something in a set.
pub fn remember(set: &str, elements: &[String]) -> anyhow::Result<()> {
    if elements.is_empty() {
        return Ok(());
    }
    let elements: Vec<String> = elements.iter().map(|one| format!("{one:?}")).collect();
    run(&format!("add element inet {TABLE} {set} {{ {} }}\n", elements.join(", ")))
}

/// Forgets what is in a set.
pub fn forget(set: &str) -> anyhow::Result<()> {
    run(&format!("flush set inet {TABLE} {set}\n"))
}

/// The table with its base chains, made anew in one step: adding what is there does nothing.
///
/// What was forwarded on an interface only because of us, and is not ours, is dropped: it was before.
fn table() -> String {
    let mut text = format!("add table inet {TABLE}\n");
    for set in [ON_V4, ON_V6, WAS_V6, RA_V6] {
        let _ = writeln!(text, "add set inet {TABLE} {set} {{ type ifname; }}");
    }
    for map in ["through", "to_host"] {
        let _ = writeln!(text, "add map inet {TABLE} {map} {{ type ifname : verdict; }}");
    }
    for (chain, hook) in [
        ("input", "type filter hook input priority filter - 5; policy accept;"),
        ("forward", "type filter hook forward priority filter - 5; policy accept;"),
        ("output", "type filter hook output priority filter - 5; policy accept;"),
        ("postrouting", "type nat hook postrouting priority srcnat;"),
    ] {
        let _ =
            writeln!(text, "add chain inet {TABLE} {chain} {{ {hook} }}\nflush chain inet {TABLE} {chain}");
    }
    for rule in [
        "input iifname vmap @to_host",
        &format!("input iifname \"{PREFIX}*\" counter drop"),
        &format!("forward iifname \"{PREFIX}*\" oifname \"{PREFIX}*\" counter drop"),
        &format!("forward oifname \"{PREFIX}*\" ct state established,related accept"),
        &format!("forward oifname \"{PREFIX}*\" counter drop"),
        "forward iifname vmap @through",
        &format!("forward iifname \"{PREFIX}*\" counter drop"),
        &format!("forward meta nfproto ipv4 iifname @{ON_V4} counter drop"),
        &format!("output oifname \"{PREFIX}*\" ct state established,related accept"),
        &format!("output oifname \"{PREFIX}*\" counter drop"),
        &format!("postrouting iifname \"{PREFIX}*\" oifname != \"{PREFIX}*\" masquerade"),
    ] {
        let _ = writeln!(text, "add rule inet {TABLE} {rule}");
    }
    text
}

/// For as long as IPv6 is forwarded for us alone.
pub fn close_v6() -> anyhow::Result<()> {
    run(&format!("add rule inet {TABLE} forward meta nfproto ipv6 counter drop\n"))
}

/// A VM's chains, and what leads to them.
fn chains(vm: &Vm) -> String {
    let Vm { interface, addresses, on_link, lan, offline, allow, deny } = vm;
    let Ranges { never, private, special } = ranges();
    let mut text = String::new();
    for (map, suffix) in [("through", THROUGH), ("to_host", INPUT)] {
        let chain = format!("{interface}{suffix}");
        let _ = writeln!(text, "add chain inet {TABLE} {chain}\nflush chain inet {TABLE} {chain}");
        let mut rule = |rule: &str| {
            let _ = writeln!(text, "add rule inet {TABLE} {chain} {rule}");
        };
        match addresses.v4 {
            Some(ends) => rule(&format!("ip saddr != {} counter drop", ends.guest)),
            None => rule("meta nfproto ipv4 counter drop"),
        }
        match addresses.v6 {
            Some(ends) => rule(&format!("ip6 saddr != {} counter drop", ends.guest)),
            None => rule("meta nfproto ipv6 counter drop"),
        }
        // Behind a translator there is an IPv4 address, which the device's filter reads.
        rule("ip6 daddr != { 64:ff9b::/96, 2000::/3, fc00::/7, fe80::/10, fec0::/10 } counter drop");
        never.iter().chain(&addresses.pools).for_each(|range| rule(&to(range, "counter drop")));
        deny.iter().flat_map(|one| by_port(one, "counter drop")).for_each(|one| rule(&one));
        allow.iter().flat_map(|one| by_port(one, "accept")).for_each(|one| rule(&one));
        if suffix == THROUGH && !offline {
            special.iter().for_each(|range| rule(&to(range, "counter drop")));
            if !lan {
                private.iter().chain(on_link).for_each(|range| rule(&to(range, "counter drop")));
            }
            rule("accept");
        }
        rule("counter drop");
        let _ = writeln!(text, "add element inet {TABLE} {map} {{ {interface:?} : goto {chain} }}");
    }
    text
}

fn to(range: &Cidr, verdict: &str) -> String {
    let family = if range.address().is_ipv4() { "ip" } else { "ip6" };
    format!("{family} daddr {range} {verdict}")
}

fn by_port(rule: &Rule, verdict: &str) -> Vec<String> {
    match rule.port {
        None => vec![to(&rule.range, verdict)],
        Some(port) => {
            ["tcp", "udp"].map(|it| to(&rule.range, &format!("{it} dport {port} {verdict}"))).into()
        }
    }
}

/// Where nft is.
pub fn nft() -> Option<&'static str> {
    NFT.into_iter().find(|path| Path::new(path).is_file())
}

fn command() -> anyhow::Result<Command> {
    let nft = nft().context("there is no nft here: install nftables")?;
    let mut command = Command::new(nft);
    command.env_clear().env("LC_ALL", "C").current_dir("/");
    Ok(command)
}

fn list(what: &[&str]) -> anyhow::Result<Vec<Value>> {
    let output = command()?.arg("--json").args(what).stdin(Stdio::null()).output().context("start nft")?;
    if !output.status.success() {
        bail!("nft {}: {}", what.join(" "), first_line(&output.stderr));
    }
    let mut listed: Value = serde_json::from_slice(&output.stdout).context("read what nft lists")?;
    match listed["nftables"].take() {
        Value::Array(entries) => Ok(entries),
        _ => bail!("nft lists no array"),
    }
}

/// All of it or nothing.
fn run(script: &str) -> anyhow::Result<()> {
    let mut child = command()?
        .args(["--file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start nft")?;
    if let Some(mut stdin) = child.stdin.take() {
        // What nft does not read it complains about.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().context("wait for nft")?;
    if !output.status.success() {
        bail!("write firewall rules: nft: {}", first_line(&output.stderr));
    }
    Ok(())
}

fn first_line(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    crate::text::printable(text.lines().next().unwrap_or("no reason given"), 300)
}
