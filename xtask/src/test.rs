//! `cargo xtask test`: everything that must hold before a change is merged, and what CI runs.

#[cfg(test)]
mod docs;
mod licences;
mod system;

use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::workspace::{self, cargo, succeed};
use crate::{fuzz, packages};

/// Run all checks and tests, from formatting to whole virtual machines.
///
/// A name that is one of the suites (fmt, clippy, doc, licences, unit, system, stock, distributions, fuzz)
/// runs that suite alone; any other name runs the unit and system tests whose names contain it, and all tests of
/// the programs in tests/tests whose names do.
#[derive(clap::Args)]
pub struct Arguments {
    /// Suites, or parts of test names
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Seconds for each fuzz target
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    fuzz_seconds: u64,
}

type Suite = fn(&Selection) -> Result<Tally>;

/// Each suite's name and what it does; the cheap ones come first.
const SUITES: [(&str, Suite); 9] = [
    ("fmt", fmt),
    ("clippy", clippy),
    ("doc", doc),
    ("licences", licences::check),
    ("unit", unit),
    ("system", system::system),
    ("stock", system::stock),
    ("distributions", system::distributions),
    ("fuzz", run_fuzz),
];

/// What to run within a suite.
pub struct Selection {
    /// Parts of test names; none means all.
    filters: Vec<String>,
    fuzz_seconds: u64,
}

/// How many checks of a suite passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
}

