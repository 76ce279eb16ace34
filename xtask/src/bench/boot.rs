//! What a start costs, step by step, beside QEMU's: `tests/bench/boot.sh` in the emulated host that counts
//! instructions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use loader::cpio::Writer;
use serde::Serialize;

use super::counted;
use crate::run::Product;
use crate::workspace::{cargo, root, succeed, target};

/// What a VM's start costs, beside QEMU microvm with the same kernel and initramfs.
///
/// Milliseconds are millions of instructions: the same in every run, on any machine.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// One figure.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    what: String,
    subject: String,
    value: f64,
    unit: String,
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    mode: &'static str,
    rows: Vec<Row>,
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> Result<ExitCode> {
    let product = Product::build(None)?;
    let vmm = build_example()?;
    let files = make_guests()?;
    let environment = [("BENCH_BOOT", vmm.as_path()), ("BENCH_FILES", files.as_path())]
        .map(|(name, path)| (name.into(), path.as_os_str().into()));
    let script = root().join("tests/bench/boot.sh");
    let printed = counted(&product, vec!["bash".into(), script.into()], environment.into())?;
    let rows = parse(&String::from_utf8_lossy(&printed))?;
    if arguments.json {
        let report = Report { bench: "boot", mode: "icount", rows };
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", table(&rows));
    }
    Ok(ExitCode::SUCCESS)
}

/// The VMM alone, as an embedder would use it.
fn build_example() -> Result<PathBuf> {
    succeed(
        cargo().args(["build", "--quiet", "--release", "--package", "nofear-vmm", "--example", "boot"]),
        "build the example",
    )?;
    Ok(root().join(target()).join("release/examples/boot"))
}

/// The guest's programs, and an initramfs with an init that runs the command, and one that idles.
fn make_guests() -> Result<PathBuf> {
    let folder = root().join(target()).join("nofear/bench");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let init = compile(&folder, "init", None)?;
    let command = compile(&folder, "command", Some("-DCOMMAND"))?;
    let idle = compile(&folder, "idle", Some("-DIDLE"))?;
    archive(&folder.join("run.cpio"), &[("init", &init), ("command", &command)])?;
    archive(&folder.join("idle.cpio"), &[("init", &idle)])?;
    Ok(folder)
}

fn compile(folder: &Path, name: &str, flag: Option<&str>) -> Result<Vec<u8>> {
    let out = folder.join(name);
    succeed(
        Command::new("gcc")
            .args(["-static", "-nostdlib", "-Os"])
            .args(flag)
            .arg("-o")
            .arg(&out)
            .arg(root().join("tests/bench/init.c")),
        "compile the guest of the benchmark",
    )?;
    fs::read(&out).with_context(|| format!("read {}", out.display()))
}

fn archive(path: &Path, programs: &[(&str, &[u8])]) -> Result<()> {
    let mut archive = Writer::new(Vec::new());
    archive.directory("dev", 0o755)?;
    archive.character_device("dev/console", 0o600, 5, 1)?;
    for (name, program) in programs {
        archive.file(name, 0o755, program)?;
    }
    fs::write(path, archive.finish()?).with_context(|| format!("write {}", path.display()))
}

fn parse(printed: &str) -> Result<Vec<Row>> {
    let row = |line: &str| {
        let [subject, what, value, unit] = line.split('\t').collect::<Vec<_>>()[..] else {
            bail!("not a row of the benchmark: {line:?}");
        };
        let value = value.parse().with_context(|| format!("read the value in {line:?}"))?;
        Ok(Row { what: what.into(), subject: subject.into(), value, unit: unit.into() })
    };
    printed.lines().map(row).collect()
}

/// A line a figure, with QEMU's beside it and the ratio where there is one.
fn table(rows: &[Row]) -> String {
    let mut text = format!("{:<36}{:>12}{:>12}{:>8}\n", "", "nofear", "qemu", "ratio");
    for row in rows.iter().filter(|row| row.subject == "nofear") {
        let peer = rows.iter().find(|peer| peer.subject == "qemu" && peer.what == row.what);
        let (value, ratio) = match peer {
            Some(peer) => (format!("{:.2}", peer.value), format!("{:.2}", row.value / peer.value)),
            None => ("-".into(), "-".into()),
        };
        let what = format!("{}, {}", row.what, row.unit);
        text.push_str(&format!("{what:<36}{:>12.2}{value:>12}{ratio:>8}\n", row.value));
    }
    for row in rows.iter().filter(|row| row.subject == "nofear run") {
        let what = format!("nofear run: {}, {}", row.what, row.unit);
        text.push_str(&format!("{what:<36}{:>12.2}\n", row.value));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_set_beside_their_peers() {
        let rows = parse("nofear\tto init\t30.5\tms\nqemu\tto init\t122\tms\n").unwrap();
        assert_eq!(rows.len(), 2);
        let table = table(&rows);
        assert!(table.contains("to init, ms") && table.contains("0.25"), "{table}");
        assert!(parse("nofear\tto init\n").is_err());
        assert!(parse("nofear\tto init\tx\tms\n").is_err());
    }
}
