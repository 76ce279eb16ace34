//! What a program changes is kept in its profile, and nowhere else.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use nofear_tests::{Home, output, start};

#[test]
fn a_profile_keeps_what_another_does_not_have_and_a_rollback_undoes_it() {
    let home = Home::new();
    // The first run makes the profile, and its file system.
    let Some(ran) = home.run("a", &[], "hostname; cat /etc/machine-id; id -un; df -k / | tail -1") else {
        return;
    };
    let ran = ran.ok();
    assert!(ran.stderr.contains("made the profile a"), "{ran:?}");
    let first = ran.text();
    assert!(first.starts_with("nofear-a\n"), "{first}");
    let free: u64 = first.lines().nth(3).unwrap().split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!((900_000..1_048_576).contains(&free), "{first}");
    home.profile(&["snapshot", "a", "before"]).ok();

    let change = "echo hi > ~/x; if [ $(id -u) != 0 ] && su -c true </dev/null; then exit 9; fi";
    let ran = home.run("a", &[], change).unwrap().ok();
    assert!(!ran.stderr.contains("made the profile"), "{ran:?}");
    let small = small_folder();
    let change = format!(
        "set -e; mkdir -p /opt; touch /usr/bin/zz; rm /usr/bin/env; echo more >> /etc/services; rm -r '{0}'; mkdir '{0}'; \
         touch \"$(printf '/opt/a\\033]0;x\\nb')\"; cp /etc/ld.so.cache /var/kept",
        small.display()
    );
    home.run("a", &["--root"], &change).unwrap().ok();

    // Kept, with the same machine and the same user.
    let look = "cat ~/x; ls /usr/bin/zz /usr/bin/env; tail -1 /etc/services; cmp /etc/ld.so.cache /var/kept && echo same";
    let ran = home.run("a", &[], &format!("hostname; cat /etc/machine-id; id -un; {look}")).unwrap();
    let text = ran.text();
    let mut lines = text.lines();
    let mut same = first.lines();
    for _ in 0..3 {
        assert_eq!(lines.next(), same.next(), "{ran:?}");
    }
    assert_eq!(lines.collect::<Vec<_>>(), ["hi", "/usr/bin/zz", "more", "same"], "{ran:?}");

    // The host has none of it.
    for made in ["/usr/bin/zz", "/var/kept"] {
        assert!(!Path::new(made).exists(), "{made}");
    }
    assert!(Path::new("/usr/bin/env").exists() && fs::read_dir(&small).unwrap().next().is_some());
    assert!(!fs::read_to_string("/etc/services").unwrap().ends_with("more\n"));

    let diff = home.profile(&["diff", "a"]).ok();
    let text = diff.text();
    let has = |kind: &str, rest: &str| {
        assert!(
            text.lines().any(|line| line.starts_with(kind) && line.ends_with(rest)),
            "{kind} {rest}: {text}{}",
            diff.stderr
        );
    };
    has("added", "0 B  /usr/bin/zz");
    assert!(text.lines().any(|line| line.contains(" 3 B ") && line.ends_with("/x")), "{text}");
    has("deleted", "  /usr/bin/env");
    has("changed", "  /etc/services");
    has("added", "  /var/kept");
    has("added", r"/opt/a\x1b]0;x\x0ab");
    let gone = fs::read_dir(&small).unwrap().next().unwrap().unwrap().path();
    has("deleted", &gone.display().to_string());
    for made in ["/etc/passwd", "/etc/machine-id", "/home", "/proc", "/usr/bin", "/usr"] {
        let is_it = |line: &str| line.trim_end_matches('/').ends_with(&format!("  {made}"));
        assert!(!text.lines().any(is_it), "{made} is nobody's change: {text}");
    }

    // Another profile is another machine.
    let ran =
        home.run("b", &["--disk-size", "64M"], &format!("hostname; cat /etc/machine-id; {look}")).unwrap();
    let text = ran.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "nofear-b");
    assert_ne!(Some(lines[1]), first.lines().nth(1));
    assert_eq!(lines[2], "/usr/bin/env", "{ran:?}");
    assert!(!lines.iter().any(|line| ["hi", "/usr/bin/zz", "more", "same"].contains(line)), "{ran:?}");

    // Grown, renamed, rolled back, checked.
    home.profile(&["set", "b", "disk-size=256M"]).ok();
    home.profile(&["rename", "b", "c"]).ok();
    let ran = home.run("c", &[], "hostname; df -k / | tail -1; getent hosts nofear-c").unwrap().ok();
    let text = ran.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "nofear-c", "{ran:?}");
    let size: u64 = lines[1].split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(size > 200_000, "{ran:?}");
    assert!(lines[2].starts_with("127.0.1.1"), "{ran:?}");

    home.profile(&["rollback", "a", "before"]).ok();
    let ran = home.run("a", &[], look).unwrap();
    let services = fs::read_to_string("/etc/services").unwrap();
    assert_eq!(ran.text(), format!("/usr/bin/env\n{}\n", services.lines().next_back().unwrap()), "{ran:?}");
    let text = home.profile(&["diff", "a"]).ok().text();
    assert_eq!(text, "0 added, 0 changed, 0 deleted\n");
    let check = home.profile(&["check", "a"]).ok();
    assert!(check.text().contains("the profile a is clean"), "{check:?}");
}

