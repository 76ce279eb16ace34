//! A world of network namespaces around a host: `tests/network` has it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Ran, may_mount, nofear, output};

/// A world for one command, and what its servers were asked.
pub struct World(tempfile::TempDir);

impl World {
    /// Runs a shell script in a world in which `$NOFEAR` is the command; nothing when this machine was not made
    /// ready.
    pub fn run(script: &str) -> Option<(Self, Ran)> {
        Self::with(&["--map-root-user"], false, script)
    }

    /// Runs a shell script as root of a world whose ordinary user may have taps, after `nofear setup`.
    pub fn with_taps(script: &str) -> Option<(Self, Ran)> {
        may_mount().then(|| Self::with(&[], true, script)).flatten()
    }

    fn with(options: &[&str], taps: bool, script: &str) -> Option<(Self, Ran)> {
        let nofear = nofear()?;
        let world = Self(tempfile::tempdir_in("/tmp").unwrap());
        let mut command = Command::new("unshare");
        command.args(options).args(["--net", "--mount", "bash"]);
        command.arg(scripts().join("world.sh")).arg(world.0.path());
        if taps {
            command.arg("bash").arg(scripts().join("taps.sh")).arg(world.0.path());
        }
        command
            .args(["bash", "-c", script])
            .env("NOFEAR", nofear.get_program())
            .env("SCRIPTS", scripts())
            .env("TRANSFER", transfer().to_string())
            .stdin(Stdio::null());
        let ran = output(command);
        Some((world, ran))
    }

    /// What the servers of `place` were asked: `internet`, `lan` or `host`.
    pub fn asked(&self, place: &str) -> String {
        fs::read_to_string(self.0.path().join(format!("{place}.log"))).unwrap()
    }
}

/// How many bytes go each way in the tests of transfers: `NOFEAR_TRANSFER`, or what an emulated machine does in a
/// few seconds.
fn transfer() -> u64 {
    env::var("NOFEAR_TRANSFER").map_or(1_000_000, |text| text.parse().unwrap())
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("network")
}

/// Fails unless a guest that ran `reach.sh` reached what it may, and nothing else.
#[track_caller]
pub fn reached(world: &World, ran: &Ran, text: &str) {
    let log = &ran.stderr;
    assert_eq!(ran.status, Some(0), "{text}\n{log}");
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let both = format!("{} bytes each way", transfer());
    let each = ["1 received", "datagram", &both];
    let hello = "hello from internet";
    assert_eq!(lines, [&[hello, hello, hello, "nosuch.test"][..], &each, &each].concat(), "{log}");
    for reason in ["the host itself", "a local network", "a link-local address", "a carrier's range"] {
        assert!(log.contains(reason), "{reason}: {log}");
    }
    assert!(world.asked("host").lines().all(|line| line.starts_with("DNS")), "{}", world.asked("host"));
    assert_eq!(world.asked("lan"), "");
}