impl Tally {
    /// One check, which passed.
    pub const ONE: Self = Self { passed: 1, failed: 0 };

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> Result<ExitCode> {
    let is_suite = |name: &String| SUITES.iter().any(|(suite, _)| suite == name);
    let (suites, filters): (Vec<String>, Vec<String>) = arguments.names.iter().cloned().partition(is_suite);
    let selection = Selection { filters, fuzz_seconds: arguments.fuzz_seconds };
    let wanted = |suite: &str| match (suites.is_empty(), selection.filters.is_empty()) {
        (false, _) => suites.iter().any(|name| name == suite),
        (true, true) => true,
        // Names of tests: only those suites have tests with names.
        (true, false) => ["unit", "system", "stock", "distributions"].contains(&suite),
    };
    // The whole workspace includes libFuzzer, which is C++.
    packages::ensure("build the workspace", packages::FUZZ)?;
    let mut lines = Vec::new();
    let mut all = Tally::default();
    for (suite, run) in SUITES.iter().filter(|(suite, _)| wanted(suite)) {
        println!("==> {suite}");
        std::io::stdout().flush().context("write to stdout")?;
        let start = Instant::now();
        let tally = run(&selection).unwrap_or_else(|error| {
            eprintln!("xtask: {suite}: {error:#}");
            Tally { passed: 0, failed: 1 }
        });
        lines.push(line(suite, tally, start.elapsed()));
        all.add(tally);
    }
    println!("\n{}\n{} passed, {} failed", lines.join("\n"), all.passed, all.failed);
    if all == Tally::default() {
        bail!("no test has a name with {} in it", selection.filters.join(" or "));
    }
    Ok(if all.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(suite: &str, tally: Tally, took: Duration) -> String {
    let word = if tally.failed == 0 { "ok" } else { "FAILED" };
    format!(
        "{suite:<9} {word:<7} {:>5} passed {:>3} failed {:>7.1} s",
        tally.passed,
        tally.failed,
        took.as_secs_f64()
    )
}

fn fmt(_: &Selection) -> Result<Tally> {
    succeed(cargo().args(["fmt", "--all", "--check"]), "check the formatting")?;
    Ok(Tally::ONE)
}

fn clippy(_: &Selection) -> Result<Tally> {
    let arguments = ["--workspace", "--all-targets", "--", "-D", "warnings"];
    workspace::build("clippy", |cargo| _ = cargo.args(arguments), "check with clippy")?;
    Ok(Tally::ONE)
}

fn doc(_: &Selection) -> Result<Tally> {
    let configure = |cargo: &mut Command| {
        cargo
            .args(["--workspace", "--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-D warnings");
    };
    workspace::build("doc", configure, "build the documentation")?;
    Ok(Tally::ONE)
}

/// Unit, property and documentation tests of every package but the one whose tests start virtual machines.
fn unit(selection: &Selection) -> Result<Tally> {
    let mut tally = Tally::default();
    let has_nextest = packages::is_there("cargo-nextest");
    let packages = ["--workspace", "--exclude", "nofear-tests", "--exclude", "nofear-fuzz"];
    let mut tests = cargo();
    if has_nextest {
        tests.args(["nextest", "run", "--no-fail-fast", "--no-tests=pass"]).args(packages);
        tests.args(&selection.filters);
        tally.add(counted(&mut tests, nextest_counts)?);
        // nextest has no documentation tests. Their names are their files'.
        if selection.filters.is_empty() || selection.filters.iter().any(|name| name.contains(".rs")) {
            let mut docs = cargo();
            docs.args(["test", "--doc", "--no-fail-fast"]).args(packages).arg("--").args(&selection.filters);
            tally.add(counted(&mut docs, libtest_counts)?);
        }
    } else {
        tests.args(["test", "--no-fail-fast"]).args(packages).arg("--").args(&selection.filters);
        tally.add(counted(&mut tests, libtest_counts)?);
    }
    Ok(tally)
}

/// Runs a test command, shows what it prints, and counts.
fn counted(command: &mut Command, count: fn(&str) -> Tally) -> Result<Tally> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start cargo")?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // nextest counts on stderr, libtest on stdout.
    let errors = std::thread::spawn(move || stderr.map(|from| show(from, &mut std::io::stderr())));
    let mut text = stdout.map(|from| show(from, &mut std::io::stdout())).unwrap_or_default();
    text += &errors.join().ok().flatten().unwrap_or_default();
    let status = child.wait().context("wait for cargo")?;
    let mut tally = count(&text);
    if !status.success() && tally.failed == 0 {
        // It did not even build, or died.
        tally.failed = 1;
    }
    Ok(tally)
}

/// Copies lines and keeps them.
fn show(from: impl std::io::Read, to: &mut dyn Write) -> String {
    let mut all = String::new();
    for line in std::io::BufRead::split(std::io::BufReader::new(from), b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        // A closed terminal does not end the tests.
        let _ = writeln!(to, "{line}");
        all.push_str(&line);
        all.push('\n');
    }
    all
}

/// `test result: ok. 12 passed; 0 failed; ...`, once for each test binary.
fn libtest_counts(text: &str) -> Tally {
    let mut all = Tally::default();
    for line in text.lines().filter(|line| line.starts_with("test result:")) {
        all.add(Tally { passed: number_before(line, " passed"), failed: number_before(line, " failed") });
    }
    all
}

/// `Summary [ 1.2s] 12 tests run: 12 passed (1 slow), 0 skipped`.
fn nextest_counts(text: &str) -> Tally {
    let line = text.lines().rev().find(|line| line.contains("Summary [")).unwrap_or_default();
    let failed = number_before(line, " failed") + number_before(line, " timed out");
    Tally { passed: number_before(line, " passed"), failed }
}

fn number_before(line: &str, word: &str) -> usize {
    line.split_once(word)
        .and_then(|(before, _)| before.rsplit(|char: char| !char.is_ascii_digit()).next())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

fn run_fuzz(selection: &Selection) -> Result<Tally> {
    fuzz::build()?;
    // One on each CPU.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let queue = Mutex::new(fuzz::targets()?.into_iter());
    let all = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..cpus {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(name) = next else { return };
                    let ran = fuzz::run(&name, selection.fuzz_seconds);
                    let mut tally = all.lock().unwrap_or_else(PoisonError::into_inner);
                    match ran {
                        Ok(()) => tally.add(Tally::ONE),
                        Err(error) => {
                            eprintln!("xtask: fuzz: {error:#}");
                            tally.failed += 1;
                        }
                    }
                }
            });
        }
    });
    Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_both_runners_are_read() {
        let libtest = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored\n\
                       test result: FAILED. 10 passed; 3 failed; 0 ignored\n";
        assert_eq!(libtest_counts(libtest), Tally { passed: 12, failed: 3 });
        let nextest = "     Summary [   0.105s] 31 tests run: 29 passed (1 slow), 2 failed, 0 skipped\n";
        assert_eq!(nextest_counts(nextest), Tally { passed: 29, failed: 2 });
        assert_eq!(nextest_counts("error: could not compile"), Tally::default());
    }
}
