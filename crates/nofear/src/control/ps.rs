//! `nofear ps`: the VMs that run.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::client::Vm;
use super::protocol::{LifeState, Status};
use crate::detach::record::{self, Description, End};
use crate::exit;
use crate::profile::image::human;
use crate::text::printable;

/// The most characters of a command that are shown.
const MAX_COMMAND: usize = 60;

/// And of a display's name.
const MAX_DISPLAY: usize = 20;

/// Options of `ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// As a JSON array, for programs
    #[arg(long)]
    json: bool,

    /// Those that were started with 'run --detach' and have ended, too
    #[arg(short, long)]
    all: bool,
}

/// A VM, with what its host knows of its process.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Row {
    #[serde(flatten)]
    status: Status,
    /// The number of its process; none: it has ended.
    pid: Option<u32>,
    /// The host's memory that it takes, in bytes.
    resident: Option<u64>,
    /// CPU time that it took, in milliseconds.
    cpu_ms: Option<u64>,
    /// When and how it ended, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<End>,
}

/// Shows them, and returns the exit status.
pub fn run(args: &PsArgs) -> u8 {
    show(args).map_or_else(
        |e| {
            log::error!("{e:#}");
            exit::FAILED
        },
        |()| 0,
    )
}

fn show(args: &PsArgs) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for vm in Vm::all()? {
        match vm.status() {
            Ok((status, pid)) => {
                let (resident, cpu_ms) = process(pid).unzip();
                rows.push(Row { status, pid: Some(pid), resident, cpu_ms, end: None });
            }
            // It has just ended, or has just begun.
            Err(e) => log::debug!("{e:#}"),
        }
    }
    if args.all {
        for Description { status, end } in record::all()?.into_iter().map(|kept| kept.description) {
            if rows.iter().all(|row| row.status.vm != status.vm) {
                rows.push(Row { status, pid: None, resident: None, cpu_ms: None, end });
            }
        }
    }
    rows.sort_by_key(|row| row.status.started);
    let text = match args.json {
        true => serde_json::to_string_pretty(&rows).context("write JSON")? + "\n",
        false => table(&rows, SystemTime::now()),
    };
    // Not by `print`, which ends the program when nobody reads.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn table(rows: &[Row], now: SystemTime) -> String {
    let longest = rows.iter().map(|row| row.status.vm.len()).max().unwrap_or(0).max(8);
    let mut text = format!(
        "{:<longest$}  {:<16}  {:>7}  {:>8}  {:>10}  {:>8}  {:<9}  COMMAND\n",
        "VM", "PROFILE", "PID", "UP", "MEMORY", "CPU", "DISPLAY"
    );
    for row in rows {
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(row.status.started);
        let until = row.end.map_or(now, |end| SystemTime::UNIX_EPOCH + Duration::from_secs(end.time));
        let up = until.duration_since(started).unwrap_or_default();
        let cpu = row.cpu_ms.map_or("-".into(), |ms| format!("{}.{} s", ms / 1000, ms / 100 % 10));
        let command: Vec<String> = row
            .status
            .command
            .iter()
            .map(|argument| String::from_utf8_lossy(&Vec::from(argument.clone())).into_owned())
            .collect();
        let mut command = match command.is_empty() {
            true => "(login shell)".into(),
            false => printable(&command.join(" "), MAX_COMMAND),
        };
        match row.status.state {
            LifeState::Starting => command += " (starting)",
            LifeState::Paused => command += " (paused)",
            LifeState::Hung => command += " (does not answer)",
            LifeState::Ended => match row.end {
                Some(End { status, .. }) => _ = write!(command, " (ended: {status})"),
                None => command += " (ended)",
            },
            LifeState::Running => {}
        }
        // A String takes whatever is written.
        let _ = writeln!(
            text,
            "{:<longest$}  {:<16}  {:>7}  {:>8}  {:>10}  {:>8}  {:<9}  {command}",
            row.status.vm,
            row.status.profile.as_deref().unwrap_or("-"),
            row.pid.map_or("-".into(), |pid| pid.to_string()),
            if row.status.state == LifeState::Ended && row.end.is_none() { "-".into() } else { duration(up) },
            row.resident.map_or("-".into(), human),
            cpu,
            display(&row.status),
        );
    }
    text
}

/// Where its windows are.
fn display(status: &Status) -> String {
    match &status.display {
        _ if !status.windows || status.state == LifeState::Ended => "-".into(),
        Some(display) => printable(display, MAX_DISPLAY),
        None => "(none)".into(),
    }
}

/// A time in its two largest units.
fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// The memory of a VM's process in bytes, and its CPU time in milliseconds, with what its servers have of their own
/// (proc(5)).
fn process(pid: u32) -> Option<(u64, u64)> {
    let (resident, _, mut cpu) = usage(&pid.to_string())?;
    let mut memory = resident;
    // A kernel may not tell.
    let servers = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for (resident, shared, ms) in servers.split_whitespace().filter_map(usage) {
        memory += resident.saturating_sub(shared);
        cpu += ms;
    }
    Some((memory, cpu))
}

/// A process's memory in bytes, how much of it others may share, and its CPU time in milliseconds.
fn usage(pid: &str) -> Option<(u64, u64, u64)> {
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut pages = statm.split_whitespace().skip(1).map(str::parse::<u64>);
    let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some((resident * page, shared * page, cpu_ms(&stat, rustix::param::clock_ticks_per_second())?))
}

/// The sum of user and system time of a line of `/proc/PID/stat`.
fn cpu_ms(stat: &str, ticks_per_second: u64) -> Option<u64> {
    // The name, which may hold anything, ends with the last parenthesis; the third field is behind it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    (user + system).checked_mul(1000)?.checked_div(ticks_per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            vm: "01234567".into(),
            profile: Some("web".into()),
            command: vec![b"sh".to_vec().into(), b"a\x1b]0;x\nb".to_vec().into(), vec![0xff].into()],
            state: LifeState::Running,
            started: 1000,
            memory: 1 << 30,
            cpus: 2,
            windows: true,
            display: Some(":1\x1b".into()),
        }
    }

    #[test]
    fn a_command_can_not_drive_the_terminal() {
        let row =
            Row { status: status(), pid: Some(7), resident: Some(50 << 20), cpu_ms: Some(1250), end: None };
        let text = table(&[row], SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + 3725));
        let line = text.lines().nth(1).unwrap();
        for part in ["01234567", "web", " 7 ", "1h02m", "50.00 MiB", "1.2 s", "  :1", "sh a"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert_eq!(text.lines().count(), 2);
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn a_display_is_named_while_windows_are_shown_on_it() {
        let shown = status();
        let hidden = Status { display: None, ..status() };
        let none = Status { windows: false, display: None, ..status() };
        let ended = Status { state: LifeState::Ended, ..status() };
        assert!(display(&shown).starts_with(":1"));
        assert_eq!([hidden, none, ended].map(|status| display(&status)), ["(none)", "-", "-"]);
    }

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0";
        assert_eq!(cpu_ms(stat, 100), Some(2000));
        assert_eq!(cpu_ms("7 (x", 100), None);
        assert!(process(std::process::id()).is_some_and(|(resident, _)| resident > 0));
    }

    #[test]
    fn times_have_two_units() {
        let of = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(
            [of(59), of(60), of(3599), of(3600), of(90_000)].join(" "),
            "59s 1m00s 59m59s 1h00m 1d01h"
        );
    }
}
