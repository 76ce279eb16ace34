//! `nofear stop`: ends VMs. The guest is asked, and has time to write everything back; with `--force` it is not.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use super::client::{Channel, Vm};
use super::protocol::{Ask, Event};
use crate::exit;

/// How long a VM may take to end: a minute to write everything back, and what it takes to end its threads.
const PATIENCE: Duration = Duration::from_secs(75);

/// How often it is looked whether it has ended, once its process has said that it will.
const LOOK: Duration = Duration::from_millis(20);

/// Options of `stop`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// The VMs: their names, as 'nofear ps' shows them, or their profiles'
    #[arg(value_name = "VM", required_unless_present = "all")]
    vms: Vec<String>,

    /// All that run
    #[arg(short, long, conflicts_with = "vms")]
    all: bool,

    /// At once: what the guest has not written to its profile is lost
    #[arg(short, long)]
    force: bool,
}

/// Ends them, and returns the exit status.
pub fn run(args: &StopArgs) -> u8 {
    let vms: anyhow::Result<Vec<Vm>> = match args.all {
        true => Vm::all(),
        false => args.vms.iter().map(|name| Vm::open(name)).collect(),
    };
    let results: Vec<anyhow::Result<()>> = match vms {
        // All at a time: each may take long.
        Ok(vms) => thread::scope(|scope| {
            let threads: Vec<_> = vms.iter().map(|vm| scope.spawn(|| stop(vm, args.force))).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of this program failed")))
            };
            threads.into_iter().map(join).collect()
        }),
        Err(e) => vec![Err(e)],
    };
    let mut status = 0;
    for error in results.into_iter().filter_map(Result::err) {
        log::error!("{error:#}");
        status = exit::FAILED;
    }
    status
}

fn stop(vm: &Vm, force: bool) -> anyhow::Result<()> {
    match vm.ask(Ask::Stop { force }) {
        Ok(mut channel) => {
            if let Err(e) = agree(vm, &mut channel) {
                ensure!(force, "{e:#}: end it with --force");
                log::info!("{e:#}");
                let pid = i32::try_from(channel.pid()?).ok().and_then(Pid::from_raw);
                let pid = pid.with_context(|| format!("the process of the VM {} is not seen here", vm.id))?;
                return kill_process(pid, Signal::KILL).with_context(|| format!("kill the VM {}", vm.id));
            }
        }
        // One that is about to end takes no requests any more.
        Err(e) => log::debug!("{e:#}"),
    }
    let until = Instant::now() + PATIENCE;
    while vm.lives()? {
        ensure!(Instant::now() < until, "the VM {} has not ended for {} s", vm.id, PATIENCE.as_secs());
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Waits until the VM agrees, and then closes the connection, which it does when it is about to end.
fn agree(vm: &Vm, channel: &mut Channel) -> anyhow::Result<()> {
    let answer = channel.next().with_context(|| format!("the VM {} can't be ended in order", vm.id))?;
    ensure!(answer == Some(Event::Stopping), "the VM {} did not agree to end", vm.id);
    while channel.next()?.is_some() {}
    Ok(())
}
