//! Running VMs of a test's own.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command},
};

use crate::{Home, Ran, output, start};

/// A home with a folder for running VMs, too.
pub struct Controlled(Home);

impl Controlled {
    /// A new one, in which no VM runs.
    pub fn new() -> Self {
        let world = Self(Home::new());
        fs::create_dir(world.runtime()).unwrap();
        fs::set_permissions(world.runtime(), fs::Permissions::from_mode(0o700)).unwrap();
        world
    }

    /// The home.
    pub fn home(&self) -> &Path {
        self.0.path()
    }

    /// The folder for running VMs.
    pub fn runtime(&self) -> PathBuf {
        self.0.path().join("run")
    }

    /// `nofear` with these arguments.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Option<Command> {
        let mut command = self.0.nofear(arguments)?;
        command.env("XDG_RUNTIME_DIR", self.runtime()).env("XDG_STATE_HOME", self.home().join("state"));
        Some(command)
    }

    /// Its output.
    pub fn nofear(&self, arguments: &[&str]) -> Ran {
        output(self.command(arguments).unwrap())
    }

    /// Starts a VM with a script, and waits until it has said a first line.
    pub fn start(&self, options: &[&str], script: &str) -> Option<(Child, BufReader<ChildStdout>)> {
        let small = ["run", "--cpus", "1", "--mem", "256M"];
        let command = self.command(small.iter().chain(options).chain(&["--", "sh", "-c", script]))?;
        let mut child = start(command);
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        if line != "ready\n" {
            panic!("{line}{:?}", child.wait_with_output());
        }
        Some((child, lines))
    }
}

impl Default for Controlled {
    fn default() -> Self {
        Self::new()
    }
}
