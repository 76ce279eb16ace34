//! `cargo xtask bench`: measurements in instructions, the same on every machine.

mod boot;
mod disk;
mod files;
mod guest;
mod gui;
mod memory;
mod net;
mod report;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use crate::host::{self, Job, Machine};
use crate::run::Product;
use crate::workspace::{cargo, root, succeed, target};

/// Measure.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Boot(boot::Arguments),
    Disk(disk::Arguments),
    Files(files::Arguments),
    Gui(gui::Arguments),
    Memory(memory::Arguments),
    Net(net::Arguments),
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.what {
        What::Boot(arguments) => boot::main(arguments),
        What::Disk(arguments) => disk::main(arguments),
        What::Files(arguments) => files::main(arguments),
        What::Gui(arguments) => gui::main(arguments),
        What::Memory(arguments) => memory::main(arguments),
        What::Net(arguments) => net::main(arguments),
    }
}

/// The VMM alone, as an embedder would use it.
fn build_example() -> Result<PathBuf> {
    build("nofear-vmm", "boot")
}

/// Builds an example of a package.
fn build(package: &str, name: &str) -> Result<PathBuf> {
    succeed(
        cargo().args(["build", "--quiet", "--release", "--package", package, "--example", name]),
        "build the example",
    )?;
    Ok(root().join(target()).join("release/examples").join(name))
}

/// Runs `command` in the emulated host that counts instructions, and returns its stdout. Every clock in there
/// is the count, in nanoseconds; `NOFEAR*` name the files of `product`, beside `environment`.
///
/// While the machine waits for the outside (9P, the relay's port) its clock leaps to the next timer: what is
/// timed must lie in a tmpfs and print nothing until it is over.
fn counted(
    product: &Product,
    command: Vec<OsString>,
    mut environment: Vec<(OsString, OsString)>,
) -> Result<Vec<u8>> {
    let machine = Machine { icount: true, visible: product.folders(), ..Machine::default() };
    environment.extend(product.environment());
    host::capture(&machine, Job { command, environment })
}
