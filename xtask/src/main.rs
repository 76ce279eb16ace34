//! Builds, runs, tests and measures nofear: one verb a job, each complete on a fresh clone.
#![cfg_attr(not(test), warn(clippy::expect_used))]
#![deny(unsafe_code)]

mod bench;
mod cache;
mod dist;
mod distributions;
mod fuzz;
mod guest;
mod host;
mod kernel;
mod packages;
mod run;
mod stock;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Kernel(kernel::Arguments),
    Guest(guest::Arguments),
    Host(host::Arguments),
    #[command(name = host::relay::VERB, hide = true)]
    HostRelay(host::relay::Arguments),
    Run(run::Arguments),
    Test(test::Arguments),
    Fuzz(fuzz::Arguments),
    Bench(bench::Arguments),
    Dist(dist::Arguments),
}

fn main() -> ExitCode {
    match act(Arguments::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn act(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Kernel(arguments) => kernel::main(&arguments),
        Verb::Guest(arguments) => guest::main(&arguments),
        Verb::Host(arguments) => host::main(&arguments),
        Verb::HostRelay(arguments) => host::relay::main(&arguments),
        Verb::Run(arguments) => run::main(&arguments),
        Verb::Test(arguments) => test::main(&arguments),
        Verb::Fuzz(arguments) => fuzz::main(&arguments),
        Verb::Bench(arguments) => bench::main(&arguments),
        Verb::Dist(arguments) => dist::main(&arguments),
    }
}
