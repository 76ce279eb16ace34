//! What a window costs, beside Xpra's without a VM: `tests/bench/gui.sh` in the emulated host that counts
//! instructions.

use std::process::ExitCode;

use anyhow::Result;

use super::counted;
use super::report::Report;
use crate::packages;
use crate::run::Product;
use crate::workspace::root;

/// What it costs until a program's window is there, beside Xpra's server and client without a VM.
///
/// Milliseconds are millions of instructions; Python starts in an order of its own each time, so that they differ by a
/// few in a hundred.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> Result<ExitCode> {
    packages::windows("measure windows")?;
    let product = Product::build(None)?;
    let script = root().join("tests/bench/gui.sh");
    let printed = counted(&product, vec!["bash".into(), script.into()], Vec::new())?;
    Report::new("gui", &printed)?.print(arguments.json)?;
    Ok(ExitCode::SUCCESS)
}
