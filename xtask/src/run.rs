//! `cargo xtask run`: builds everything and runs `nofear run`, here or in the emulated host.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use vmm::probe::{Verdict, linux_capable};

use crate::host::{self, Job, Machine};
use crate::kernel::{self, Flavour, Kernel};
use crate::{guest, workspace};

/// Build everything, and run `nofear run` with these arguments.
///
/// On this machine if its KVM starts Linux, in the emulated host if not.
#[derive(clap::Args)]
pub struct Arguments {
    /// Linux source, as for `cargo xtask kernel`
    #[arg(long, value_name = "TARBALL|DIR")]
    source: Option<PathBuf>,

    /// Always in the emulated host
    #[arg(long)]
    emulated: bool,

    /// Options and command of `nofear run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// All that `nofear` needs, built.
pub struct Product {
    /// The command.
    pub nofear: PathBuf,
    /// The guest's kernel.
    pub kernel: Kernel,
    /// The guest's initramfs.
    pub initramfs: PathBuf,
}

impl Product {
    /// Builds it.
    pub fn build(source: Option<&Path>) -> Result<Self> {
        let kernel = kernel::build(Flavour::Guest, source)?;
        Ok(Self { kernel, initramfs: guest::build()?, nofear: workspace::build_command()? })
    }

    /// Where `nofear` and the system tests find it.
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        [
            ("NOFEAR", self.nofear.clone()),
            ("NOFEAR_KERNEL", self.kernel.vmlinux()),
            ("NOFEAR_INITRAMFS", self.initramfs.clone()),
        ]
        .map(|(name, path)| (name.into(), path.into_os_string()))
        .into()
    }

    /// The folders that must be seen in the emulated host, wherever they are.
    pub fn folders(&self) -> Vec<PathBuf> {
        let files = [self.nofear.clone(), self.kernel.vmlinux(), self.initramfs.clone()];
        files.iter().filter_map(|file| file.parent()).map(Path::to_path_buf).collect()
    }
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> Result<ExitCode> {
    let product = Product::build(arguments.source.as_deref())?;
    let mut command = vec![product.nofear.clone().into_os_string(), "run".into()];
    command.extend(arguments.arguments.iter().cloned());
    if !arguments.emulated && kvm_starts_linux() {
        let error = Command::new(&command[0]).args(&command[1..]).envs(product.environment()).exec();
        return Err(error).context("start nofear");
    }
    let machine = Machine { visible: product.folders(), ..Machine::default() };
    host::run(&machine, Job { command, environment: product.environment() })
}

/// Asks the local KVM; says why not, once, since an emulated run is slow.
pub fn kvm_starts_linux() -> bool {
    let reason = match linux_capable() {
        Ok(Verdict::Capable) => return true,
        Ok(Verdict::Incapable { step, found }) => format!("{step}: {found}"),
        Err(error) => format!("{:#}", anyhow::Error::from(error)),
    };
    // A person at a terminal wants to know; a script's stderr stays the command's.
    if env::var_os("CI").is_some() || std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        eprintln!("xtask: the local KVM can't start Linux ({reason}); taking the emulated host");
    }
    false
}
