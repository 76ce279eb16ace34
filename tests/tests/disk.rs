//! What the host can't do, a guest learns as an I/O error of its disk, and nothing else happens.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use loader::cpio::Writer;
use nofear_tests::{Ran, may_mount, ours, output};

const EIO: i64 = 5;

/// MiB of the disks here, as in `guests/disk.c`.
const SIZE: i64 = 16;

/// A folder with an initramfs of `guests/disk.c`, and a script that starts a VM with it and a disk.
fn guest() -> Option<(tempfile::TempDir, Command)> {
    let (example, kernel): (OsString, OsString) = (ours("NOFEAR_EXAMPLE_BOOT")?, ours("NOFEAR_KERNEL")?);
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("init");
    let mut gcc = Command::new("gcc");
    gcc.args(["-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-Os", "-o"]).arg(&program);
    output({
        gcc.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/guests/disk.c"));
        gcc
    })
    .ok();
    let mut archive = Writer::new(Vec::new());
    archive.directory("dev", 0o755).unwrap();
    archive.character_device("dev/console", 0o600, 5, 1).unwrap();
    archive.file("init", 0o755, &fs::read(program).unwrap()).unwrap();
    fs::write(folder.path().join("initramfs"), archive.finish().unwrap()).unwrap();
    // Mounts of its own: they are gone with it.
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-euc"]).stdin(Stdio::null()).current_dir(folder.path());
    command.env("TMPDIR", folder.path()).env("VMM", example).env("KERNEL", kernel);
    Some((folder, command))
}

/// What the guest said: a word, and the error of each request.
fn said(text: &str) -> BTreeMap<String, Vec<i64>> {
    let lines = text.lines().filter_map(|line| line.split_once("disk: "));
    lines
        .map(|(_, said)| {
            let mut words = said.split_whitespace();
            let what = words.next().unwrap().into();
            (what, words.map(|error| error.parse().unwrap()).collect())
        })
        .collect()
}

fn run(mut command: Command, script: &str) -> Vec<BTreeMap<String, Vec<i64>>> {
    command.arg(script);
    let ran: Ran = output(command).ok();
    let text = ran.text();
    let runs: Vec<_> = text.split("power off\n").skip(1).map(said).collect();
    assert!(runs.iter().all(|said| said.get("open") == Some(&vec![0])), "{ran:?}");
    runs
}

#[test]
fn a_full_host_disk_is_an_io_error_and_what_was_written_stays() {
    let Some((_folder, command)) = guest().filter(|_| may_mount()) else { return };
    let runs = run(
        command,
        "mkdir host; mount -t tmpfs -o size=6m host host; truncate -s 16M host/image
         $VMM $KERNEL initramfs host/image
         mount -o remount,size=32m host
         $VMM $KERNEL initramfs host/image",
    );
    let [full, room] = &runs[..] else { panic!("{runs:?}") };
    let none = vec![0; SIZE as usize];
    assert_eq!(full["first-read"], none);
    assert_eq!(full["flush"], [0]);
    for (index, (&write, &read)) in (0..).zip(full["write"].iter().zip(&full["read"])) {
        // The last that fits may end in the middle.
        match index {
            0..5 => assert_eq!((write, read), (0, 0), "MiB {index}: {full:?}"),
            5 => {}
            _ => assert_eq!((write, read), (EIO, -1), "MiB {index}: {full:?}"),
        }
    }
    for what in ["first-read", "write", "read"] {
        assert_eq!(room[what], none, "{room:?}");
    }
}

#[test]
fn an_error_of_the_hosts_disk_is_an_io_error_where_it_is_and_at_the_flush() {
    let Some((_folder, command)) = guest().filter(|_| may_mount()) else { return };
    if !Path::new("/dev/mapper/control").exists() {
        assert!(env::var_os("CI").is_none(), "no device mapper here");
        eprintln!("SKIPPED: no device mapper here");
        return;
    }
    // The device mapper takes sectors of 512 bytes: MiB 4 to 7 are broken.
    let runs = run(
        command,
        "export DM_DISABLE_UDEV=1
         truncate -s 16M image; loop=$(losetup --find --show image); name=nofear-test-$$
         trap 'dmsetup remove $name; losetup --detach $loop' EXIT
         printf '%s\\n' \"0 8192 linear $loop 0\" '8192 8192 error' \"16384 16384 linear $loop 16384\" |
             dmsetup create $name
         $VMM $KERNEL initramfs /dev/mapper/$name",
    );
    let [said] = &runs[..] else { panic!("{runs:?}") };
    for (index, &error) in (0..).zip(&said["first-read"]) {
        assert_eq!(error, if (4..8).contains(&index) { EIO } else { 0 }, "MiB {index}: {said:?}");
    }
    assert_eq!(said["flush"], [EIO], "{said:?}");
    for (index, &error) in (0..).zip(&said["read"]) {
        assert!(error == 0 || (4..8).contains(&index), "MiB {index}: {said:?}");
    }
}
