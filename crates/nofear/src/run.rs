//! `nofear run`: from the options to the command's exit status.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, SystemTime};

use agent_proto::{CommandId, Configure, HOST_PORT, ROOT_TAG, Run, SHARES_TAG, Stdio, User};
use anyhow::Context;
use ninep::Export;
use vmm::{Config, Console, Initramfs, Policy, Share, ThreadKind, Vsock, VsockPort};

use crate::cli::RunArgs;
use crate::environment::environment;
use crate::images::{self, Image};
use crate::runtime_dir::RuntimeDir;
use crate::session::{GuestFailed, Session};
use crate::signals::Signals;
use crate::streams::{Event, Pumps, StandardStreams, inbox};
use crate::terminal::{self, Terminal};
use crate::{exit, exports, logging, memory, shares, text, user};

/// The most CPUs that a VM gets unasked.
const DEFAULT_CPUS: usize = 4;

/// A CID is seen by its own guest only, so every guest has the first one.
const GUEST_CID: u32 = 3;

/// How long the VM's threads may take to end after they were told to.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How much of the kernel's console is shown when the guest dies.
const CONSOLE_LINES: usize = 20;

/// Runs the command in a new VM, and returns the exit status.
pub fn run(args: RunArgs) -> u8 {
    logging::start(args.verbose);
    terminal::restore_on_panic();
    try_run(args).unwrap_or_else(|e| {
        log::error!("{e:#}");
        exit::FAILED
    })
}

fn try_run(mut args: RunArgs) -> anyhow::Result<u8> {
    let user = user::current();
    let terminal = Terminal::of_standard_streams();
    let (share_export, guest_shares) = shares::open(&args.all_shares())?.unzip();
    let program = args.command.first().map(|program| program.display().to_string());
    let directory = args.workdir.as_ref().map(|directory| directory.display().to_string());
    let command = command(&mut args, &user, terminal.as_ref());

    let runtime_dir = RuntimeDir::create()?;
    let listener = runtime_dir.listen()?;
    let mut policy = Policy::default();
    policy.confine_runner = true;
    let resources = config(&args, &runtime_dir, share_export)?.prepare().context("prepare the VM")?;
    // Until here a signal ends this process like any other, however long it takes to unpack a kernel or to
    // open a file; and it has one thread. Those that it starts from here on inherit the mask.
    let signals = Signals::block()?;
    let vm = resources.confine(&policy).context("make the VM")?;
    let handle = vm.handle();
    let (notifier, inbox) = inbox()?;
    let (ended, end) = channel();
    let vm_notifier = notifier.clone();
    thread::Builder::new()
        .name("vm".into())
        .spawn(move || {
            let why = match vm.run() {
                Ok(exit) => exit.to_string(),
                Err(e) => format!("{:#}", anyhow::Error::from(e)),
            };
            vm_notifier.tell(Event::VmEnded(why));
            // Nobody waits for it when the VM ends by itself.
            let _ = ended.send(());
        })
        .context("start the VM's thread")?;
    // The guest boots meanwhile.
    let pumps = Pumps::start(StandardStreams::of_process(), &notifier, confine)?;
    confine()?;
    let configure =
        Configure { hostname: "nofear".into(), user, shares: guest_shares.unwrap_or_default(), time: now() };
    let session = Session { listener, signals: &signals, inbox, pumps, terminal, configure, run: command };
    let result = session.conduct();

    // The guest isn't asked to power off: nothing of it lasts, so there is nothing to write back, and its way
    // down would cost the user a part of the way up.
    let guest_failed = result.as_ref().is_err_and(|e| e.is::<GuestFailed>());
    let console = if guest_failed && !args.console { handle.console() } else { Vec::new() };
    handle.stop();
    if end.recv_timeout(STOP_WITHIN).is_err() {
        log::warn!("the VM did not end within {} s; it ends with this process", STOP_WITHIN.as_secs());
    }
    for line in text::last_lines(&console, CONSOLE_LINES) {
        log::error!("in the VM: {line}");
    }
    let (status, message) = exit::status(result?, program.as_deref(), directory.as_deref());
    if let Some(message) = message {
        log::error!("{message}");
    }
    Ok(status)
}

/// Confines a thread that talks to the guest.
fn confine() -> anyhow::Result<()> {
    vmm::confine_thread(ThreadKind::Control).context("confine a thread")
}

/// What the agent is to start. Takes the arguments out of `args`.
fn command(args: &mut RunArgs, user: &User, terminal: Option<&Terminal>) -> Run {
    let root = args.root || user.uid == 0;
    Run {
        command: CommandId(1),
        argv: std::mem::take(&mut args.command).into_iter().map(OsStringExt::into_vec).collect(),
        env: environment(std::env::vars_os(), user, root, terminal.is_some(), &args.env),
        cwd: args.workdir.as_deref().map(OsStr::as_bytes).map(<[u8]>::to_vec),
        root,
        stdio: match terminal {
            Some(terminal) => Stdio::Terminal(terminal.size()),
            None => Stdio::Pipes,
        },
    }
}

/// The VM to be.
fn config(args: &RunArgs, runtime_dir: &RuntimeDir, shares: Option<Export>) -> anyhow::Result<Config> {
    let (kernel, modules) = match &args.kernel {
        Some(kernel) => (kernel.clone(), images::modules(kernel)?),
        None => (Image::Kernel.find()?, None),
    };
    let agent_image = Initramfs::File(Image::Initramfs.find()?);
    let root = Share { tag: ROOT_TAG.into(), export: exports::open()? };
    let shares = shares.map(|export| Share { tag: SHARES_TAG.into(), export });
    let agent = VsockPort { port: HOST_PORT, path: runtime_dir.agent_socket() };
    Ok(Config {
        initramfs: modules.into_iter().chain([agent_image]).collect(),
        kernel,
        cache: images::cache(),
        command_line: args.append.clone().unwrap_or_default(),
        memory: args.memory.unwrap_or_else(memory::default),
        vcpus: args.cpus.unwrap_or_else(default_cpus),
        shares: [root].into_iter().chain(shares).collect(),
        disks: Vec::new(),
        vsock: Some(Vsock { cid: GUEST_CID, listen: Vec::new(), connect: vec![agent] }),
        console: if args.console { Console::Stderr } else { Console::Ring },
    })
}

fn default_cpus() -> u8 {
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u8::try_from(cpus.min(DEFAULT_CPUS)).unwrap_or(1)
}

/// Seconds and nanoseconds since 1970.
fn now() -> (u64, u32) {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_nanos())
}
