//! The system tests: built here, run where `nofear` runs, all of a suite in one boot of the emulated host.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Selection, Tally, libtest_counts};
use crate::host::{self, Job, Machine};
use crate::run::{self, Product};
use crate::workspace::{self, cargo, output, root, step, target};
use crate::{packages, stock};

/// Nothing may hang a build machine for ever. Seconds, for all programs; [`SCRIPT`] has a limit for each.
const LIMIT_SECONDS: u64 = 40 * 60;

/// Runs each test program in turn and goes on after a failure; `libtest` says the counts.
const SCRIPT: &str = "failed=0; count=$1; shift; \
    for program in \"${@:1:count}\"; do \
        timeout --kill-after=10 900 \"$program\" \"${@:count+1}\" || failed=1; \
    done; exit $failed";

/// The program whose tests need kernels of the distribution.
const STOCK: &str = "stock";

/// The suite `system`: all but the stock kernels.
pub fn system(selection: &Selection) -> Result<Tally> {
    let programs = programs(&selection.filters, |name| name != STOCK)?;
    if programs.is_empty() {
        return Ok(Tally::default());
    }
    packages::ensure("run the system tests", packages::SYSTEM_TESTS)?;
    let arguments = ["--package", "nofear-vmm", "--example", "boot"];
    workspace::build("build", |cargo| _ = cargo.args(arguments), "build the example of the VMM")?;
    let example = target().join("debug/examples/boot");
    let visible = example.parent().map(Path::to_path_buf).into_iter().collect();
    run(&programs, selection, vec![("NOFEAR_EXAMPLE".into(), example.into())], visible)
}

/// The suite `stock`: the distribution's own kernels.
pub fn stock(selection: &Selection) -> Result<Tally> {
    if !packages::is_there("apt-get") {
        println!("SKIPPED: the kernels that are tested are Debian's, and this machine has no apt-get");
        return Ok(Tally::default());
    }
    let programs = programs(&selection.filters, |name| name == STOCK)?;
    if programs.is_empty() {
        return Ok(Tally::default());
    }
    let kernels = stock::fetch()?;
    let lines = kernels.iter().map(|kernel| {
        format!("{}\t{}\t{}\n", kernel.release, kernel.image.display(), kernel.modules.display())
    });
    let visible = kernels.iter().flat_map(|kernel| [kernel.image.parent(), Some(&kernel.modules)]);
    let visible = visible.flatten().map(Path::to_path_buf).collect();
    run(&programs, selection, vec![("NOFEAR_STOCK".into(), lines.collect::<String>().into())], visible)
}

/// Runs test programs with `environment` and the product's, where `visible` and the product can be seen.
fn run(
    programs: &[PathBuf],
    selection: &Selection,
    mut environment: Vec<(OsString, OsString)>,
    mut visible: Vec<PathBuf>,
) -> Result<Tally> {
    let product = Product::build(None)?;
    environment.extend(product.environment());
    let mut command: Vec<OsString> = ["bash", "-c", SCRIPT, "system"].map(Into::into).into();
    command.push(programs.len().to_string().into());
    command.extend(programs.iter().map(|program| program.clone().into_os_string()));
    // A VM is slow to emulate: one test at a time. With real KVM the tests share the CPUs.
    let direct = run::kvm_starts_linux();
    if !direct {
        command.push("--test-threads=1".into());
    }
    command.extend(selection.filters.iter().map(Into::into));
    let _step = step("run the system tests");
    let (ok, printed) = if direct {
        let mut here = Command::new(&command[0]);
        here.args(&command[1..]).envs(environment).current_dir(root()).stdin(Stdio::null());
        let mut child = here.stdout(Stdio::piped()).spawn().context("start the system tests")?;
        let printed =
            child.stdout.take().map(|from| super::show(from, &mut std::io::stdout())).unwrap_or_default();
        (child.wait().context("wait for the system tests")?.success(), printed)
    } else {
        visible.extend(product.folders());
        visible.extend(programs.iter().filter_map(|program| program.parent()).map(PathBuf::from));
        let machine = Machine { visible, timeout: Some(LIMIT_SECONDS), ..Machine::default() };
        let mut printed = Vec::new();
        let ended = host::show(&machine, Job { command, environment }, &mut printed);
        // The programs that had ended by then still count.
        let code = ended.unwrap_or_else(|error| {
            eprintln!("xtask: {error:#}");
            125
        });
        (code == 0, String::from_utf8_lossy(&printed).into_owned())
    };
    let mut tally = libtest_counts(&printed);
    if !ok && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

/// Builds the test programs of the package `nofear-tests`; returns the paths of those whose names are wanted
/// and that have a test whose name contains one of `filters`.
fn programs(filters: &[String], wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let _step = step("build the system tests");
    let messages = output(
        cargo()
            .args(["test", "--quiet", "--no-run", "--package", "nofear-tests", "--tests"])
            .args(["--message-format=json"]),
        "build the system tests",
    )?;
    let mut programs = Vec::new();
    for line in messages.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"{")) {
        let message: Message = serde_json::from_slice(line).context("read what cargo built")?;
        if let (Some(path), Some(target)) = (message.executable, message.target)
            && target.kind.iter().any(|kind| kind == "test")
            && wanted(&target.name)
            && has_tests(&path, filters)?
        {
            programs.push(path);
        }
    }
    programs.sort();
    Ok(programs)
}

/// Whether any test of a program is selected; without one there is no machine to start.
fn has_tests(program: &Path, filters: &[String]) -> Result<bool> {
    let listed = output(Command::new(program).arg("--list").args(filters), "list the system tests")?;
    Ok(String::from_utf8_lossy(&listed).lines().any(|line| line.ends_with(": test")))
}

#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}
