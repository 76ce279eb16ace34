//! The machine's software is upgraded while a VM uses it.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
};

use nofear_tests::{ours, output, start};

/// Mounts of its own, in which `/usr` is a copy that can be changed, with a program and its library.
const WORLD: &str = r#"
mount -t tmpfs none /mnt; mkdir /mnt/upper /mnt/work
mount -t overlay -o lowerdir=/usr,upperdir=/mnt/upper,workdir=/mnt/work none /usr
mkdir /usr/lib/nofear-test
echo 'echo library old' > /usr/lib/nofear-test/library
printf '#!/bin/sh\n. /usr/lib/nofear-test/library; echo program old\n' > /usr/bin/nofear-test
chmod 755 /usr/bin/nofear-test
echo other old > /usr/lib/nofear-test/other
"$NOFEAR" run --temporary --cpus 1 --mem 256M -- sh -c '
    nofear-test; exec 3</usr/lib/nofear-test/library; sleep 1000 & echo ready; read line
    cat /usr/lib/nofear-test/other; nofear-test; cat <&3; kill $! && date +%Y >/dev/null && echo still here'
"#;

/// As a package manager does it: each file beside its old one, and renamed over it.
const UPGRADE: &str = r#"
echo 'echo library new' > /usr/lib/nofear-test/library.dpkg-new
mv /usr/lib/nofear-test/library.dpkg-new /usr/lib/nofear-test/library
printf '#!/bin/sh\n. /usr/lib/nofear-test/library; echo program new\n' > /usr/bin/nofear-test.dpkg-new
chmod 755 /usr/bin/nofear-test.dpkg-new
mv /usr/bin/nofear-test.dpkg-new /usr/bin/nofear-test
echo other new > /usr/lib/nofear-test/other.dpkg-new
mv /usr/lib/nofear-test/other.dpkg-new /usr/lib/nofear-test/other
cp -p /bin/sleep /usr/bin/sleep.dpkg-new; mv /usr/bin/sleep.dpkg-new /usr/bin/sleep
"#;

#[test]
fn an_upgrade_of_the_hosts_software_is_spoken_of_once_and_the_vm_goes_on() {
    let Some(_) = ours("NOFEAR") else { return };
    if !rustix::process::geteuid().is_root() {
        assert!(env::var_os("CI").is_none(), "this test mounts: run it as root");
        eprintln!("SKIPPED: this test mounts: run it as root");
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-euc", WORLD]).stdin(Stdio::piped());
    let mut child = start(command);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().and_then(Result::ok);
    let first: Vec<_> = [next(), next(), next()].into_iter().flatten().collect();
    if first != ["library old", "program old", "ready"] {
        panic!("{first:?} {:?}", child.wait_with_output());
    }
    output({
        let mut upgrade = Command::new("nsenter");
        upgrade.args(["--mount", "--target", &child.id().to_string(), "sh", "-euc", UPGRADE]);
        upgrade
    })
    .ok();
    child.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    let rest: Vec<_> = std::iter::from_fn(next).collect();
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(child.wait().unwrap().success(), "{rest:?} {errors}");
    // What was open is what it was, and what the guest had not looked up is new. What it had looked up is one or the
    // other, but whole: its kernel may have it in memory.
    let is_whole = |line: &String, what: &str| [format!("{what} old"), format!("{what} new")].contains(line);
    let [other, library, program, open, end] = &rest[..] else { panic!("{rest:?} {errors}") };
    assert_eq!([other, open, end], ["other new", "echo library old", "still here"], "{errors}");
    assert!(is_whole(library, "library") && is_whole(program, "program"), "{rest:?}");
    assert_eq!(errors.matches("software was changed").count(), 1, "{errors}");
}
