//! What a program changes is kept in its profile, and nowhere else.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nofear_tests::{Ran, nofear, output, start};

/// A home with profiles of this test's own.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir_in("/tmp").unwrap())
    }

    fn nofear<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Option<Command> {
        let mut command = nofear()?;
        command.args(arguments).env("XDG_DATA_HOME", self.0.path()).stdin(Stdio::null());
        Some(command)
    }

    /// A small VM with a profile, and a shell script in it.
    fn run(&self, profile: &str, options: &[&str], script: &str) -> Option<Ran> {
        let small = ["run", "-p", profile, "--cpus", "1", "--mem", "256M"];
        let command = ["--", "sh", "-c", script];
        self.nofear(small.iter().chain(options).chain(&command)).map(output)
    }

    fn profile(&self, arguments: &[&str]) -> Ran {
        output(self.nofear(["profile"].iter().chain(arguments)).unwrap())
    }

    fn folder(&self, profile: &str) -> PathBuf {
        self.0.path().join("nofear/profiles").join(profile)
    }
}

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

/// Writes records, each with fsync, and says each one when it is safe; renames and small files between them.
const LOAD: &str = r#"
import os, sys
home = os.path.expanduser("~")
log = os.open(home + "/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
n = int(sys.argv[1])
while True:
    os.write(log, b"record %d\n" % n)
    os.fsync(log)
    print(n, flush=True)
    for i in range(20):
        with open(home + "/new", "wb") as f: f.write(os.urandom(3000 + 100 * i))
        os.rename(home + "/new", home + "/file%d" % i)
    if n % 3 == 0:
        os.makedirs(home + "/package/lib", exist_ok=True)
        for i in range(30):
            with open(home + "/package/lib/%d" % i, "w") as f: f.write("x" * 200)
        for i in range(30): os.unlink(home + "/package/lib/%d" % i)
    n += 1
"#;

/// The load in a shell, for machines whose Python takes long to start: each record with `sync`, which is fsync.
const SHELL_LOAD: &str = r#"
n=$0
while :; do
    echo "record $n" >> ~/log && sync ~/log && echo $n
    for i in 1 2 3 4 5 6; do echo "$n $i" > ~/new; mv ~/new ~/file$i; done
    mkdir -p ~/package/lib; for i in 1 2 3 4 5 6; do echo $n > ~/package/lib/$i; done; rm -r ~/package
    n=$((n + 1))
done
"#;

/// How many kills: few in the ordinary suite, two hundred where `NOFEAR_RUNS` says so.
fn kills() -> usize {
    std::env::var("NOFEAR_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(2)
}

#[test]
fn a_vmm_that_is_killed_loses_nothing_that_was_synced() {
    let home = Home::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(std::process::id());
    let mut safe = 0_u64;
    for kill in 0..kills() {
        let first = (safe + 1).to_string();
        let python = kill % 4 == 3;
        let load = match python {
            true => ["python3", "-c", LOAD, &first],
            false => ["sh", "-c", SHELL_LOAD, &first],
        };
        let small = ["run", "-p", "a", "--disk-size", "64M", "--cpus", "1", "--mem", "256M", "--"];
        let Some(command) = home.nofear(small.iter().chain(&load)) else { return };
        let mut child = start(command);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // At least one record, and then any instant.
        let mut said = lines.next().and_then(Result::ok).and_then(|line| line.parse().ok());
        assert!(said.is_some(), "{:?}", child.wait_with_output());
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_micros((state >> 33) % 700_000));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            said = line.parse().ok().or(said);
        }
        safe = said.unwrap();

        // It mounts, and has every record that was safe, whole and in order.
        let ran = home.run("a", &[], "cat ~/log; ls ~ >/dev/null").unwrap().ok();
        let text = ran.text();
        let records: Vec<_> = text.lines().collect();
        assert!(records.len() as u64 >= safe, "{} of {safe} records are there", records.len());
        for (at, record) in records.iter().enumerate() {
            assert_eq!(*record, format!("record {}", at + 1));
        }
        safe = records.len() as u64;
        let check = home.profile(&["check", "a"]);
        assert!(check.status == Some(0) && check.text().contains("is clean\n"), "{check:?}");
        println!("kill {}: {safe} records are there, and the file system is clean", kill + 1);
    }
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
    let here = |name: &str| home.0.path().join(name).into_os_string().into_string().unwrap();
    fs::create_dir(here("folder")).unwrap();
    fs::write(here("folder/file"), vec![7; 100_000]).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", here("folder/link")).unwrap();
    output(home.nofear(["cp", &here("folder"), "a:copied"]).unwrap()).ok();
    let ran = output(home.nofear(["cp", "a:copied", &here("back")]).unwrap()).ok();
    assert_eq!(fs::read(here("back/file")).unwrap(), vec![7; 100_000]);
    assert!(!fs::exists(here("back/link")).unwrap() && ran.stderr.contains("leads out"), "{ran:?}");
    assert_eq!(output(home.nofear(["cp", "b:x", &here("x")]).unwrap()).status, Some(125));

    let exported = home.0.path().join("a.nofear-profile");
    home.profile(&["export", "a", exported.to_str().unwrap()]).ok();
    home.profile(&["import", exported.to_str().unwrap(), "b"]).ok();
    let ran = home.run("b", &[], "cat ~/x").unwrap().ok();
    assert_eq!(ran.text(), "hi\n");
    let mut bytes = Vec::new();
    fs::File::open(exported).unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes.len() < 8 << 20);
}
