//! The command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand};

use crate::environment::Variable;
use crate::memory;
use crate::shares::ShareSpec;

#[cfg(test)]
mod tests;

/// Runs programs of this machine in virtual machines of their own.
#[derive(Debug, Parser)]
#[command(name = "nofear", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program in a new virtual machine
    ///
    /// The program sees this machine's software read-only and none of your files. Its output, input and exit
    /// status are passed through; what it writes is gone when it ends.
    #[command(after_long_help = EXAMPLES)]
    Run(Box<RunArgs>),
}

const EXAMPLES: &str = "\
Examples:
  nofear run                                  a login shell
  nofear run uname -a
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
    /// What follows the last ':/' is GUEST, so HOST may hold colons. Without :rw the program can only read.
    #[arg(long = "share", value_name = "HOST[:GUEST][:rw]", value_parser = parsed(ShareSpec::parse))]
    pub shares: Vec<ShareSpec>,

    /// Show a folder to the program at /shared; with :rw it may change it
    #[arg(short = 'f', long, value_name = "DIR[:rw]", value_parser = parsed(ShareSpec::parse_shared_folder))]
    pub shared_folder: Option<ShareSpec>,

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
