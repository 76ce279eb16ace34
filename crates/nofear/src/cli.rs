//! The command line.

pub mod generate;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand};

use self::generate::GenerateArgs;
use crate::control::console::ConsoleArgs;
use crate::control::exec::ExecArgs;
use crate::control::logs::LogsArgs;
use crate::control::manage::{BalloonArgs, DebugArgs, Manage, StatArgs, VmArgs};
use crate::control::net::NetArgs;
use crate::control::ps::PsArgs;
use crate::control::stop::StopArgs;
use crate::control::wait::WaitArgs;
use crate::copy::CopyArgs;
use crate::desktop::DesktopArgs;
use crate::environment::Variable;
use crate::gui::attach::AttachArgs;
use crate::gui::keeper::{self, KeeperArgs};
use crate::gui::opener::{self, OpenerArgs};
use crate::gui::options::GuiArgs;
use crate::memory;
use crate::network::options::NetworkArgs;
use crate::open::OpenArgs;
use crate::profile::cli::{ProfileArgs, Verb};
use crate::profile::image;
use crate::profile::name::Name;
use crate::runtime_dir::VmName;
use crate::setup::SetupArgs;
use crate::shares::ShareSpec;

#[cfg(test)]
mod tests;

/// Runs programs of this machine in virtual machines of their own.
#[derive(Debug, Parser)]
#[command(name = "nofear", version, max_term_width = 100)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    command: Option<Command>,

    /// As the tool before this one had it.
    #[command(flatten)]
    old: OldFlags,

    /// With --delete-profile: don't ask
    #[arg(short, long, requires = "delete_profile", conflicts_with_all = ["list_profiles", "new_profile"])]
    yes: bool,
}

/// What the tool before this one took instead of a verb.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct OldFlags {
    /// As 'profile list'
    #[arg(short, long)]
    list_profiles: bool,

    /// As 'profile new NAME'
    #[arg(short, long, value_name = "NAME", value_parser = Name::parse)]
    new_profile: Option<Name>,

    /// As 'profile delete NAME'
    #[arg(short, long, value_name = "NAME", alias = "delete", value_parser = Name::parse)]
    delete_profile: Option<Name>,
}

/// What the user asks for, in one way or another.
#[derive(Debug)]
pub enum Action {
    /// A program in a VM.
    Run(Box<RunArgs>),
    /// Something with a profile.
    Profile(Verb),
    /// Files between this machine and a profile.
    Copy(CopyArgs),
    /// A command in a VM that runs.
    Exec(ExecArgs),
    /// What a VM's network does.
    Net(NetArgs),
    /// The VMs that run.
    Ps(PsArgs),
    /// The end of VMs.
    Stop(StopArgs),
    /// How a VM ends.
    Wait(WaitArgs),
    /// What a VM says.
    Logs(LogsArgs),
    /// A VM's serial port.
    Console(ConsoleArgs),
    /// What needs root, once.
    Setup(SetupArgs),
    /// Something with a VM that runs.
    Manage(Manage),
    /// Windows of a VM that runs.
    Attach(AttachArgs),
    /// One file or address in a VM.
    Open(OpenArgs),
    /// Entries in menus.
    Desktop(DesktopArgs),
    /// Manual pages, completions.
    Generate(GenerateArgs),
    /// What this machine lacks.
    Doctor,
    /// A process of this program's own.
    KeepWindowClient(KeeperArgs),
    /// Another one.
    AskToOpenUrls(OpenerArgs),
}