/// A folder of the host's software that a guest can remove in no time.
fn small_folder() -> PathBuf {
    let is_small = |path: &PathBuf| {
        let entries: Vec<_> = fs::read_dir(path).into_iter().flatten().flatten().collect();
        (1..8).contains(&entries.len()) && entries.iter().all(|entry| entry.path().is_file())
    };
    fs::read_dir("/usr/share").unwrap().map(|entry| entry.unwrap().path()).find(is_small).unwrap()
}

#[test]
fn a_second_vm_on_a_profile_is_refused_and_a_damaged_disk_is_not_made_anew() {
    let home = Home::new();
    let Some(command) = home.nofear([
        "run",
        "-p",
        "a",
        "--disk-size",
        "64M",
        "--cpus",
        "1",
        "--mem",
        "256M",
        "--",
        "sh",
        "-c",
    ]) else {
        return;
    };
    let mut command = command;
    let mut child = start({
        command.arg("echo ready; exec sleep 1000");
        command
    });
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let pid = child.id().to_string();
    for ran in [
        home.run("a", &[], "true").unwrap(),
        home.profile(&["delete", "a", "--yes"]),
        home.profile(&["diff", "a"]),
        home.profile(&["snapshot", "a"]),
    ] {
        assert_eq!(ran.status, Some(125), "{ran:?}");
        for part in ["profile a", "VM ", &pid, "--temporary"] {
            assert!(ran.stderr.contains(part), "{part}: {ran:?}");
        }
    }
    assert!(home.profile(&["list"]).text().contains(&pid));
    // Its lock dies with it.
    child.kill().unwrap();
    child.wait().unwrap();
    home.run("a", &[], "true").unwrap().ok();

    // A corrupt image: one line, and nothing is written to it.
    let disk = home.folder("a").join("disk.img");
    let size = disk.metadata().unwrap().len();
    fs::write(&disk, vec![0xa5; 1 << 20]).unwrap();
    fs::File::options().write(true).open(&disk).unwrap().set_len(size).unwrap();
    let before = fs::read(&disk).unwrap();
    let ran = home.run("a", &[], "true").unwrap();
    assert_eq!(ran.status, Some(125), "{ran:?}");
    assert!(ran.stderr.contains("profile's disk"), "{ran:?}");
    assert!(fs::read(&disk).unwrap() == before);
    let check = home.profile(&["check", "a"]);
    assert_ne!(check.status, Some(0), "{check:?}");
}

#[test]
fn a_half_made_file_system_is_made_again_and_files_come_and_go() {
    let home = Home::new();
    let Some(_) = home.nofear(["-l"]) else { return };
    home.profile(&["new", "a", "--disk-size", "64M"]).ok();
    // As a VM that is killed leaves it: something is there, and no command has run.
    let disk = home.folder("a").join("disk.img");
    fs::write(&disk, vec![0x5a; 3 << 20]).unwrap();
    fs::File::options().write(true).open(&disk).unwrap().set_len(64 << 20).unwrap();
    let ran = home.run("a", &[], "echo hi > ~/x; cat ~/x").unwrap().ok();
    assert_eq!(ran.text(), "hi\n");

    // Copied in and out.
    let here = |name: &str| home.path().join(name).into_os_string().into_string().unwrap();
    fs::create_dir(here("folder")).unwrap();
    fs::write(here("folder/file"), vec![7; 100_000]).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", here("folder/link")).unwrap();
    output(home.nofear(["cp", &here("folder"), "a:copied"]).unwrap()).ok();
    let ran = output(home.nofear(["cp", "a:copied", &here("back")]).unwrap()).ok();
    assert_eq!(fs::read(here("back/file")).unwrap(), vec![7; 100_000]);
    assert!(!fs::exists(here("back/link")).unwrap() && ran.stderr.contains("leads out"), "{ran:?}");
    assert_eq!(output(home.nofear(["cp", "b:x", &here("x")]).unwrap()).status, Some(125));

    let exported = home.path().join("a.nofear-profile");
    home.profile(&["export", "a", exported.to_str().unwrap()]).ok();
    home.profile(&["import", exported.to_str().unwrap(), "b"]).ok();
    let ran = home.run("b", &[], "cat ~/x").unwrap().ok();
    assert_eq!(ran.text(), "hi\n");
    let mut bytes = Vec::new();
    fs::File::open(exported).unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes.len() < 8 << 20);
}
