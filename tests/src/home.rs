//! Profiles of a test's own.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Ran, nofear, output};

/// A home with profiles of this test's own.
pub struct Home(tempfile::TempDir);

impl Default for Home {
    fn default() -> Self {
        Self(tempfile::tempdir_in("/tmp").unwrap())
    }
}

impl Home {
    /// A new one, without profiles.
    pub fn new() -> Self {
        Self::default()
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// `nofear` with these arguments.
    pub fn nofear<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Option<Command> {
        let mut command = nofear()?;
        command.args(arguments).env("XDG_DATA_HOME", self.path()).stdin(Stdio::null());
        Some(command)
    }

    /// A small VM with a profile, and a shell script in it.
    pub fn run(&self, profile: &str, options: &[&str], script: &str) -> Option<Ran> {
        let small = ["run", "-p", profile, "--cpus", "1", "--mem", "256M"];
        let command = ["--", "sh", "-c", script];
        self.nofear(small.iter().chain(options).chain(&command)).map(output)
    }

    /// `nofear profile` with these arguments.
    pub fn profile(&self, arguments: &[&str]) -> Ran {
        output(self.nofear(["profile"].iter().chain(arguments)).unwrap())
    }

    /// A profile's folder.
    pub fn folder(&self, profile: &str) -> PathBuf {
        self.path().join("nofear/profiles").join(profile)
    }
}
