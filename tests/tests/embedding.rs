//! The examples of `docs/embedding.md` do what they say.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{env, fs, path::Path, process::Command};

use loader::cpio::Writer;
use nofear_tests::{ours, output, output_with};

/// A program without a library.
fn compile(folder: &Path, name: &str, source: &str, flag: Option<&str>) -> Vec<u8> {
    let program = folder.join(name);
    let mut gcc = Command::new("gcc");
    gcc.args(["-static", "-nostdlib", "-Os"]).args(flag).arg("-o").arg(&program);
    gcc.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(source));
    output(gcc).ok();
    fs::read(program).unwrap()
}

#[test]
fn the_example_boots_a_guest_and_says_that_it_powered_off() {
    let (Some(example), Some(kernel)) = (ours("NOFEAR_EXAMPLE_BOOT"), ours("NOFEAR_KERNEL")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut archive = Writer::new(Vec::new());
    archive.directory("dev", 0o755).unwrap();
    archive.character_device("dev/console", 0o600, 5, 1).unwrap();
    archive.file("init", 0o755, &compile(folder.path(), "init", "bench/init.c", None)).unwrap();
    archive
        .file("command", 0o755, &compile(folder.path(), "command", "bench/init.c", Some("-DCOMMAND")))
        .unwrap();
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

#[test]
fn the_example_of_a_device_is_a_disk_that_a_guest_reads() {
    let (Some(example), Some(kernel)) = (ours("NOFEAR_EXAMPLE_DEVICE"), ours("NOFEAR_KERNEL")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut archive = Writer::new(Vec::new());
    archive.directory("dev", 0o755).unwrap();
    archive.file("init", 0o755, &compile(folder.path(), "init", "guests/sector.c", None)).unwrap();
    let initramfs = folder.path().join("initramfs");
    fs::write(&initramfs, archive.finish().unwrap()).unwrap();
    let mut command = Command::new(example);
    command.arg(kernel).arg(initramfs);
    let text = output(command).ok().text();
    assert!(text.starts_with("power off\n"), "{text}");
    for part in ["this is sector 0 ", "this is sector 2047 ", "it is read-only"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn the_example_of_files_serves_without_a_vm() {
    let Some(example) = ours("NOFEAR_EXAMPLE_FILES") else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("sub/file"), "its text\n").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
    let mut command = Command::new(example);
    command.arg(folder.path());
    let ran = output_with(command, b"sub/file\nlink\n../../etc/passwd\nmissing\n".to_vec()).ok();
    let text = ran.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert_eq!(lines[0], "its text");
    assert!(lines[1].starts_with("link: ") && lines[2].starts_with("../../etc/passwd: "), "{text}");
    assert!(lines[3].starts_with("missing: No such file"), "{text}");
}
