//! `cargo xtask guest`: the guest's one static binary, and the initramfs that holds it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use loader::cpio::Writer;

use crate::workspace::{self, target};

/// Build the guest's init and agent, and print the path of the initramfs that holds it.
#[derive(clap::Args)]
pub struct Arguments {}

/// glibc's own target, since nothing more than Rust and gcc must be installed.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Static and at a fixed address: no loader, no relocations, fewer pages to unpack and touch.
const RUSTFLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static -C panic=abort";

/// Runs the verb.
pub fn main(_: &Arguments) -> Result<ExitCode> {
    println!("{}", build()?.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the guest and writes `target/nofear/initramfs`, whole or not at all.
pub fn build() -> Result<PathBuf> {
    let folder = target().join("guest");
    let configure = |cargo: &mut Command| {
        cargo
            .args(["--package", "nofear-guest", "--profile", "guest"])
            .args(["--target", TARGET, "--target-dir"])
            .arg(&folder)
            .env("RUSTFLAGS", RUSTFLAGS)
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
    };
    workspace::build("build", configure, "build the guest")?;
    let init = folder.join(TARGET).join("guest/nofear-guest");
    let init = fs::read(&init).with_context(|| format!("read {}", init.display()))?;

    let mut archive = Writer::new(Vec::new());
    archive.directory("dev", 0o755)?;
    archive.character_device("dev/console", 0o600, 5, 1)?;
    archive.file("init", 0o755, &init)?;
    let folder = target().join("nofear");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(&folder)
        .with_context(|| format!("make a file in {}", folder.display()))?;
    file.write_all(&archive.finish()?).context("write the initramfs")?;
    let path = folder.join("initramfs");
    file.persist(&path).with_context(|| format!("publish {}", path.display()))?;
    Ok(path)
}
