//! What a network interface costs, beside QEMU's: `tests/bench/net.sh` in the emulated host that counts
//! instructions.

use std::process::ExitCode;

use anyhow::Result;

use super::guest::{self, archive, compile};
use super::report::Report;
use super::{build, counted};
use crate::run::Product;
use crate::workspace::root;

/// What moving bytes and packets through a tap costs, beside QEMU microvm with the same tap.
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
    let vmm = build("nofear-tests", "bench-vmm")?;
    let files = guest::folder()?;
    let init = compile(&files, "net", "net.c", &["-O2"])?;
    archive(&files.join("net.cpio"), &[("init", &init)])?;
    compile(&files, "net-host", "net.c", &["-O2", "-DHOST"])?;
    let environment = [("BENCH_VMM", vmm.as_path()), ("BENCH_FILES", files.as_path())]
        .map(|(name, path)| (name.into(), path.as_os_str().into()));
    let script = root().join("tests/bench/net.sh");
    let printed = counted(&product, vec!["bash".into(), script.into()], environment.into())?;
    Report::new("net", &printed)?.print(arguments.json)?;
    Ok(ExitCode::SUCCESS)
}
