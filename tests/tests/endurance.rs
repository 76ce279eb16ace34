//! Many runs, runs at once, and runs that are killed leave nothing behind.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::Command,
};

use nofear_tests::{output, run, start};

/// How many runs in a row: few in the ordinary suite, two hundred where `NOFEAR_RUNS` says so.
fn runs() -> usize {
    env::var("NOFEAR_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(8)
}

/// A run-time directory of this test's own.
fn with_runtime_directory(command: &mut Command) -> tempfile::TempDir {
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    command.env("XDG_RUNTIME_DIR", directory.path());
    directory
}

fn entries(directory: &tempfile::TempDir) -> Vec<PathBuf> {
    let ours = directory.path().join("nofear");
    fs::read_dir(ours).into_iter().flatten().map(|e| e.unwrap().path()).collect()
}

#[test]
fn runs_in_a_row_leave_nothing_behind() {
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let files_before = fs::read_dir("/tmp").unwrap().count();
    for i in 0..runs() {
        let Some(mut command) = run(["--", "sh", "-c", "echo $0", &i.to_string()]) else { return };
        command.env("XDG_RUNTIME_DIR", directory.path());
        let ran = output(command).ok();
        assert_eq!(ran.text(), format!("{i}\n"), "{}", ran.stderr);
        assert_eq!(entries(&directory), Vec::<PathBuf>::new());
    }
    assert_eq!(fs::read_dir("/tmp").unwrap().count(), files_before);
    assert_eq!(processes(), 0);
}

#[test]
fn several_at_once_do_not_meet() {
    let mut running = Vec::new();
    for i in 0..8 {
        let number = i.to_string();
        let script = "cat /proc/sys/kernel/random/uuid > ~/x; sleep 1; wc -l < ~/x; echo $0";
        let Some(command) = run(["--cpus", "1", "--mem", "256M", "--", "sh", "-c", script, &number]) else {
            return;
        };
        running.push(start(command));
    }
    for (i, child) in running.into_iter().enumerate() {
        let ran = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ran.stdout), format!("1\n{i}\n"), "{ran:?}");
    }
    assert_eq!(processes(), 0);
}

#[test]
fn a_killed_vmm_does_not_stop_the_next_run() {
    let Some(mut command) = run(["--", "sh", "-c", "echo ready; sleep 1000"]) else { return };
    let directory = with_runtime_directory(&mut command);
    let mut child = start(command);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(processes(), 0);

    let Some(mut command) = run(["--", "echo", "again"]) else { return };
    command.env("XDG_RUNTIME_DIR", directory.path());
    assert_eq!(output(command).ok().text(), "again\n");
    assert_eq!(entries(&directory), Vec::<PathBuf>::new(), "the killed one's remains are gone");
}

/// How many processes run the command under test.
fn processes() -> usize {
    let binary = env::var_os("NOFEAR").map(|p| fs::canonicalize(p).unwrap());
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| fs::read_link(e.ok()?.path().join("exe")).ok())
        .filter(|exe| Some(exe) == binary.as_ref())
        .count()
}
