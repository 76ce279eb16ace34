//! `cargo xtask fuzz`: libFuzzer over a target of `tests/fuzz`, with stable Rust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::workspace::{root, target};
use crate::{cache, packages, workspace};

/// Run a fuzz target for some time; print what it reached.
///
/// The seeds, where a target has some, are in tests/fuzz/seeds/TARGET; what it finds is kept in the cache and used
/// again. An input that crashes the target is kept in target/fuzz/artifacts/TARGET.
#[derive(clap::Args)]
pub struct Arguments {
    /// The target, a file in tests/fuzz/fuzz_targets; without it, they are listed
    target: Option<String>,

    /// How long
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    seconds: u64,
}

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What `cargo fuzz` passes too, spelled for stable Rust. The address sanitizer needs a nightly switch, see
/// [`build`].
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks";

/// Runs the verb.
pub fn main(arguments: &Arguments) -> Result<ExitCode> {
    let Some(name) = &arguments.target else {
        println!("{}", targets()?.join("\n"));
        return Ok(ExitCode::SUCCESS);
    };
    if !targets()?.contains(name) {
        bail!("no fuzz target {name}; there are: {}", targets()?.join(", "));
    }
    build()?;
    run(name, arguments.seconds)?;
    Ok(ExitCode::SUCCESS)
}

/// The names of all targets.
pub fn targets() -> Result<Vec<String>> {
    let folder = root().join("tests/fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if let (Some("rs"), Some(name)) = (
            path.extension().and_then(|extension| extension.to_str()),
            path.file_stem().and_then(|name| name.to_str()),
        ) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Builds all targets, in a folder of their own: every dependency is built with coverage.
pub fn build() -> Result<()> {
    packages::ensure("build the fuzz targets", packages::FUZZ)?;
    let configure = |cargo: &mut Command| {
        cargo
            .args(["--release", "--package", "nofear-fuzz", "--bins"])
            .args(["--target", TARGET, "--target-dir"])
            .arg(folder())
            // The sanitizer is part of the stable toolchain; only its switch is not.
            .env("RUSTFLAGS", format!("{RUSTFLAGS} -Zsanitizer=address"))
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
    };
    workspace::build("build", configure, "build the fuzz targets")
}

fn folder() -> PathBuf {
    target().join("fuzz")
}

/// Runs one target; a crash is an error that names the input.
pub fn run(name: &str, seconds: u64) -> Result<()> {
    let grown = cache::folder("fuzz")?.join(name);
    let seeds = root().join("tests/fuzz/seeds").join(name);
    let known_leaks = root().join("tests/fuzz/leaks.txt");
    let artifacts = target().join("fuzz/artifacts").join(name);
    for folder in [&grown, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let mut command = Command::new(folder().join(TARGET).join("release").join(name));
    command
        .arg(format!("-max_total_time={seconds}"))
        .args(["-timeout=30", "-rss_limit_mb=2048", "-print_final_stats=1", "-use_value_profile=1"])
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .env("LSAN_OPTIONS", format!("print_suppressions=0:suppressions={}", known_leaks.display()))
        .arg(&grown);
    if seeds.is_dir() {
        command.arg(&seeds);
    }
    let log = artifacts.join("log");
    let file = fs::File::create(&log).with_context(|| format!("make {}", log.display()))?;
    let status = command.stderr(file).status().with_context(|| format!("start the fuzz target {name}"))?;
    let text = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    if !status.success() {
        let lines: Vec<&str> = text.lines().collect();
        bail!(
            "{name} failed ({status}); the input is in {}:\n{}",
            artifacts.display(),
            lines[lines.len().saturating_sub(40)..].join("\n")
        );
    }
    println!("{name}: {}", summary(&text, &grown)?);
    Ok(())
}

/// Executions, coverage and corpus, from libFuzzer's words.
fn summary(log: &str, corpus: &Path) -> Result<String> {
    let after = |line: &str, word: &str| {
        line.split_once(word).and_then(|(_, rest)| rest.split_whitespace().next()).map(str::to_owned)
    };
    let executions = log.lines().rev().find_map(|line| after(line, "stat::number_of_executed_units:"));
    let coverage = log.lines().rev().find_map(|line| after(line, " cov: "));
    let (Some(executions), Some(coverage)) = (executions, coverage) else {
        bail!("it printed no statistics");
    };
    let inputs = fs::read_dir(corpus).with_context(|| format!("read {}", corpus.display()))?.count();
    Ok(format!("{executions} executions, {coverage} edges, {inputs} inputs kept"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statistics_are_read_from_libfuzzers_words() {
        let log = "#2 INITED cov: 12 ft: 13\n#900 DONE   cov: 345 ft: 99 corp: 3/3b\n\
                   stat::number_of_executed_units: 1234\n";
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(summary(log, folder.path()).unwrap(), "1234 executions, 345 edges, 0 inputs kept");
        assert!(summary("nothing", folder.path()).is_err());
    }
}
