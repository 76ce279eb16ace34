//! What files over 9P cost, beside QEMU's server: `tests/bench/files.sh` in the emulated host that counts
//! instructions.

use std::process::ExitCode;

use anyhow::Result;

use super::report::Report;
use super::{build, counted, guest};
use crate::run::Product;
use crate::workspace::root;

/// What files over 9P cost, beside QEMU's server with the same guest.
///
/// The guest reads, walks, compiles and writes; "cold" and "warm" speak of its cache. Milliseconds are millions
/// of instructions: the same in every run, on any machine.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,

    /// Only this work: sequential, at-once, find, small, git, compile, write-big, write-small
    #[arg(long, value_name = "WORK")]
    only: Vec<String>,
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> Result<ExitCode> {
    let product = Product::build(None)?;
    let vmm = build("nofear-tests", "bench-vmm")?;
    let folder = guest::folder()?;
    let program = guest::compile(&folder, "files", "files.c", &[])?;
    guest::archive(&folder.join("files.cpio"), &[("init", &program)])?;
    let mut environment =
        vec![("BENCH_VMM".into(), vmm.into_os_string()), ("BENCH_FILES".into(), folder.into_os_string())];
    if !arguments.only.is_empty() {
        environment.push(("BENCH_WORK".into(), arguments.only.join(" ").into()));
    }
    let script = root().join("tests/bench/files.sh");
    let printed = counted(&product, vec!["bash".into(), script.into()], environment)?;
    Report::new("files", &printed)?.print(arguments.json)?;
    Ok(ExitCode::SUCCESS)
}
