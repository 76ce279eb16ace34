//! `nofear setup`: what needs root, once: the network's helper, and the list of who may use it.
//!
//! A plan is made of what is missing, shown, and done when the user agrees; so doing it again does nothing, and
//! `--check` shows the same plan and does none of it.

mod steps;

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::helper::{self, ruleset};
use crate::{exit, user};
use steps::{Finding, Step};

/// Options of `setup`.
#[derive(Debug, Args)]
pub struct SetupArgs {
    /// Only show what is there and what is missing; the exit status is 0 if nothing is
    #[arg(long, conflicts_with_all = ["undo", "yes"])]
    check: bool,

    /// Take it back: for this user, and with the last one everything
    #[arg(long)]
    undo: bool,

    /// Don't ask
    #[arg(short, long)]
    yes: bool,

    /// The user, by name or number [default: who runs sudo]
    #[arg(long, value_name = "USER")]
    user: Option<String>,
}

/// What `--check` returns when something is missing.
const INCOMPLETE: u8 = 1;

/// Runs the verb, and returns the exit status.
pub fn run(args: &SetupArgs) -> u8 {
    set_up(args).unwrap_or_else(|e| {
        log::error!("{e:#}");
        exit::FAILED
    })
}

fn set_up(args: &SetupArgs) -> anyhow::Result<u8> {
    let uid = uid(args.user.as_deref())?;
    if args.check {
        return check(uid);
    }
    ensure!(rustix::process::geteuid().is_root(), "setup needs root: run 'sudo nofear setup'");
    let steps = if args.undo { steps::to_undo(uid)? } else { steps::to_do(uid)? };
    if steps.is_empty() {
        say(&["nothing is to be done".into()]);
        return Ok(0);
    }
    let lines = steps.iter().map(|step| format!("- {step}"));
    say(&std::iter::once("This will be done:".to_owned()).chain(lines).collect::<Vec<_>>());
    if !args.yes {
        ensure!(io::stdin().is_terminal(), "nobody is here to agree: say --yes");
        print!("Do it? [y/N] ");
        io::stdout().flush().context("ask")?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).context("read the answer")?;
        ensure!(matches!(answer.trim(), "y" | "Y" | "yes"), "nothing was done");
    }
    steps.iter().try_for_each(Step::perform)?;
    if !args.undo {
        let state = steps::look(uid)?;
        say(&state.iter().filter(|finding| !finding.fine).map(ToString::to_string).collect::<Vec<_>>());
    }
    Ok(0)
}

fn check(uid: u32) -> anyhow::Result<u8> {
    let findings = steps::look(uid)?;
    say(&findings.iter().map(ToString::to_string).collect::<Vec<_>>());
    Ok(if findings.iter().all(|Finding { fine, .. }| *fine) { 0 } else { INCOMPLETE })
}

/// The user that taps are for.
fn uid(named: Option<&str>) -> anyhow::Result<u32> {
    if let Some(named) = named {
        return user::number(named).with_context(|| format!("there is no user {named:?}"));
    }
    for variable in ["SUDO_UID", "PKEXEC_UID"] {
        if let Ok(text) = std::env::var(variable) {
            return text.parse().with_context(|| format!("read {variable}"));
        }
    }
    let own = rustix::process::getuid();
    if own.is_root() && io::stdin().is_terminal() {
        bail!("for which user? Say --user NAME, or --user root");
    }
    Ok(own.as_raw())
}

/// Not by `print`, which ends the program when nobody reads.
fn say(lines: &[String]) {
    let mut out = io::stdout();
    for line in lines {
        let _ = writeln!(out, "{line}");
    }
}

/// Takes back what VMs have left in the kernel.
fn sweep() -> anyhow::Result<()> {
    let _lock = helper::lock()?;
    helper::sweep(&ruleset::State::read()?)
}
