//! The guests of benchmarks: small static programs, and an initramfs around them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use loader::cpio::Writer;

use crate::workspace::{root, succeed, target};

/// Where they are made.
pub fn folder() -> Result<PathBuf> {
    let folder = root().join(target()).join("nofear/bench");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

/// For a program that brings its own `_start`.
pub const NO_LIBRARY: &str = "-nostdlib";

/// A static program, of a source in `tests/bench`; it lies in `folder`, too.
pub fn compile(folder: &Path, name: &str, source: &str, flags: &[&str]) -> Result<Vec<u8>> {
    let out = folder.join(name);
    succeed(
        Command::new("gcc")
            .args(["-static", "-Os"])
            .args(flags)
            .arg("-o")
            .arg(&out)
            .arg(root().join("tests/bench").join(source)),
        "compile the guest of the benchmark",
    )?;
    fs::read(&out).with_context(|| format!("read {}", out.display()))
}

/// An initramfs of these programs.
pub fn archive(path: &Path, programs: &[(&str, &[u8])]) -> Result<()> {
    let mut archive = Writer::new(Vec::new());
    archive.directory("dev", 0o755)?;
    archive.character_device("dev/console", 0o600, 5, 1)?;
    for (name, program) in programs {
        archive.file(name, 0o755, program)?;
    }
    fs::write(path, archive.finish()?).with_context(|| format!("write {}", path.display()))
}