impl Cli {
    /// How much to say, and what to do.
    pub fn action(self) -> (u8, Action) {
        let OldFlags { new_profile, delete_profile, .. } = self.old;
        let verb = match (self.command, new_profile, delete_profile) {
            (Some(Command::Run(args)), ..) => return (args.verbose, Action::Run(args)),
            (Some(Command::Cp(args)), ..) => return (0, Action::Copy(args)),
            (Some(Command::Exec(args)), ..) => return (0, Action::Exec(args)),
            (Some(Command::Net(args)), ..) => return (0, Action::Net(args)),
            (Some(Command::Ps(args)), ..) => return (0, Action::Ps(args)),
            (Some(Command::Stop(args)), ..) => return (0, Action::Stop(args)),
            (Some(Command::Setup(args)), ..) => return (0, Action::Setup(args)),
            (Some(Command::Generate(args)), ..) => return (0, Action::Generate(args)),
            (Some(Command::Pause(args)), ..) => return (0, Action::Manage(Manage::Pause(args))),
            (Some(Command::Resume(args)), ..) => return (0, Action::Manage(Manage::Resume(args))),
            (Some(Command::Balloon(args)), ..) => return (0, Action::Manage(Manage::Balloon(args))),
            (Some(Command::Stat(args)), ..) => return (0, Action::Manage(Manage::Stat(args))),
            (Some(Command::Debug(args)), ..) => return (0, Action::Manage(Manage::Debug(args))),
            (Some(Command::Logs(args)), ..) => return (0, Action::Logs(args)),
            (Some(Command::Console(args)), ..) => return (0, Action::Console(args)),
            (Some(Command::Wait(args)), ..) => return (0, Action::Wait(args)),
            (Some(Command::Attach(args)), ..) => return (0, Action::Attach(args)),
            (Some(Command::Open(args)), ..) => return (args.verbose, Action::Open(args)),
            (Some(Command::AskToOpenUrls(args)), ..) => return (0, Action::AskToOpenUrls(args)),
            (Some(Command::Desktop(args)), ..) => return (0, Action::Desktop(args)),
            (Some(Command::Doctor), ..) => return (0, Action::Doctor),
            (Some(Command::KeepWindowClient(args)), ..) => return (0, Action::KeepWindowClient(args)),
            (Some(Command::Profile(ProfileArgs { verb })), ..) => verb,
            (None, Some(name), _) => Verb::New { name, disk_size: image::DEFAULT_SIZE },
            (None, None, Some(name)) => Verb::Delete { name, yes: self.yes },
            (None, None, None) => Verb::List,
        };
        (0, Action::Profile(verb))
    }
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program in a new virtual machine
    ///
    /// The program sees this machine's software read-only and none of your files. Its output, input and exit
    /// status are passed through. What it writes is kept in a profile, which the next run of that profile sees.
    #[command(after_long_help = EXAMPLES)]
    Run(Box<RunArgs>),
    /// Make, show, copy, check and delete profiles: what VMs keep from one run to the next
    Profile(ProfileArgs),
    /// Copy files between this machine and a profile or a virtual machine that runs
    ///
    /// NAME:PATH is in a profile, or in a VM by the name that 'nofear ps' shows; a relative PATH is below its home. A
    /// profile in use is reached through its VM. Links are copied as links, and none that is there is ever followed
    /// here.
    Cp(CopyArgs),
    /// Run one more program in a virtual machine that runs
    ///
    /// Its output, input and exit status are passed through, as 'run' does it. The virtual machine ends with the
    /// program that it was started for, whatever else runs in it then.
    Exec(ExecArgs),
    /// See what the network of a virtual machine that runs does
    Net(NetArgs),
    /// Show the virtual machines that run
    Ps(PsArgs),
    /// End virtual machines
    ///
    /// All programs in them get SIGTERM, and SIGKILL two seconds later; then everything is written to the profile.
    Stop(StopArgs),
    /// Wait until a virtual machine has ended, and return its program's exit status
    ///
    /// Of those that were started with 'run --detach' it is known afterwards, too: of the last 32.
    Wait(WaitArgs),
    /// Let users have faster networks, by taps: needs root, once
    ///
    /// Installs one program with the right to set networks up, CAP_NET_ADMIN, and lists who may use it. Says what it
    /// will do, and asks. Nothing needs it: without it the network comes by passt.
    Setup(SetupArgs),
    /// Stop a virtual machine's CPUs until 'resume'
    Pause(VmArgs),
    /// Let a paused virtual machine go on
    Resume(VmArgs),
    /// Set how much memory a virtual machine keeps; the rest goes back to this machine
    ///
    /// Memory that a guest has freed goes back by itself. This takes what it still uses: its caches first.
    Balloon(BalloonArgs),
    /// Show what a virtual machine has done: exits of its CPUs, memory
    Stat(StatArgs),
    /// Show where a virtual machine's CPUs are, and its kernel's last messages
    ///
    /// With --nmi its kernel is made to say where it was, and panics: for one that hangs.
    Debug(DebugArgs),
    /// Connect this terminal with a virtual machine's serial port; Ctrl-] leaves it
    ///
    /// Shows its kernel's last messages and those that come. Keys are read by a guest that was started with 'run
    /// --console', which has the port as /dev/ttyS0: for a shell there, 'nofear exec --root VM -- sh -c "exec setsid -cw
    /// sh -i <>/dev/ttyS0 >&0 2>&1"'.
    Console(ConsoleArgs),
    /// Show what a detached virtual machine's program has said, also when it has ended; or its kernel's messages
    ///
    /// Of one that was not started with 'run --detach' there are only the kernel's messages.
    Logs(LogsArgs),
    /// Show the windows of a virtual machine that runs
    ///
    /// They are shown in one place at a time. When what shows them is closed, the machine ends unless it was started with
    /// --keep.
    Attach(AttachArgs),
    /// Open one file or address in a temporary virtual machine
    ///
    /// With the program that this machine opens its kind with. The program gets a copy of the file, and nothing of what
    /// it does is kept. It has no network, unless an address is opened or --net is given.
    Open(OpenArgs),
    /// Add programs in virtual machines to the desktop's menus, or remove them
    Desktop(DesktopArgs),
    /// Write manual pages and completions for shells
    #[command(hide = true)]
    Generate(GenerateArgs),
    /// Look at this machine: what works, what does not, and what to do about it
    ///
    /// Exit status: 1 when no virtual machine can run.
    Doctor,
    /// Keeps the client for windows: this program starts itself so
    #[command(name = keeper::VERB, hide = true)]
    KeepWindowClient(KeeperArgs),
    /// Asks whether addresses are opened: this program starts itself so
    #[command(name = opener::VERB, hide = true)]
    AskToOpenUrls(OpenerArgs),
}

