//! The example of `docs/embedding.md` does what it says.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{env, fs, path::Path, process::Command};

use loader::cpio::Writer;
use nofear_tests::{ours, output};

/// A program without a library, of `tests/bench/init.c`.
fn compile(folder: &Path, name: &str, flag: Option<&str>) -> Vec<u8> {
    let program = folder.join(name);
    let mut gcc = Command::new("gcc");
    gcc.args(["-static", "-nostdlib", "-Os"]).args(flag).arg("-o").arg(&program);
    gcc.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/bench/init.c"));
    output(gcc).ok();
    fs::read(program).unwrap()
}

#[test]
fn the_example_boots_a_guest_and_says_that_it_powered_off() {
    let (Some(example), Some(kernel)) = (ours("NOFEAR_EXAMPLE"), ours("NOFEAR_KERNEL")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut archive = Writer::new(Vec::new());
    archive.directory("dev", 0o755).unwrap();
    archive.character_device("dev/console", 0o600, 5, 1).unwrap();
    archive.file("init", 0o755, &compile(folder.path(), "init", None)).unwrap();
    archive.file("command", 0o755, &compile(folder.path(), "command", Some("-DCOMMAND"))).unwrap();
    let initramfs = folder.path().join("initramfs");
    fs::write(&initramfs, archive.finish().unwrap()).unwrap();

    let mut command = Command::new(example);
    command.arg(kernel).arg(initramfs).env("TMPDIR", folder.path());
    let ran = output(command).ok();
    assert_eq!(ran.text().lines().next(), Some("power off"), "{ran:?}");
    let left = fs::read_dir(folder.path())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    assert!(!left.into_iter().any(|name| name.starts_with("nofear-example")), "its folder is gone");
}
