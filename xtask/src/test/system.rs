//! The system tests: built here, run where `nofear` runs, all in one boot of the emulated host.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Selection, Tally, libtest_counts};
use crate::host::{self, Job, Machine};
use crate::run::{self, Product};
use crate::workspace::{cargo, output, root};

/// Nothing may hang a build machine for ever.
const LIMIT_SECONDS: u64 = 40 * 60;

/// Runs each test program in turn and goes on after a failure; `libtest` says the counts.
const SCRIPT: &str = "failed=0; count=$1; shift; \
    for program in \"${@:1:count}\"; do \"$program\" \"${@:count+1}\" || failed=1; done; exit $failed";

/// The suite.
pub fn run(selection: &Selection) -> Result<Tally> {
    let product = Product::build(None)?;
    let programs = programs()?;
    if programs.is_empty() {
        return Ok(Tally::default());
    }
    let mut command: Vec<OsString> = ["bash", "-c", SCRIPT, "system"].map(Into::into).into();
    command.push(programs.len().to_string().into());
    command.extend(programs.iter().map(|program| program.clone().into_os_string()));
    // A VM is slow to emulate: one test at a time. With real KVM the tests share the CPUs.
    let direct = run::kvm_starts_linux();
    if !direct {
        command.push("--test-threads=1".into());
    }
    command.extend(selection.filters.iter().map(Into::into));
    let (ok, printed) = if direct {
        let mut here = Command::new(&command[0]);
        here.args(&command[1..]).envs(product.environment()).current_dir(root());
        let mut child =
            here.stdout(std::process::Stdio::piped()).spawn().context("start the system tests")?;
        let printed =
            child.stdout.take().map(|from| super::show(from, &mut std::io::stdout())).unwrap_or_default();
        (child.wait().context("wait for the system tests")?.success(), printed)
    } else {
        let mut visible = product.folders();
        visible.extend(programs.iter().filter_map(|program| program.parent()).map(PathBuf::from));
        let machine = Machine { visible, timeout: Some(LIMIT_SECONDS), ..Machine::default() };
        let (code, printed) = host::show(&machine, Job { command, environment: product.environment() })?;
        (code == 0, String::from_utf8_lossy(&printed).into_owned())
    };
    let mut tally = libtest_counts(&printed);
    if !ok && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

/// Builds the test programs of the package `nofear-tests`; returns their paths.
fn programs() -> Result<Vec<PathBuf>> {
    let messages = output(
        cargo().args(["test", "--no-run", "--package", "nofear-tests", "--tests", "--message-format=json"]),
        "build the system tests",
    )?;
    let mut programs = Vec::new();
    for line in messages.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"{")) {
        let message: Message = serde_json::from_slice(line).context("read what cargo built")?;
        if let (Some(path), Some(target)) = (message.executable, message.target)
            && target.kind.iter().any(|kind| kind == "test")
        {
            programs.push(path);
        }
    }
    programs.sort();
    Ok(programs)
}

#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}
