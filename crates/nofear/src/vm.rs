//! A VM from its configuration to the end of its command.

use std::path::Path;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, SystemTime};

use agent_proto::{CommandId, Configure, HOST_PORT, ROOT_TAG, Run};
use anyhow::Context;
use rustix::rand::{GetRandomFlags, getrandom};
use vmm::{Config, Console, Door, Exit, Initramfs, Policy, Reach, Share, ThreadKind, Vsock, VsockPort};

use crate::control::protocol::Status;
use crate::control::server::Server;
use crate::detach::Reporter;
use crate::gui::Gui;
use crate::images::{self, Image};
use crate::network::{Network, publish};
use crate::runtime_dir::RuntimeDir;
use crate::session::{Ending, GuestFailed, Session};
use crate::signals::Signals;
use crate::software::SoftwareWatch;
use crate::streams::{Event, Pumps, StandardStreams, inbox};
use crate::terminal::Terminal;
use crate::{exports, memory, text};

/// The most CPUs that a VM gets unasked.
const DEFAULT_CPUS: usize = 4;

/// A CID is seen by its own guest only, so every guest has the first one.
const GUEST_CID: u32 = 3;

/// How long the VM's threads may take to end after they were told to.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// The VM that every command gets, with the host's software.
pub fn config(kernel: Option<&Path>) -> anyhow::Result<Config> {
    let (kernel, modules) = match kernel {
        Some(kernel) => (kernel.to_owned(), images::modules(kernel)?),
        None => (Image::Kernel.find()?, None),
    };
    let agent_image = Initramfs::File(Image::Initramfs.find()?);
    let mut config = Config::new(kernel);
    config.initramfs = modules.into_iter().chain([agent_image]).collect();
    config.cache = images::cache();
    config.memory = memory::default();
    config.vcpus = default_cpus();
    config.shares = vec![Share { tag: ROOT_TAG.into(), export: exports::open()? }];
    config.balloon = true;
    config.vsock = Some(Vsock { cid: GUEST_CID, listen: Vec::new(), connect: Vec::new() });
    Ok(config)
}

/// The CPUs of this machine, at most four.
pub fn default_cpus() -> u8 {
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u8::try_from(cpus.min(DEFAULT_CPUS)).unwrap_or(1)
}

/// Sixteen random bytes, for what must not meet its like.
pub fn random_id() -> anyhow::Result<[u8; 16]> {
    let mut id = [0; 16];
    getrandom(&mut id, GetRandomFlags::empty()).context("get random bytes")?;
    Ok(id)
}

/// Seconds and nanoseconds since 1970.
pub fn now() -> (u64, u32) {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_nanos())
}

/// A VM, and what is to run in it.
pub struct Conduct<'a> {
    /// The VM.
    pub config: Config,
    /// Its network.
    pub network: Option<Network>,
    /// Ports of this machine that lead to its.
    pub published: Option<publish::Open>,
    /// Its folder.
    pub runtime_dir: &'a RuntimeDir,
    /// Where the command's streams go.
    pub streams: StandardStreams,
    /// The terminal, if the command is to have one.
    pub terminal: Option<Terminal>,
    /// What the guest is to look like. With a profile it ends in order.
    pub configure: Configure,
    /// The command.
    pub command: Run,
    /// Its windows, if it is to have any.
    pub gui: Option<Gui>,
    /// What other processes of the user are told of it; none: they can't reach it.
    pub status: Option<Status>,
    /// Who is told that the command runs.
    pub reporter: Option<Reporter>,
    /// What this thread may still open when it is confined.
    pub reach: Reach,
    /// Whether a host that can't confine all of it is refused.
    pub require_confinement: bool,
    /// Starts the threads that are to run meanwhile. Until it is called the process must have one.
    pub meanwhile: Option<Box<dyn FnOnce() -> anyhow::Result<()> + 'a>>,
}

