//! Running VMs are seen, used and ended by other commands of their user.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    process::Command,
};

use nofear_tests::{Controlled, output, output_with, start};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn a_vm_that_runs_is_seen_used_and_ended() {
    let world = Controlled::new();
    let script = "echo ready; trap 'echo asked; exit 3' TERM; while :; do sleep 0.1; done";
    let Some((mut vm, mut said)) = world.start(&["-p", "a", "--disk-size", "64M"], script) else { return };

    // Seen.
    let table = world.nofear(&["ps"]).ok().text();
    let line = table.lines().nth(1).unwrap();
    let id = line.split_whitespace().next().unwrap();
    for part in ["a", &vm.id().to_string(), "MiB", " -          sh -c echo ready"] {
        assert!(line.contains(part), "{part}: {table}");
    }
    let json = world.nofear(&["ps", "--json"]).ok().text();
    for part in [&format!("\"vm\": \"{id}\""), "\"profile\": \"a\"", "\"state\": \"running\"", "\"cpus\": 1"]
    {
        assert!(json.contains(part), "{part}: {json}");
    }
    let folder = world.runtime().join("nofear").join(id);
    let mode = |path: &PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&folder.join("control.sock"))), (0o700, 0o600));

    // By any program.
    let socket = UnixStream::connect(folder.join("control.sock")).unwrap();
    (&socket).write_all(b"{\"version\":9,\"request\":\"status\"}\n").unwrap();
    let mut answer = String::new();
    BufReader::new(socket).read_line(&mut answer).unwrap();
    assert!(answer.contains("\"error\"") && answer.contains("version 9"), "{answer}");

    // Used, by its name and by its profile's.
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let script = "cat; echo error >&2; id -un > ~/who; exit 7";
    let ran = output_with(world.command(["exec", id, "--", "sh", "-c", script]).unwrap(), bytes.clone());
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(7), "error\n"));
    assert!(ran.stdout == bytes, "{} bytes came back", ran.stdout.len());
    let ran = world.nofear(&[
        "exec",
        "a",
        "-e",
        "X=y z",
        "-w",
        "/usr",
        "--",
        "sh",
        "-c",
        "pwd; echo $X; kill -9 $$",
    ]);
    assert_eq!((ran.status, ran.text().as_str()), (Some(137), "/usr\ny z\n"), "{ran:?}");
    let ran = world.nofear(&["exec", "a", "--", "no-such-program"]);
    assert!(ran.status == Some(127) && ran.stderr.contains("no-such-program: not found"), "{ran:?}");
    let ran = world.nofear(&["exec", "b", "--", "true"]);
    assert!(ran.status == Some(125) && ran.stderr.contains("nofear ps"), "{ran:?}");

    // What its disk has done.
    let text = world.nofear(&["stat", "a"]).ok().text();
    let disk: Vec<&str> =
        text.lines().find(|line| line.starts_with("disk ")).unwrap().split_whitespace().collect();
    assert!(disk[1].parse::<u64>().unwrap() > 0 && disk.last() == Some(&"0"), "{text}");

    // A signal is passed on; and whoever is killed takes the command along.
    let wait = "trap 'exit 9' TERM; echo $$; while :; do sleep 0.1; done";
    let mut pids = Vec::new();
    for signal in [Signal::TERM, Signal::KILL] {
        let mut exec = start(world.command(["exec", "a", "--", "sh", "-c", wait]).unwrap());
        let mut pid = String::new();
        BufReader::new(exec.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        pids.push(pid.trim().to_owned());
        kill_process(Pid::from_child(&exec), signal).unwrap();
        let status = exec.wait().unwrap().code();
        assert_eq!(status, if signal == Signal::TERM { Some(9) } else { None });
    }
    let gone = format!("for i in $(seq 100); do [ -d /proc/{} ] || exit 0; sleep 0.1; done; exit 1", pids[1]);
    world.nofear(&["exec", "a", "--", "sh", "-c", &gone]).ok();

    // Files in and out, while it runs; a link of its is not followed here.
    let here = |name: &str| world.home().join(name).into_os_string().into_string().unwrap();
    fs::create_dir(here("folder")).unwrap();
    fs::write(here("folder/file"), &bytes).unwrap();
    world.nofear(&["cp", &here("folder"), "a:copied"]).ok();
    let link = "ln -s /etc copied/out; ln -s file copied/in; cat copied/file | wc -c";
    assert_eq!(world.nofear(&["exec", "a", "--", "sh", "-c", link]).ok().text(), "300000\n");
    let ran = world.nofear(&["cp", &format!("{id}:copied"), &here("back")]).ok();
    assert!(ran.stderr.contains("leads out") && !fs::exists(here("back/out")).unwrap(), "{ran:?}");
    assert_eq!(fs::read(here("back/file")).unwrap(), bytes);
    assert_eq!(fs::read_link(here("back/in")).unwrap(), PathBuf::from("file"));

    // Ended in order: the command is asked, and all that was written is kept.
    world.nofear(&["stop", "a"]).ok();
    let mut text = String::new();
    said.read_to_string(&mut text).unwrap();
    assert_eq!(vm.wait().unwrap().code(), Some(143), "{text}");
    assert_eq!(world.nofear(&["ps"]).ok().text().lines().count(), 1);

    // The next has it all, and ends at once.
    let (mut vm, mut said) = world.start(&["-p", "a"], "echo ready; cat who; sleep 1000").unwrap();
    let mut who = String::new();
    said.read_line(&mut who).unwrap();
    assert_eq!(who.trim(), output(Command::new("whoami")).ok().text().trim());
    world.nofear(&["stop", "--force", "--all"]).ok();
    assert_eq!(vm.wait().unwrap().code(), Some(137));
    let ran = world.nofear(&["stop", id]);
    assert!(ran.status == Some(125) && ran.stderr.contains("no VM runs"), "{ran:?}");
}

