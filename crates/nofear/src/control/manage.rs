//! `nofear pause`, `resume`, `balloon`, `stat` and `debug`: what is done to a VM that runs, and seen of it.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use anyhow::{Context, bail};
use clap::Args;

use super::client::Vm;
use super::protocol::{Ask, Event, Registers, Statistics};
use crate::profile::image::human;
use crate::text::printable;
use crate::{exit, memory};

/// The most characters of a kernel's message that are shown.
const MAX_LINE: usize = 500;

/// How many of the kernel's messages `debug` shows.
const LAST: usize = 20;

/// Options of what needs only a VM.
#[derive(Debug, Args)]
pub struct VmArgs {
    /// The VM: its name, as 'nofear ps' shows it, or its profile's
    vm: String,
}

/// Options of `balloon`.
#[derive(Debug, Args)]
pub struct BalloonArgs {
    /// The VM: its name, as 'nofear ps' shows it, or its profile's
    vm: String,

    /// What the guest is to keep, as 512M or 2G
    #[arg(value_name = "SIZE", value_parser = memory::parse)]
    memory: u64,
}

/// Options of `debug`.
#[derive(Debug, Args)]
pub struct DebugArgs {
    /// The VM: its name, as 'nofear ps' shows it, or its profile's
    vm: String,

    /// Interrupt a CPU of it, which can't be masked: its kernel says where that was, and the VM ends [default: 0]
    #[arg(long, value_name = "CPU", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    nmi: Option<u8>,
}

/// Options of `stat`.
#[derive(Debug, Args)]
pub struct StatArgs {
    /// The VM: its name, as 'nofear ps' shows it, or its profile's
    vm: String,

    /// As a JSON object, for programs
    #[arg(long)]
    json: bool,
}

/// What can be done.
#[derive(Debug)]
pub enum Manage {
    /// Stop its CPUs.
    Pause(VmArgs),
    /// Let them go on.
    Resume(VmArgs),
    /// Take memory from the guest, or give it back.
    Balloon(BalloonArgs),
    /// What was counted.
    Stat(StatArgs),
    /// Where it is.
    Debug(DebugArgs),
}

/// Does it, and returns the exit status.
pub fn run(what: &Manage) -> u8 {
    match text(what) {
        Ok(text) => {
            // Nobody may be there to read it.
            let _ = io::stdout().write_all(text.as_bytes());
            0
        }
        Err(e) => {
            log::error!("{e:#}");
            exit::FAILED
        }
    }
}

/// What is shown of it.
fn text(what: &Manage) -> anyhow::Result<String> {
    Ok(match what {
        Manage::Pause(args) => done(&args.vm, Ask::Pause)?,
        Manage::Resume(args) => done(&args.vm, Ask::Resume)?,
        Manage::Balloon(args) => done(&args.vm, Ask::Balloon { memory: args.memory })?,
        Manage::Stat(args) => match ask(&args.vm, Ask::Statistics)? {
            Event::Statistics(statistics) if args.json => {
                serde_json::to_string_pretty(&statistics).context("write JSON")? + "\n"
            }
            Event::Statistics(statistics) => table(&statistics),
            other => bail!("the VM answered {other:?}"),
        },
        Manage::Debug(args) => {
            let what = args.nmi.map_or(Ask::Registers, |cpu| Ask::Nmi { cpu });
            let is_last = matches!(what, Ask::Nmi { .. });
            let mut text = match ask(&args.vm, what)? {
                Event::Registers { cpus } => places(&cpus),
                other => bail!("the VM answered {other:?}"),
            };
            if is_last {
                return Ok(text);
            }
            let messages = log(&args.vm)?;
            let lines: Vec<&str> = messages.lines().collect();
            let _ = writeln!(text, "the kernel's last messages:");
            for line in &lines[lines.len().saturating_sub(LAST)..] {
                let _ = writeln!(text, "  {line}");
            }
            text
        }
    })
}

fn ask(vm: &str, ask: Ask) -> anyhow::Result<Event> {
    let vm = Vm::open(vm)?;
    match vm.ask(ask)?.next()? {
        Some(Event::Error { text }) => bail!("the VM {} refused: {text}", vm.id),
        Some(event) => Ok(event),
        None => bail!("the VM {} is about to end", vm.id),
    }
}

fn done(vm: &str, what: Ask) -> anyhow::Result<String> {
    match ask(vm, what)? {
        Event::Done => Ok(String::new()),
        other => bail!("the VM answered {other:?}"),
    }
}

/// The last messages of its kernel. The guest chose the bytes: they don't drive the terminal.
pub fn log(vm: &str) -> anyhow::Result<String> {
    match ask(vm, Ask::Log)? {
        Event::Log { text } => {
            let bytes = Vec::from(text);
            let lines = String::from_utf8_lossy(&bytes);
            Ok(lines.lines().map(|line| printable(line.trim_end(), MAX_LINE) + "\n").collect())
        }
        other => bail!("the VM answered {other:?}"),
    }
}

fn table(statistics: &Statistics) -> String {
    let mut text = String::new();
    let Statistics { memory, balloon_asked, balloon_held, reported_free, .. } = statistics;
    // A String takes whatever is written.
    let _ = writeln!(text, "{:<24}{:>14}", "memory of the guest", human(*memory));
    let _ = writeln!(text, "{:<24}{:>14}", "  it is to do without", human(*balloon_asked));
    let _ = writeln!(text, "{:<24}{:>14}", "  it does without", human(*balloon_held));
    let _ = writeln!(text, "{:<24}{:>14}", "  reported as free", human(*reported_free));
    let _ = writeln!(
        text,
        "{:<8}{:>16}{:>16}{:>12}{:>12}{:>10}",
        "CPU", "register reads", "register writes", "port reads", "port writes", "other"
    );
    for (number, cpu) in statistics.cpus.iter().enumerate() {
        let _ = writeln!(
            text,
            "{number:<8}{:>16}{:>16}{:>12}{:>12}{:>10}",
            cpu.memory_reads, cpu.memory_writes, cpu.port_reads, cpu.port_writes, cpu.other
        );
    }
    let _ = writeln!(
        text,
        "{:<16}{:>12}{:>16}{:>16}{:>10}",
        "DEVICE", "requests", "from guest", "to guest", "errors"
    );
    for device in &statistics.devices {
        let (from, to) = (human(device.from_guest), human(device.to_guest));
        // A share's tag is the user's.
        let name = printable(&device.name, MAX_LINE);
        let _ = writeln!(text, "{name:<16}{:>12}{from:>16}{to:>16}{:>10}", device.requests, device.errors);
    }
    text
}

fn places(cpus: &[Option<Registers>]) -> String {
    let mut text = String::new();
    for (number, registers) in cpus.iter().enumerate() {
        match registers {
            Some(Registers(registers)) => {
                let _ = writeln!(text, "CPU {number}:");
                let all: Vec<_> =
                    registers.iter().map(|(name, value)| format!("{name:>6} {value:<18}")).collect();
                for row in all.chunks(4) {
                    let _ = writeln!(text, "  {}", row.join("").trim_end());
                }
            }
            None => {
                let _ = writeln!(text, "CPU {number}: does not come out of the guest");
            }
        }
    }
    text
}
