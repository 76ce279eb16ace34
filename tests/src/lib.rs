//! What the whole-system tests share: the command under test, and its output.
//!
//! They run through `cargo xtask test`, on a KVM that can start Linux: it sets `NOFEAR` to the binary, and
//! `NOFEAR_KERNEL` and `NOFEAR_INITRAMFS`, which the binary reads itself; `NOFEAR_EXAMPLE_BOOT` and its like are
//! the VMM's examples, `NOFEAR_ARCHIVE` is that of `cargo xtask dist`, and `NOFEAR_STOCK` has a line for each kernel of the distribution: release, image and folder of
//! modules, between tabs; `NOFEAR_DISTRIBUTIONS` one for each tree of a distribution: its name and
//! version, and its root. Without them every test is skipped, and says so.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    env,
    ffi::{OsStr, OsString},
    io::Write,
    process::{Child, Command, Output, Stdio},
    thread,
};

mod controlled;
pub mod desktop;
mod home;
mod pty;
pub mod sound;
pub mod windows;
mod world;

pub use controlled::Controlled;
pub use home::Home;
pub use pty::Pty;
pub use world::{World, reached};

/// A file or text that `cargo xtask test` made ready, or nothing when the tests were started in another way.
pub fn ours(variable: &str) -> Option<OsString> {
    let value = env::var_os(variable);
    if value.is_none() {
        assert!(env::var_os("CI").is_none(), "{variable} is not set: run `cargo xtask test`");
        eprintln!("SKIPPED: {variable} is not set; run `cargo xtask test`");
    }
    value
}

/// Whether this is root, as a test that mounts must be.
pub fn may_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(env::var_os("CI").is_none(), "this test mounts: run it as root");
        eprintln!("SKIPPED: this test mounts: run it as root");
    }
    root
}

/// The command under test, or nothing when this machine was not made ready for it.
pub fn nofear() -> Option<Command> {
    ours("NOFEAR").map(Command::new)
}

/// `nofear run --temporary` with these arguments: a run that nothing is left of.
pub fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Option<Command> {
    let mut command = nofear()?;
    command.args(["run", "--temporary"]).args(arguments).stdin(Stdio::null());
    Some(command)
}

/// What a command printed and how it ended, with text for assertions.
#[derive(Debug)]
pub struct Ran {
    /// Exit status; none: a signal.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, as text.
    pub stderr: String,
}

impl Ran {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Fails unless the command ended with 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, Some(0), "stdout: {}\nstderr: {}", self.text(), self.stderr);
        self
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a command to its end.
pub fn output(mut command: Command) -> Ran {
    command.output().unwrap().into()
}

/// Runs a command to its end with these bytes on its standard input.
pub fn output_with(mut command: Command, input: Vec<u8>) -> Ran {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The command may end before it has read everything.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let ran = child.wait_with_output().unwrap().into();
    writer.join().unwrap();
    ran
}

/// Runs a shell script in a VM.
pub fn script(options: &[&str], script: &str) -> Option<Ran> {
    let arguments = options.iter().copied().chain(["--", "sh", "-c", script]);
    run(arguments).map(output)
}

/// Starts a command whose output is read later.
pub fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}
