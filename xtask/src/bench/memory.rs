//! What memory VMs take: `tests/bench/memory.sh` in the emulated host.

use std::process::ExitCode;

use anyhow::Result;

use super::counted;
use super::report::Report;
use crate::run::Product;
use crate::workspace::root;

/// How much memory idle VMs take beside their guests', and what comes back when a guest frees some.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> Result<ExitCode> {
    let product = Product::build(None)?;
    let script = root().join("tests/bench/memory.sh");
    let printed = counted(&product, vec!["bash".into(), script.into()], Vec::new())?;
    Report::new("memory", &printed)?.print(arguments.json)?;
    Ok(ExitCode::SUCCESS)
}