const EXAMPLES: &str = "\
Examples:
  nofear run                                  a login shell
  nofear run uname -a
  nofear run -p work make                     in the profile 'work'
  nofear run -t sh                            nothing is kept
  nofear run -m 4G -c 8 --share ~/src:/src --workdir /src make -n
  tar c . | nofear run tar tv
  nofear run --root -- sh -c 'mount; id'

Exit status:
  that of the program, or 128 + n when signal n ended it
  125  nofear or the virtual machine failed, or an option is wrong
  126  the program can't be executed
  127  the program was not found

Signals:
  SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on to the program.
  The third SIGINT or SIGTERM in quick succession ends the virtual machine.";

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The program and its arguments; a login shell if there is none
    ///
    /// All that follows the program's name belongs to it. `--` before it is only needed when it begins with a
    /// dash.
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,

    /// The profile, made if it is not there: its home and all other changes are kept
    #[arg(
        short, long, value_name = "NAME", default_value = "default", value_parser = Name::parse,
        conflicts_with = "temporary"
    )]
    pub profile: Name,

    /// Keep nothing: what the program writes is in memory, and gone when it ends
    #[arg(short, long)]
    pub temporary: bool,

    /// Size of the disk of a profile that is made [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = image::parse_size, conflicts_with = "temporary")]
    pub disk_size: Option<u64>,

    /// Start it in the background: returns when the program runs, and prints the virtual machine's name
    ///
    /// Its input is empty; its output goes to 'nofear logs', and 'nofear wait' tells how it ended.
    #[arg(short, long)]
    pub detach: bool,

    /// What the virtual machine is called for 'ps', 'stop' and others [default: eight random digits]
    #[arg(long, value_name = "NAME", value_parser = VmName::parse)]
    pub name: Option<VmName>,

    /// Number of CPUs [default: those of this machine, at most 4]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(vmm::MAX_VCPUS)))]
    pub cpus: Option<u8>,

    /// Memory, as 512M, 2G or 1.5G; in MiB without a unit [default: 2G, or half of a small machine's]
    #[arg(short, long = "mem", value_name = "SIZE", value_parser = memory::parse)]
    pub memory: Option<u64>,

    /// Set a variable of the program's environment; without a value, to the one it has here
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = parsed(Variable::parse))]
    pub env: Vec<Variable>,

    /// Working directory in the virtual machine [default: the home directory]
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<OsString>,

    /// Run the program as root of the virtual machine, which is nobody here
    #[arg(long)]
    pub root: bool,

    /// Show a folder or a file to the program, at its own path or at GUEST; with :rw it may change it
    ///
    /// What follows the last ':/' is GUEST, so HOST may hold colons. Without :rw the program can only read; with
    /// :rw,bytes=500M,files=1000 it can add no more than that.
    #[arg(long = "share", value_name = "HOST[:GUEST][:rw]", value_parser = parsed(ShareSpec::parse))]
    pub shares: Vec<ShareSpec>,

    /// Show a folder to the program at /shared; with :rw it may change it
    #[arg(short = 'f', long, value_name = "DIR[:rw]", value_parser = parsed(ShareSpec::parse_shared_folder))]
    pub shared_folder: Option<ShareSpec>,

    /// The network.
    #[command(flatten)]
    pub network: NetworkArgs,

    /// Windows.
    #[command(flatten)]
    pub gui: GuiArgs,

    /// Boot this kernel: a bzImage or an ELF vmlinux
    ///
    /// A distribution's kernel, as /boot/vmlinuz-6.1.0-25-amd64, finds its modules in /lib/modules.
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// Add to the kernel's command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub append: Option<String>,

    /// Show the kernel's messages on the standard error
    #[arg(long)]
    pub console: bool,

    /// Refuse to run on a kernel that can't hold nofear itself to what it needs (Landlock, Linux 6.2)
    #[arg(long)]
    pub require_confinement: bool,

    /// Say more about what is done; twice or three times for details
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

impl RunArgs {
    /// All shares, `--shared-folder` among them.
    pub fn all_shares(&self) -> Vec<ShareSpec> {
        self.shares.iter().chain(&self.shared_folder).cloned().collect()
    }
}

/// A parser of bytes.
fn parsed<T: Clone + Send + Sync + 'static>(
    parse: impl Fn(&OsStr) -> Result<T, String> + Clone + Send + Sync + 'static,
) -> impl TypedValueParser<Value = T> {
    OsStringValueParser::new().try_map(move |text| parse(&text))
}
