//! `nofear net log`: what a VM's network has refused, and how much of it.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use vmm::net::filter::{Refusal, Refusals};

use super::client::Vm;
use super::protocol::{Ask, Event, NetCount, NetLine};
use crate::exit;
use crate::text::printable;

/// How often `--follow` asks.
const EVERY: Duration = Duration::from_secs(1);

/// The most characters of a line that are shown.
const MAX_TEXT: usize = 300;

/// Options of `net`.
#[derive(Debug, Args)]
pub struct NetArgs {
    #[command(subcommand)]
    verb: Verb,
}

/// What is asked of a VM's network.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what the network of a virtual machine has refused, and why
    ///
    /// A destination is named once, and at most one line in two seconds is written; the numbers at the end count
    /// every packet.
    Log(LogArgs),
}

/// Options of `net log`.
#[derive(Debug, Args)]
struct LogArgs {
    /// The VM: its name, as 'nofear ps' shows it, or its profile's
    vm: String,

    /// As a JSON object, for programs
    #[arg(long)]
    json: bool,

    /// Go on with what is refused from now on, until the VM ends
    #[arg(short, long, conflicts_with = "json")]
    follow: bool,
}

/// What a journal holds after the line of this number.
pub fn event(refusals: &Refusals, after: u64) -> Event {
    let lines = refusals.entries().filter(|entry| entry.number > after).map(|entry| {
        let since = entry.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        NetLine { number: entry.number, time, text: entry.text.clone() }
    });
    let reason = |refusal: Refusal| match refusal {
        // One number stands for all.
        Refusal::Protocol(_) => "another protocol".to_owned(),
        Refusal::Icmp(_) => "another ICMP type".to_owned(),
        refusal => refusal.to_string(),
    };
    let counts = refusals.counts().filter(|(_, frames)| *frames > 0);
    let counts = counts.map(|(refusal, frames)| NetCount { reason: reason(refusal), frames });
    Event::NetLog { lines: lines.collect(), counts: counts.collect() }
}

/// Shows it, and returns the exit status.
pub fn run(args: &NetArgs) -> u8 {
    let Verb::Log(args) = &args.verb;
    show(args).map_or_else(
        |e| {
            log::error!("{e:#}");
            exit::FAILED
        },
        |()| 0,
    )
}

fn show(args: &LogArgs) -> anyhow::Result<()> {
    let vm = Vm::open(&args.vm)?;
    let (mut lines, counts) = ask(&vm, 0)?;
    if args.json {
        let event = Event::NetLog { lines, counts };
        return say(&(serde_json::to_string_pretty(&event).context("write JSON")? + "\n"));
    }
    say(&table(&lines, &counts))?;
    if !args.follow {
        return Ok(());
    }
    let mut after = 0;
    loop {
        after = lines.last().map_or(after, |line| line.number);
        thread::sleep(EVERY);
        if !vm.lives()? {
            return Ok(());
        }
        lines = ask(&vm, after)?.0;
        say(&table(&lines, &[]))?;
    }
}

fn ask(vm: &Vm, after: u64) -> anyhow::Result<(Vec<NetLine>, Vec<NetCount>)> {
    match vm.ask(Ask::NetLog { after })?.next()? {
        Some(Event::NetLog { lines, counts }) => Ok((lines, counts)),
        Some(Event::Error { text }) => bail!("the VM {}: {text}", vm.id),
        other => bail!("the VM {} answered {other:?}", vm.id),
    }
}

fn table(lines: &[NetLine], counts: &[NetCount]) -> String {
    let mut text = String::new();
    for line in lines {
        let time = i64::try_from(line.time).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let time = time.map(|time| format!("{time:.3}"));
        // A String takes whatever is written.
        let _ = writeln!(text, "{}  {}", time.unwrap_or_default(), printable(&line.text, MAX_TEXT));
    }
    for count in counts {
        let _ = writeln!(text, "{:>8}  {}", count.frames, printable(&count.reason, MAX_TEXT));
    }
    text
}

/// Not by `print`, which ends the program when nobody reads.
fn say(text: &str) -> anyhow::Result<()> {
    io::stdout().write_all(text.as_bytes()).context("write the standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_their_time_and_counts_stand_below() {
        let lines =
            [NetLine { number: 1, time: 3_723_000, text: "refused TCP to 10.0.0.1 port 80: \u{1b}x".into() }];
        let counts = [NetCount { reason: "a local network".into(), frames: 12 }];
        let text = table(&lines, &counts);
        assert_eq!(text.lines().count(), 2);
        assert!(text.starts_with("1970-01-01T01:02:03.000Z  refused TCP to 10.0.0.1 port 80: "), "{text}");
        assert!(!text.contains('\u{1b}') && text.ends_with("      12  a local network\n"), "{text}");
    }

    #[test]
    fn a_journal_is_told_from_a_line_on_and_counts_everything() {
        let journal = vmm::net::filter::Journal::default();
        for name in ["one.test", "two.test"] {
            journal.open().say(|| format!("refused to look {name} up"), std::time::Instant::now());
        }
        let Event::NetLog { lines, counts } = event(&journal.open(), 1) else { panic!() };
        assert_eq!((lines.len(), lines[0].number, counts.len()), (1, 2, 0));
        assert_eq!(lines[0].text, "refused to look two.test up");
    }
}
