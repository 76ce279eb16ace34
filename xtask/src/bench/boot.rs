//! How long a guest's start takes: the clock of the emulated host around `nofear run true`.

use std::process::ExitCode;

use anyhow::{Context, Result};

use super::counted;
use crate::run::Product;

/// From the start of the command to its end, in milliseconds of 1 million instructions.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> Result<ExitCode> {
    let product = Product::build(None)?;
    let script = "start=$(date +%s%N); \"$NOFEAR\" run true >&2; echo $(($(date +%s%N) - start))";
    let printed = counted(&product, vec!["bash".into(), "-c".into(), script.into()])?;
    let printed = String::from_utf8_lossy(&printed);
    let total: u64 = printed.trim().parse().with_context(|| format!("read the time in {printed:?}"))?;
    let total = total as f64 / 1e6;
    if arguments.json {
        println!("{}", serde_json::json!({ "nofear": { "total_ms": total } }));
    } else {
        println!("nofear total {total:.1} ms");
    }
    Ok(ExitCode::SUCCESS)
}
