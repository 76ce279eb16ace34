//! What a start costs, step by step, beside QEMU's: `tests/bench/boot.sh` in the emulated host that counts
//! instructions.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::counted;
use super::guest::{self, NO_LIBRARY, archive, compile};
use super::report::Report;
use crate::run::Product;
use crate::workspace::root;

/// What a VM's start costs, beside QEMU microvm with the same kernel and initramfs.
///
/// Milliseconds are millions of instructions: the same in every run, on any machine.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> Result<ExitCode> {
    let product = Product::build(None)?;
    let example = super::build_example()?;
    let vmm = super::build("nofear-tests", "bench-vmm")?;
    let files = make_guests()?;
    let environment = [("BENCH_BOOT", &example), ("BENCH_VMM", &vmm), ("BENCH_FILES", &files)]
        .map(|(name, path)| (name.into(), path.as_os_str().into()));
    let script = root().join("tests/bench/boot.sh");
    let printed = counted(&product, vec!["bash".into(), script.into()], environment.into())?;
    Report::new("boot", &printed)?.print(arguments.json)?;
    Ok(ExitCode::SUCCESS)
}

/// The guest's programs, and an initramfs with an init that runs the command, and one that idles.
fn make_guests() -> Result<PathBuf> {
    let folder = guest::folder()?;
    let init = compile(&folder, "init", "init.c", &[NO_LIBRARY])?;
    let command = compile(&folder, "command", "init.c", &[NO_LIBRARY, "-DCOMMAND"])?;
    let idle = compile(&folder, "idle", "init.c", &[NO_LIBRARY, "-DIDLE"])?;
    archive(&folder.join("run.cpio"), &[("init", &init), ("command", &command)])?;
    archive(&folder.join("idle.cpio"), &[("init", &idle)])?;
    Ok(folder)
}
