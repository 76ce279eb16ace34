//! What a disk costs, beside QEMU's: `tests/bench/disk.sh` in the emulated host that counts instructions.

use std::process::ExitCode;

use anyhow::Result;

use super::guest::{self, NO_LIBRARY, archive, compile};
use super::report::Report;
use super::{build_example, counted};
use crate::run::Product;
use crate::workspace::root;

/// What reading and writing a disk costs, beside QEMU microvm with the same kernel and initramfs.
///
/// Milliseconds are millions of instructions: the same in every run, on any machine.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What the program needs beside the flags of every guest: it has no library.
const FLAGS: &[&str] =
    &[NO_LIBRARY, "-ffreestanding", "-fno-stack-protector", "-fno-tree-loop-distribute-patterns", "-O2"];

/// Runs the verb.
pub fn main(arguments: &Arguments) -> Result<ExitCode> {
    let product = Product::build(None)?;
    let vmm = build_example()?;
    let files = guest::folder()?;
    let init = compile(&files, "disk", "disk.c", FLAGS)?;
    archive(&files.join("disk.cpio"), &[("init", &init)])?;
    let cold = compile(&files, "cold", "disk.c", &[FLAGS, &["-DCOLD"]].concat())?;
    archive(&files.join("cold.cpio"), &[("init", &cold)])?;
    let environment = [("BENCH_BOOT", vmm.as_path()), ("BENCH_FILES", files.as_path())]
        .map(|(name, path)| (name.into(), path.as_os_str().into()));
    let script = root().join("tests/bench/disk.sh");
    let printed = counted(&product, vec!["bash".into(), script.into()], environment.into())?;
    Report::new("disk", &printed)?.print(arguments.json)?;
    Ok(ExitCode::SUCCESS)
}
