//! VMs in the background, how each kind of end is told, and what is seen of a guest from outside.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nofear_tests::{Controlled, Pty, Ran, output, start};
use rustix::process::{Pid, Signal, kill_process};

/// Nothing here may take longer.
const PATIENCE: Duration = Duration::from_secs(200);

const SMALL: [&str; 7] = ["run", "--temporary", "--cpus", "1", "--mem", "256M", "--net=none"];

/// A VM in the background.
fn detach(world: &Controlled, name: &str, options: &[&str], script: &str) -> Option<Ran> {
    let detached = ["--detach", "--name", name];
    let command = ["--", "sh", "-c", script];
    world.command(SMALL.iter().chain(&detached).chain(options).chain(&command)).map(output)
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(200));
    }
}

fn pid(world: &Controlled) -> Pid {
    let text = world.nofear(&["ps", "--json"]).ok().text();
    let number = text.split("\"pid\": ").nth(1).unwrap().split(',').next().unwrap().trim().to_owned();
    Pid::from_raw(number.parse().unwrap()).unwrap()
}

#[test]
fn a_vm_in_the_background_is_named_says_what_it_says_and_how_it_ended() {
    let world = Controlled::new();
    // Ended by a file in a share, so that nothing depends on how fast it is.
    let shared = world.home().join("shared");
    fs::create_dir(&shared).unwrap();
    let share = format!("{}:/shared", shared.display());
    let script = "echo out; echo err >&2; printf '\\033[2J\\377\\n'; cat; \
                  until [ -e /shared/go ]; do sleep 0.1; done; echo last; exit 3";
    let Some(ran) = detach(&world, "web", &["--share", &share], script) else { return };
    // It has returned, and whoever reads what it prints has seen its end, while the VM runs.
    assert_eq!((ran.status, ran.text().as_str(), ran.stderr.as_str()), (Some(0), "web\n", ""));
    let table = world.nofear(&["ps"]).ok().text();
    assert!(table.lines().nth(1).unwrap().starts_with("web "), "{table}");
    // Two streams, whose parts come in any order.
    let parts: [&[u8]; 3] = [b"out\n", b"err\n", b"\x1b[2J\xff\n"];
    until("all is said", || {
        let said = world.nofear(&["logs", "web"]).ok().stdout;
        parts.iter().all(|part| said.windows(part.len()).any(|bytes| bytes == *part))
    });
    world.nofear(&["logs", "--kernel", "web"]).ok();

    // A name is had once at a time, and a bad one is none.
    let ran = output(world.command(SMALL.iter().chain(&["--name", "web", "true"])).unwrap());
    assert!(ran.status == Some(125) && ran.stderr.contains("the name web runs already"), "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    let ran = detach(&world, "../web", &[], "true").unwrap();
    assert!(ran.status == Some(125) && ran.stderr.contains("a name begins with a letter"), "{ran:?}");

    // Followed and waited for, by two.
    let mut follow = start(world.command(["logs", "--follow", "web"]).unwrap());
    let mut wait = start(world.command(["wait", "web"]).unwrap());
    fs::write(shared.join("go"), "").unwrap();
    assert_eq!(wait.wait().unwrap().code(), Some(3));
    let mut text = Vec::new();
    follow.stdout.take().unwrap().read_to_end(&mut text).unwrap();
    assert!(follow.wait().unwrap().success() && text.ends_with(b"\nlast\n"), "{text:?}");

    // And known afterwards.
    assert_eq!(world.nofear(&["wait", "web"]).status, Some(3));
    assert!(world.nofear(&["logs", "web"]).ok().text().ends_with("last\n"));
    assert_eq!(world.nofear(&["ps"]).ok().text().lines().count(), 1);
    let table = world.nofear(&["ps", "--all"]).ok().text();
    assert!(table.contains("web ") && table.contains("(ended: 3)"), "{table}");
    let json = world.nofear(&["ps", "--all", "--json"]).ok().text();
    assert!(json.contains("\"state\": \"ended\"") && json.contains("\"status\": 3"), "{json}");

    // What never runs is told where it was asked for, and not kept.
    let ran = output(world.command(SMALL.iter().chain(&["--detach", "no-such-program"])).unwrap());
    assert!(ran.status == Some(127) && ran.stderr.contains("no-such-program: not found"), "{ran:?}");
    assert_eq!(world.nofear(&["ps", "--all"]).ok().text().lines().count(), 2);

    // Another takes the name; one that is stopped ends in order, and one that is killed is known to be.
    let script = "trap 'echo asked; exit 9' TERM; echo up; while :; do sleep 0.1; done";
    detach(&world, "web", &[], script).unwrap().ok();
    world.nofear(&["stop", "web"]).ok();
    assert_eq!(world.nofear(&["wait", "web"]).status, Some(143));
    assert!(world.nofear(&["logs", "web"]).ok().text().starts_with("up\n"));
    detach(&world, "killed", &[], "sleep 1000").unwrap().ok();
    kill_process(pid(&world), Signal::KILL).unwrap();
    assert_eq!(world.nofear(&["wait", "killed"]).status, Some(137));
    assert!(world.nofear(&["logs", "killed"]).ok().text().contains("ended by signal 9"));
    let ran = world.nofear(&["wait", "nobody"]);
    assert!(ran.status == Some(125) && ran.stderr.contains("ps --all"), "{ran:?}");
}

#[test]
fn a_panic_a_lack_of_memory_and_a_hang_are_told_apart() {
    let world = Controlled::new();
    let run = |options: &[&str], script: &str| {
        let command = ["--", "sh", "-c", script];
        world.command(SMALL.iter().chain(options).chain(&command)).map(output)
    };
    // A program that takes all memory is killed, and that is said with the kernel's words. The guest goes on.
    let Some(ran) = run(&[], "tail /dev/zero; echo $?; exit 5") else { return };
    assert_eq!((ran.status, ran.text().as_str()), (Some(5), "137\n"), "{ran:?}");
    assert!(ran.stderr.contains("in the VM: out of memory: Killed process"), "{ran:?}");
    assert!(ran.stderr.contains("(tail)"), "{ran:?}");

    // A kernel that panics says why, for want of memory or for something else.
    let ran = run(&["--root"], "echo 1 > /proc/sys/vm/panic_on_oom; tail /dev/zero").unwrap();
    assert_eq!(ran.status, Some(125));
    assert!(
        ran.stderr.contains("the VM ended before the command did: kernel panic: Out of memory"),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("in the VM: ") && ran.stderr.contains("Call Trace"), "{ran:?}");
    detach(&world, "panics", &[], "sleep 1000").unwrap().ok();
    let text = world.nofear(&["debug", "--nmi", "panics"]).ok().text();
    assert!(text.contains("rip 0x"), "{text}");
    assert_eq!(world.nofear(&["wait", "panics"]).status, Some(125));
    let said = world.nofear(&["logs", "panics"]).ok().text();
    assert!(said.contains("kernel panic: NMI: Not continuing") && said.contains("Call Trace"), "{said}");

    // One whose agent hangs while its CPU runs is said to, with where that is, and ended by who wants that.
    let script = "mkdir /tmp/groups && mount -t cgroup2 none /tmp/groups && mkdir /tmp/groups/frozen && \
                  echo 1 > /tmp/groups/frozen/cgroup.procs && echo 1 > /tmp/groups/frozen/cgroup.freeze && \
                  while :; do :; done";
    detach(&world, "hangs", &["--root"], script).unwrap().ok();
    until("it is said", || world.nofear(&["logs", "hangs"]).ok().text().contains("CPU 0 is at 0x"));
    assert!(world.nofear(&["ps"]).ok().text().contains("(does not answer)"));
    let said = world.nofear(&["logs", "hangs"]).ok().text();
    assert!(said.contains("the guest has not answered for 60 s, and has not ended"), "{said}");
    assert!(world.nofear(&["debug", "hangs"]).ok().text().contains("rip 0x"));
    world.nofear(&["stop", "--force", "hangs"]).ok();
    assert_eq!(world.nofear(&["wait", "hangs"]).status, Some(137));
}

#[test]
fn a_guests_console_has_a_shell() {
    let world = Controlled::new();
    let Some(ran) =
        detach(&world, "con", &["--console", "--root"], "exec setsid -cw sh -i <>/dev/ttyS0 >&0 2>&1")
    else {
        return;
    };
    ran.ok();
    // From a terminal each key goes there as it is, but the one that leaves; then the terminal is as it was.
    let mut terminal = Pty::default();
    let mut console = terminal.start(world.command(["console", "con"]).unwrap());
    terminal.wait_for("Ctrl-] leaves it");
    let keys = b"a\x03\x1a\x04\r\x7f";
    let script = "stty raw -echo; echo go$((1+1)); dd bs=1 count=6 2>/dev/null | od -An -tx1; stty sane";
    terminal.press(format!("{script}\r").as_bytes());
    terminal.wait_for("go2");
    assert!(terminal.is_raw());
    terminal.press(keys);
    terminal.wait_for("61 03 1a 04 0d 7f");
    terminal.press(b"\x1d");
    assert!(console.wait().unwrap().success());
    terminal.is_as_it_was();
    // By the command, whose input is none of a terminal.
    let mut console = world.command(["console", "con"]).unwrap();
    console.stdin(std::process::Stdio::piped());
    let mut console = start(console);
    let (mut keys, said) = (console.stdin.take().unwrap(), console.stdout.take().unwrap());
    keys.write_all(b"echo $((6*7))-$(id -u)\n").unwrap();
    wait_for(said, "42-0");
    // By any program; the first one's end is none of the console's.
    console.kill().unwrap();
    console.wait().unwrap();
    let mut socket = UnixStream::connect(world.runtime().join("nofear/con/control.sock")).unwrap();
    socket.write_all(b"{\"version\":1,\"request\":\"console\"}\necho $((7*8))-again\nexit\n").unwrap();
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "{\"event\":\"console\"}\n");
    wait_for(reader, "56-again");
    assert_eq!(world.nofear(&["wait", "con"]).status, Some(0));
}

/// Reads until there is such a text.
fn wait_for(mut from: impl Read, text: &str) {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&all).contains(text) {
        let count = from.read(&mut buffer).unwrap();
        assert!(count > 0, "{text}: {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&buffer[..count]);
    }
}

#[test]
fn a_vm_that_is_paused_while_it_starts_is_not_late() {
    let world = Controlled::new();
    let Some(command) = world.command(SMALL.iter().chain(&["--name", "late", "--", "echo", "here"])) else {
        return;
    };
    let vm = start(command);
    until("it is there", || {
        Path::new(&world.runtime().join("nofear/late/control.sock")).exists()
            && world.nofear(&["pause", "late"]).status == Some(0)
    });
    let table = world.nofear(&["ps"]).ok().text();
    assert!(table.contains("(paused)"), "{table}");
    // Longer than what a guest may take before that is said.
    thread::sleep(Duration::from_secs(35));
    world.nofear(&["resume", "late"]).ok();
    let ran = Ran::from(vm.wait_with_output().unwrap());
    assert_eq!((ran.status, ran.text().as_str()), (Some(0), "here\n"), "{ran:?}");
    assert!(!ran.stderr.contains("has not answered"), "{ran:?}");
}
