//! `nofear logs`: what a detached VM's command has said, also when it has ended; or a VM's kernel.

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::client::Vm;
use super::manage;
use crate::detach::record::{self, Kept};
use crate::exit;
use crate::text::plain;

/// How often `--follow` looks.
const LOOK: Duration = Duration::from_millis(200);

/// Options of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The VM: its name, as 'nofear ps' shows it, or its profile's
    vm: String,

    /// Show its kernel's messages: the last 64 KiB
    #[arg(short, long)]
    kernel: bool,

    /// Go on with what is said from now on, until the VM ends
    #[arg(short, long, conflicts_with = "kernel")]
    follow: bool,
}

/// Shows it, and returns the exit status.
pub fn run(args: &LogsArgs) -> u8 {
    show(args).map_or_else(
        |e| {
            log::error!("{e:#}");
            exit::FAILED
        },
        |()| 0,
    )
}

fn show(args: &LogsArgs) -> anyhow::Result<()> {
    let running = Vm::find(&args.vm)?;
    let name = running.as_ref().map_or(args.vm.as_str(), |vm| vm.id.as_str());
    // What is left of an older VM of that name is not of this one.
    let kept = record::find(name)?.filter(|kept| running.is_none() || kept.description.end.is_none());
    match (running, kept) {
        (Some(_), None) if args.follow => bail!(
            "what the command of the VM {} says goes to where it was started: it was not started with --detach",
            args.vm
        ),
        (None, Some(_)) if args.kernel => {
            bail!("the VM {} has ended, and its kernel's messages with it", args.vm)
        }
        (vm, Some(kept)) if !args.kernel => output(vm.as_ref().filter(|_| args.follow), &kept),
        (Some(vm), _) => {
            write(manage::log(&vm.id)?.as_bytes());
            Ok(())
        }
        (None, _) => bail!(
            "no VM runs that is {}, and none of that name was started with --detach; 'nofear ps --all' shows those \
             there are",
            args.vm
        ),
    }
}

/// What was said, and what will be as long as a VM lives.
fn output(vm: Option<&Vm>, kept: &Kept) -> anyhow::Result<()> {
    let mut output = kept.output();
    loop {
        let lives = match vm {
            Some(vm) => vm.lives()?,
            None => false,
        };
        // Its keeper may still be writing when the VM has ended.
        let is_last =
            !lives && (vm.is_none() || kept.again().is_none_or(|kept| kept.description.end.is_some()));
        let said = output.read().context("read what the VM has said")?;
        write(&said);
        if is_last {
            return Ok(());
        }
        thread::sleep(LOOK);
    }
}

/// The guest chose the bytes: as they are for a program, and without what drives it for a terminal.
fn write(bytes: &[u8]) {
    let mut stdout = io::stdout();
    // Nobody may be there to read it.
    let _ = match stdout.is_terminal() {
        true => stdout.write_all(plain(bytes).as_bytes()),
        false => stdout.write_all(bytes),
    };
}
