//! `cargo xtask host`: an emulated machine with a real `/dev/kvm`, whose root is this machine's.
//!
//! QEMU's TCG emulates an AMD CPU with SVM, and a Linux of ours in it runs KVM. So the whole system can be
//! tested where the local KVM can't start Linux, or where there is none.

mod frames;
mod image;
mod machine;
pub mod relay;
mod terminal;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context, Result, bail};

use crate::kernel::{self, Flavour};
use crate::packages;
use frames::{Start, Window, from_relay, to_relay};
use machine::Running;

/// Run a command as root in an emulated machine with a real /dev/kvm.
///
/// Its root is this machine's root, read-only, under a tmpfs; the current folder is shared read-write at the
/// same path. Input, output, exit status and terminal are the command's. Without a command: a shell.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    machine: Machine,

    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What the emulated machine is like.
#[derive(Clone, Debug, clap::Args)]
pub struct Machine {
    /// Count instructions: one CPU, and its clock is the number of instructions in nanoseconds, the same in
    /// every run on any machine
    #[arg(short, long)]
    pub icount: bool,

    /// CPUs, 1 to 8
    ///
    /// With more than one, Linux's changes to its own code race with QEMU's translation of it, and the machine
    /// dies now and then. One is also the fastest for one VM at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub cpus: u8,

    /// Memory in MiB
    #[arg(long, default_value_t = 4096, value_name = "MIB", value_parser = clap::value_parser!(u32).range(512..))]
    pub mem: u32,

    /// Give up after so many seconds, with exit status 124
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,

    /// A folder below /tmp or /run that the machine shall see, read-only
    #[arg(long = "visible", value_name = "DIR")]
    pub visible: Vec<PathBuf>,
}

impl Default for Machine {
    fn default() -> Self {
        Self { icount: false, cpus: 1, mem: 4096, timeout: None, visible: Vec::new() }
    }
}

/// A command for the emulated machine.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Variables in addition to those of [`passed_on`].
    pub environment: Vec<(OsString, OsString)>,
}

impl Job {
    fn start(self, window: Option<Window>) -> Result<Start> {
        let environment = env::vars_os()
            .filter(|(name, _)| name.to_str().is_some_and(passed_on))
            .chain(self.environment)
            .map(|(name, value)| (name.into_vec(), value.into_vec()))
            .collect();
        Ok(Start {
            command: self.command.into_iter().map(OsString::into_vec).collect(),
            environment,
            cwd: env::current_dir().context("find the current folder")?.into_os_string().into_vec(),
            window,
        })
    }
}

/// The variables that mean the same in the emulated machine. Not more: a display, a session bus or an agent's
/// socket is not there, and a longer environment changes instruction counts.
fn passed_on(name: &str) -> bool {
    const NAMES: [&str; 7] = ["PATH", "HOME", "TERM", "LANG", "CI", "XDG_CACHE_HOME", "XDG_DATA_HOME"];
    const PREFIXES: [&str; 4] = ["LC_", "RUST", "CARGO", "NOFEAR"];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> Result<ExitCode> {
    let mut command = arguments.command.clone();
    if command.is_empty() {
        command = vec!["bash".into(), "-l".into()];
    }
    run(&arguments.machine, Job { command, environment: Vec::new() })
}

/// Runs a command with our own stdin, stdout, stderr and terminal; returns its exit status.
pub fn run(machine: &Machine, job: Job) -> Result<ExitCode> {
    let mut running = boot(machine)?;
    let terminal = terminal::Raw::enter()?;
    let window = terminal.as_ref().and_then(terminal::Raw::window);
    running.start(&job.start(window)?)?;
    forward_stdin(running.sender());
    let outcome = running.until_exit(|stream, bytes| match stream {
        from_relay::STDERR => write_all(&mut io::stderr(), bytes),
        _ => write_all(&mut io::stdout(), bytes),
    });
    drop(terminal);
    Ok(ExitCode::from(outcome?))
}

/// Runs a command without input; returns what it printed on stdout. What it prints on stderr goes to ours.
pub fn capture(machine: &Machine, job: Job) -> Result<Vec<u8>> {
    let name = job.command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut printed = Vec::new();
    let code = without_input(machine, job, |bytes| {
        printed.extend_from_slice(bytes);
        Ok(())
    })?;
    if code != 0 {
        bail!("{name} in the emulated host ended with status {code}");
    }
    Ok(printed)
}

/// Runs a command without input; adds its stdout to `printed`, even if the machine dies, and returns its exit status.
pub fn collect(machine: &Machine, job: Job, printed: &mut Vec<u8>) -> Result<u8> {
    without_input(machine, job, |bytes| {
        printed.extend_from_slice(bytes);
        Ok(())
    })
}

/// Gets ready what every machine needs: packages, and a kernel.
pub fn prepare() -> Result<()> {
    packages::ensure("run the emulated host", packages::HOST)?;
    kernel::build(Flavour::Host, None).map(drop)
}

fn without_input(machine: &Machine, job: Job, mut stdout: impl FnMut(&[u8]) -> Result<()>) -> Result<u8> {
    let mut running = boot(machine)?;
    running.start(&job.start(None)?)?;
    running.sender().frame(to_relay::STDIN, &[])?;
    running.until_exit(|stream, bytes| match stream {
        from_relay::STDERR => write_all(&mut io::stderr(), bytes),
        _ => stdout(bytes),
    })
}

fn boot(machine: &Machine) -> Result<Running> {
    packages::ensure("run the emulated host", packages::HOST)?;
    let kernel = kernel::build(Flavour::Host, None)?;
    machine::boot(machine, &kernel)
}

/// Copies our stdin to the command from a thread of its own, which ends with the process.
fn forward_stdin(sender: frames::Sender) {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = match io::stdin().lock().read(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Nothing more will come: to the command that is the end of its input.
                Err(_) => 0,
            };
            // An empty frame says the end. A machine that is gone is the other thread's to report.
            if sender.frame(to_relay::STDIN, &buffer[..read]).is_err() || read == 0 {
                return;
            }
        }
    });
}

/// Writes and flushes. Without a reader the machine has no purpose any more.
fn write_all(to: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            bail!("nobody reads the command's output any more")
        }
        other => other.context("write the command's output"),
    }
}

/// How long a machine may take to start before it counts as dead.
const START_LIMIT: Duration = Duration::from_secs(300);