#[test]
fn a_vm_that_does_not_answer_is_ended_by_force_and_a_temporary_one_is_asked() {
    let world = Controlled::new();
    let Some((mut vm, _said)) = world.start(&["-t"], "echo ready; sleep 1000") else { return };
    let pid = Pid::from_child(&vm);
    kill_process(pid, Signal::STOP).unwrap();
    let ran = world.nofear(&["stop", "--all"]);
    assert!(ran.status == Some(125) && ran.stderr.contains("--force"), "{ran:?}");
    world.nofear(&["stop", "--force", "--all"]).ok();
    assert_eq!(vm.wait().unwrap().code(), None);

    // One that answers is asked, though nothing of it lasts.
    let script = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let (mut vm, _said) = world.start(&["-t"], script).unwrap();
    world.nofear(&["stop", "--all"]).ok();
    assert_eq!(vm.wait().unwrap().code(), Some(143));
}

#[test]
fn a_vm_is_paused_and_looked_into_and_its_memory_comes_back() {
    let world = Controlled::new();
    // A file that grows while the guest runs.
    let script = "echo ready; while :; do date +%s%N > /tmp/next; mv /tmp/next /tmp/now; sleep 0.05; done";
    let Some((mut vm, _said)) = world.start(&["-t"], script) else { return };
    let id = world.nofear(&["ps"]).ok().text().lines().nth(1).unwrap()[..8].to_owned();
    let vm_run = |script: &str| world.nofear(&["exec", &id, "--", "sh", "-c", script]);
    let json = |part: &str| {
        let text = world.nofear(&["stat", "--json", &id]).ok().text();
        let value = text.lines().find_map(|line| line.trim().strip_prefix(&format!("\"{part}\": ")));
        value.unwrap_or_else(|| panic!("{part}: {text}")).trim_end_matches(',').parse::<u64>().unwrap()
    };

    // Looked into.
    let text = world.nofear(&["debug", &id]).ok().text();
    assert!(text.contains("CPU 0:") && text.contains("rip 0x") && text.contains("cr3 0x"), "{text}");
    assert!(!text.contains("does not come out"), "{text}");
    world.nofear(&["logs", &id]).ok();
    let text = world.nofear(&["stat", &id]).ok().text();
    assert!(text.contains("256.00 MiB") && text.lines().any(|line| line.starts_with("0 ")), "{text}");

    // What each device has done: requests, bytes from the guest and to it, errors.
    let device = |name: &str| -> [u64; 4] {
        let text = world.nofear(&["stat", "--json", &id]).ok().text();
        let rest = text.split_once(&format!("\"name\": \"{name}\",")).unwrap_or_else(|| panic!("{text}")).1;
        let mut values = rest
            .lines()
            .filter_map(|line| line.trim().trim_end_matches(',').rsplit(' ').next()?.parse().ok());
        std::array::from_fn(|_| values.next().unwrap())
    };
    let grown = |name: &str, script: &str| -> [u64; 4] {
        let before = device(name);
        vm_run(script);
        let after = device(name);
        std::array::from_fn(|i| after[i] - before[i])
    };
    let size = fs::metadata("/usr/bin/perl").unwrap().len();
    let [requests, from, to, _] = grown("9p-nofear-root", "cat /usr/bin/perl >/dev/null");
    assert!(
        requests > 0 && from > 0 && (size..size + (1 << 20)).contains(&to),
        "{requests} {from} {to} {size}"
    );
    let [.., errors] = grown("9p-nofear-root", "ls /usr/no-such-file");
    assert!((1..100).contains(&errors), "{errors}");
    let [requests, from, to, errors] = grown("vsock", "head -c 1000000 /dev/zero");
    assert!((10..100_000).contains(&requests) && from > 1_000_000 && to > 0, "{requests} {from} {to}");
    assert_eq!(errors, 0);
    assert!(device("entropy")[2] > 0);
    let text = world.nofear(&["stat", &id]).ok().text();
    for name in ["DEVICE", "9p-nofear-root", "vsock", "entropy", "balloon"] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name}: {text}");
    }

    // Paused: nothing moves, and it says so; then it goes on.
    world.nofear(&["pause", &id]).ok();
    assert!(world.nofear(&["ps"]).ok().text().contains("(paused)"));
    let ran = vm_run("true");
    assert!(ran.status == Some(125) && ran.stderr.contains("nofear resume"), "{ran:?}");
    let exits = || world.nofear(&["stat", &id]).ok().text();
    let before = exits();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(exits(), before);
    world.nofear(&["debug", &id]).ok();
    world.nofear(&["resume", &id]).ok();
    let now = vm_run("a=$(cat /tmp/now); sleep 1; b=$(cat /tmp/now); [ $a -lt $b ] && echo moves");
    assert_eq!(now.text(), "moves\n");

    // Memory that the guest does without, by order.
    let ran = world.nofear(&["balloon", &id, "1G"]);
    assert!(ran.status == Some(125) && ran.stderr.contains("256.00 MiB"), "{ran:?}");
    let before = device("balloon");
    world.nofear(&["balloon", &id, "160M"]).ok();
    let wait_for = |what: &str, enough: &dyn Fn() -> bool| {
        for _ in 0..600 {
            if enough() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("{what}: {}", exits());
    };
    wait_for("the balloon fills", &|| json("balloon-held") == 96 << 20);
    // A number of four bytes for each page.
    assert!(device("balloon")[1] - before[1] >= 96 << 10);
    world.nofear(&["balloon", &id, "256M"]).ok();
    wait_for("the balloon empties", &|| json("balloon-held") == 0);

    // And what it has freed comes back by itself.
    let resident = || {
        let statm = fs::read_to_string(format!("/proc/{}/statm", vm.id())).unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    vm_run("head -c 100M /dev/zero > /dev/shm/large").ok();
    let full = resident();
    vm_run("rm /dev/shm/large").ok();
    wait_for("free memory comes back", &|| resident() + (60 << 20) < full);
    assert!(json("reported-free") > 60 << 20);

    // One that is paused ends all the same.
    world.nofear(&["pause", &id]).ok();
    world.nofear(&["stop", &id]).ok();
    assert_eq!(vm.wait().unwrap().code(), Some(143));
}
