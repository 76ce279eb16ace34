//! `nofear wait`: how a VM ends.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

use super::client::Vm;
use super::protocol::{Ask, Event};
use crate::detach::record::{self, Kept};
use crate::exit;

/// How often it is looked whether a VM that has said so has ended.
const LOOK: Duration = Duration::from_millis(50);

/// How long the keeper of a VM may take to write down how it ended.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);

/// Options of `wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// The VM: its name, as 'nofear ps' shows it, or its profile's
    vm: String,
}

/// Waits, and returns the exit status.
pub fn run(args: &WaitArgs) -> u8 {
    wait(&args.vm).unwrap_or_else(|e| {
        log::error!("{e:#}");
        exit::FAILED
    })
}

fn wait(name: &str) -> anyhow::Result<u8> {
    let Some(vm) = Vm::find(name)? else {
        let kept = record::find(name)?;
        let kept = kept.with_context(|| {
            format!("no VM runs that is {name}, and of none is it known how it ended; 'nofear ps --all' shows those")
        })?;
        return written(&kept);
    };
    let told = until_told(&vm);
    while vm.lives()? {
        thread::sleep(LOOK);
    }
    match told {
        Ok(status) => Ok(status),
        // It was killed; a detached one's keeper knows.
        Err(e) => match record::find(&vm.id)? {
            Some(kept) => written(&kept),
            None => Err(e),
        },
    }
}

/// What the VM says of its end.
fn until_told(vm: &Vm) -> anyhow::Result<u8> {
    let mut channel = vm.ask(Ask::Wait)?;
    channel.wait_for_ever()?;
    match channel.next()? {
        Some(Event::Ended { status: Some(status), .. }) => Ok(status),
        Some(Event::Error { text }) => bail!("the VM {} refused: {text}", vm.id),
        Some(other) => bail!("the VM {} answered {other:?}", vm.id),
        None => bail!("the VM {} ended without a word: it was killed", vm.id),
    }
}

/// What is written of an end.
fn written(kept: &Kept) -> anyhow::Result<u8> {
    let until = Instant::now() + WRITTEN_WITHIN;
    loop {
        if let Some(end) = kept.again().and_then(|kept| kept.description.end) {
            return Ok(end.status);
        }
        if Instant::now() > until {
            bail!("it is not known how the VM {} ended: its keeper was killed", kept.description.status.vm);
        }
        thread::sleep(LOOK);
    }
}