/// Runs the command in the VM. This thread is confined from here on: it can open no file any more.
pub fn conduct(conduct: Conduct<'_>) -> anyhow::Result<Ending> {
    let Conduct {
        mut config,
        network,
        published,
        runtime_dir,
        streams,
        terminal,
        mut configure,
        command,
        gui,
        status,
        reporter,
        reach,
        require_confinement,
        meanwhile,
    } = conduct;
    let (door, visitors) = Door::new().context("make the agent's way to this process")?;
    config.vsock.get_or_insert_default().connect.push(VsockPort { port: HOST_PORT, door });
    let next = CommandId(command.command.0 + 1);
    let mut control = match status {
        Some(status) => Some(Server::new(runtime_dir.listen_for_control()?, status, next)),
        None => None,
    };
    let mut policy = Policy::default();
    policy.confine_runner = true;
    policy.require = require_confinement;
    let software = SoftwareWatch::start();
    let shows_console = config.console == Console::Stderr;
    let lasting = configure.profile.is_some();
    let mut beside = None;
    if let Some(Network { device, guest, beside: back_end, resolver, journal }) = network {
        config.network = Some(device);
        configure.network = Some(guest);
        if let Some(server) = &mut control {
            server.set_journal(journal);
        }
        beside = Some((back_end, resolver));
    }
    let mut relay = None;
    let published = published.map(|publish::Open { listeners, guest, hold, relay: datagrams }| {
        config.vsock.get_or_insert_default().listen.extend(listeners);
        configure.published = guest;
        relay = Some(datagrams);
        hold
    });
    let windows = gui.map(|Gui { listener, windows, variables, .. }| {
        config.vsock.get_or_insert_default().listen.push(listener);
        if let Some(server) = &mut control {
            server.set_variables(variables);
        }
        windows
    });
    let resources = config.prepare().context("prepare the VM")?;
    // Until here a signal ends this process like any other, however long it takes to unpack a kernel or to
    // open a file; and it has one thread. What it starts from here on inherits the mask.
    let signals = Signals::block()?;
    let (back_end, names) = match beside {
        Some((back_end, resolver)) => (Some(back_end), Some(resolver.start()?)),
        None => (None, None),
    };
    let vm = resources.confine(&policy).context("make the VM")?;
    log::info!("confined: {}", vm.confinement());
    // The first threads: a process that has some can't be copied, nor leave namespaces.
    if let Some(start) = meanwhile {
        start()?;
    }
    if let Some(back_end) = back_end {
        back_end.watch()?;
    }
    if let Some(relay) = relay {
        relay.start()?;
    }
    let handle = vm.handle();
    if let Some(control) = &mut control {
        control.manage(handle.clone());
    }
    let (notifier, inbox) = inbox()?;
    let (ended, end) = channel();
    let (vm_notifier, watcher) = (notifier.clone(), handle.clone());
    thread::Builder::new()
        .name("vm".into())
        .spawn(move || {
            let why = match vm.run() {
                Ok(exit) => reason(exit, &watcher.console()),
                Err(e) => format!("{:#}", anyhow::Error::from(e)),
            };
            vm_notifier.tell(Event::VmEnded(why));
            // Nobody waits for it when the VM ends by itself.
            let _ = ended.send(());
        })
        .context("start the VM's thread")?;
    // The guest boots meanwhile.
    let pumps = Pumps::start(streams, &notifier, confine)?;
    vmm::confine_thread_to(ThreadKind::Control, reach).context("confine a thread")?;
    let session = Session {
        visitors,
        signals: &signals,
        inbox,
        pumps,
        terminal,
        configure,
        run: command,
        software,
        control,
        windows,
        published,
        reporter,
        lasting,
    };
    let (result, client) = session.conduct();

    // A guest of which nothing lasts isn't asked to power off: there is nothing to write back, and its way down
    // would cost the user a part of the way up.
    let guest_failed = result.as_ref().is_err_and(|e| e.is::<GuestFailed>());
    let console = if guest_failed && !shows_console { handle.console() } else { Vec::new() };
    handle.stop();
    if end.recv_timeout(STOP_WITHIN).is_err() {
        log::warn!("the VM did not end within {} s; it ends with this process", STOP_WITHIN.as_secs());
    }
    drop(names);
    if let Some(client) = client {
        client.end();
    }
    for line in text::last_lines(&console) {
        log::error!("in the VM: {line}");
    }
    result
}

/// How a VM ended; of a kernel that panicked, what it said of that.
fn reason(exit: Exit, console: &[u8]) -> String {
    let console = String::from_utf8_lossy(console);
    let words = console.rsplit_once(text::PANIC).and_then(|(_, rest)| rest.lines().next());
    match words.filter(|_| exit == Exit::Panic) {
        Some(words) => format!("{exit}: {}", text::printable(words.trim(), 200)),
        None => exit.to_string(),
    }
}

/// Confines a thread that talks to the guest.
fn confine() -> anyhow::Result<()> {
    vmm::confine_thread(ThreadKind::Control).context("confine a thread")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panics_reason_is_told_and_nothing_that_drives_a_terminal() {
        let log =
            b"[ 1.0] x\nKernel panic - not syncing: System is deadlocked on memory\x1b[2J\r\n[ 1.1] CPU: 0";
        assert_eq!(reason(Exit::Panic, log), "kernel panic: System is deadlocked on memory\u{fffd}[2J");
        assert_eq!(reason(Exit::Panic, b"\xff"), "kernel panic");
        assert_eq!(reason(Exit::Reset, log), "reset");
    }
}
