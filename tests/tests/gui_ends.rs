//! However windows end, nothing is left of them, and the exit status says how it was.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs::{self, File},
    io::Write,
    os::fd::OwnedFd,
};

use nofear_tests::{
    Ran,
    desktop::until,
    windows::{Vm, World, client_of},
};
use rustix::process::{Pid, Signal, kill_process};

/// A VM of which nothing lasts.
const RUN: [&str; 8] = ["run", "-t", "--net", "none", "--cpus", "1", "-v", "-g"];

/// A window that ends with what shows it.
const WINDOW: &str = "xterm -geometry 20x4 -T ends -e sleep 10000";

/// Ends the first process, by guest root, and so the kernel: its code is written over.
const CRASH: &str = "
for line in open('/proc/1/maps'):
    place, mode = line.split()[:2]
    if 'x' in mode and '[' not in line:
        start, end = (int(one, 16) for one in place.split('-'))
        memory = open('/proc/1/mem', 'r+b', 0)
        memory.seek(start)
        memory.write(b'\\xf4' * (end - start))
";

/// Its title on the desktop.
const TITLE: &str = "[temporary] ends";

/// The processes that have something to do with this world's VMs, but its own.
fn left(world: &World) -> Vec<String> {
    let runtime = world.runtime().join("nofear").display().to_string();
    let has = |pid: &str| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let ours = name.trim() == "nofear"
            && String::from_utf8_lossy(&environment).contains(&world.runtime().display().to_string());
        (ours || line.contains(&runtime)).then_some(line)
    };
    let processes = fs::read_dir("/proc").unwrap();
    processes.filter_map(|entry| has(entry.ok()?.file_name().to_str()?)).collect()
}

/// Starts a VM with a window, does something to it, and checks that nothing is left at its end.
fn ends(world: &World, mut vm: Vm, act: impl FnOnce()) -> Ran {
    vm.window(world.desktop(), TITLE);
    assert_ne!(left(world), Vec::<String>::new());
    act();
    let ran = vm.end();
    until("the end of all processes", || left(world).is_empty());
    assert_eq!(fs::read_dir(world.runtime().join("nofear")).unwrap().count(), 0, "{}", ran.stderr);
    assert!(world.desktop().find(TITLE).is_none());
    ran
}

/// A pipe for a program that waits for a line, and what sends it.
fn line() -> (OwnedFd, impl FnOnce()) {
    let (theirs, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (theirs, move || File::from(ours).write_all(b"now\n").unwrap())
}

#[test]
fn a_program_that_crashes_is_a_status() {
    let world = World::new();
    // An output that the window held open would be waited for.
    let script = format!("{WINDOW} >/dev/null 2>&1 & read line; kill -SEGV $$");
    let arguments = [&RUN[..], &["--", "sh", "-c", &script]].concat();
    let Some(mut command) = world.nofear(&arguments) else { return };
    let (stdin, send) = line();
    command.stdin(stdin);
    let ran = ends(&world, Vm::start(command), send);
    assert_eq!(ran.status, Some(139), "{}", ran.stderr);
}

#[test]
fn a_guest_that_crashes_says_its_last_words() {
    let world = World::new();
    let script = format!("{WINDOW} >/dev/null 2>&1 & read line; exec python3 -c \"$0\"");
    let arguments = [&RUN[..], &["--root", "--", "sh", "-c", &script, CRASH]].concat();
    let Some(mut command) = world.nofear(&arguments) else { return };
    let (stdin, send) = line();
    command.stdin(stdin);
    let ran = ends(&world, Vm::start(command), send);
    assert_eq!(ran.status, Some(125), "{}", ran.stderr);
    assert!(ran.stderr.contains("in the VM: ") && ran.stderr.contains("panic"), "{}", ran.stderr);
}

#[test]
fn a_client_that_is_killed_ends_the_vm() {
    let world = World::new();
    let Some(command) = world.nofear(&[&RUN[..], &["--", "sh", "-c", WINDOW]].concat()) else { return };
    let ran = ends(&world, Vm::start(command), || {
        let client = client_of(&world.runtime()).expect("a client");
        kill_process(Pid::from_raw(client.cast_signed()).unwrap(), Signal::KILL).unwrap();
    });
    assert_eq!(ran.status, Some(125), "{}", ran.stderr);
    // What confines it tells the signal as a status.
    let said = ran.stderr.split("the client that shows the windows ").nth(1).unwrap_or_default();
    assert!(
        ["was ended by signal 9", "ended with status 137"].iter().any(|how| said.starts_with(how)),
        "{}",
        ran.stderr
    );
}

#[test]
fn ctrl_c_ends_the_program_and_all_else() {
    let world = World::new();
    let Some(command) = world.nofear(&[&RUN[..], &["--", "sh", "-c", WINDOW]].concat()) else { return };
    let (mut master, slave) = terminal();
    let ran = ends(&world, Vm::on_terminal(command, slave), || master.write_all(&[3]).unwrap());
    assert_eq!(ran.status, Some(130), "{}", ran.stderr);
}

/// Both ends of a new terminal.
fn terminal() -> (File, OwnedFd) {
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (master.into(), slave.into())
}
