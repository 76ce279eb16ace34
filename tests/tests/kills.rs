//! A VMM that is killed at any instant leaves a profile that mounts, is whole, and has all that was synced; also when
//! the host's disk is full or breaks under it.
//!
//! One VM a kill: it first says what it finds of the last one's work, and then works on. `NOFEAR_KILLS` says how
//! many, and `NOFEAR_SEED` repeats a run's instants.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    env,
    fmt::Display,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use nofear_tests::{Home, Ran, may_mount, output, start};

/// How long until something is said, where all is emulated.
const PATIENCE: Duration = Duration::from_secs(120);

/// The instants: the same for the same seed.
struct Instants(u64);

impl Instants {
    fn new() -> Self {
        let given = env::var("NOFEAR_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
        println!("NOFEAR_SEED={seed}");
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// Any time up to this.
    fn within(&mut self, most: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let part = u32::try_from(self.0 >> 33).unwrap();
        most * part / (u32::MAX >> 1)
    }
}

fn kills(ordinary: usize) -> usize {
    env::var("NOFEAR_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(ordinary)
}

/// A profile's disk is on a file system of its own, with something below it that can be made to fail.
trait Below {
    /// All writes that need room, or all, fail from now on.
    fn fail(&self);
    /// As before it failed.
    fn mend(&self);
}

/// One profile through all kills.
struct Trial<'a> {
    home: &'a Home,
    /// A folder with the guest's program, `guests/load.c`.
    program: tempfile::TempDir,
    instants: Instants,
    /// The last record that was said to be safe.
    safe: u64,
}

impl<'a> Trial<'a> {
    fn new(home: &'a Home) -> Self {
        let program = tempfile::tempdir_in("/tmp").unwrap();
        let mut gcc = Command::new("gcc");
        gcc.args(["-O1", "-o"]).arg(program.path().join("load"));
        output({
            gcc.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/guests/load.c"));
            gcc
        })
        .ok();
        Self { home, program, instants: Instants::new(), safe: 0 }
    }

    /// Starts a VM, looks at what it finds, lets it work, and kills it at any instant. With something `below`, that
    /// fails meanwhile.
    fn round(&mut self, round: usize, below: Option<&dyn Below>) {
        let growth = if below.is_some() { "200000" } else { "5000" };
        let share = format!("{}:/load", self.program.path().display());
        let small =
            ["run", "-p", "a", "--disk-size", "64M", "--cpus", "1", "--mem", "256M", "--share", &share];
        let load = ["--", "/load/load", growth];
        let mut child = start(self.home.nofear(small.iter().chain(&load)).unwrap());
        let lines = lines(&mut child);
        let mut found = Vec::new();
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) if line == "ready" => break,
                Ok(line) if line.starts_with("record ") || line.starts_with("state ") => found.push(line),
                Ok(line) => {
                    child.kill().unwrap();
                    panic!("kill {round}: after {found:?} the guest finds {line:?}");
                }
                Err(_) => {
                    child.kill().unwrap();
                    panic!("kill {round}: no VM: {:?}", child.wait_with_output());
                }
            }
        }
        self.look(round, found);

        // At least one record, and then any instant.
        assert!(self.hear(&lines, PATIENCE, |line| !has_failed(line)), "kill {round}: no record");
        if let Some(below) = below {
            below.fail();
            // One time in two it is killed as soon as the guest knows, and else when it may not have noticed.
            let waits = round.is_multiple_of(2);
            let most = if waits { PATIENCE } else { Duration::from_secs(2) };
            let failed = self.hear(&lines, most, has_failed);
            assert!(failed || !waits, "kill {round}: the guest was told of no error");
        }
        let instant = self.instants.within(Duration::from_millis(1500));
        thread::sleep(instant);
        child.kill().unwrap();
        child.wait().unwrap();
        while let Ok(line) = lines.recv() {
            self.note(&line);
        }
        if let Some(below) = below {
            below.mend();
        }
        println!("kill {round}, {instant:.1?} after it began: record {} was safe", self.safe);
    }

    /// Hears what the guest says until a line is the one, or for so long.
    fn hear(&mut self, lines: &Receiver<String>, most: Duration, is_it: impl Fn(&str) -> bool) -> bool {
        let until = Instant::now() + most;
        loop {
            match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.note(&line);
                    if is_it(&line) {
                        return true;
                    }
                }
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => panic!("the VM ended by itself"),
            }
        }
    }

    fn note(&mut self, line: &str) {
        if !has_failed(line) {
            self.safe = line.parse().unwrap();
        }
    }

    /// Every record that was safe is there, whole and in order, and so is the last rename.
    fn look(&mut self, round: impl Display, found: Vec<String>) {
        let mut records = found;
        let state = records.pop_if(|line| line.starts_with("state "));
        let have = records.len() as u64;
        assert!(have >= self.safe, "kill {round}: {have} of {} records are there", self.safe);
        for (at, record) in records.iter().enumerate() {
            assert_eq!(*record, format!("record {}", at + 1), "kill {round}");
        }
        let state = state.map_or(0, |state| state["state ".len()..].parse().unwrap());
        assert!((self.safe..=have).contains(&state), "kill {round}: state {state}, safe {}", self.safe);
    }

    /// The last look, by a VM that ends in order; and what `profile check` says.
    fn end(&mut self) {
        let ran = self.home.run("a", &[], "cd; cat log state").unwrap().ok();
        self.look("(the last)", ran.text().lines().map(Into::into).collect());
        let check = self.home.profile(&["check", "a"]);
        assert!(check.status == Some(0) && check.text().contains("is clean\n"), "{check:?}");
    }

    /// What is on the disk after a kill is whole once its journal is replayed: nothing else needs a repair.
    fn check(&self, round: usize) {
        let (disk, copy) = (self.home.folder("a").join("disk.img"), self.home.path().join("copy.img"));
        let fsck = |how: &[&str]| {
            let mut command = Command::new("e2fsck");
            command.args(how).arg(&copy);
            output(command)
        };
        output({
            let mut cp = Command::new("cp");
            cp.arg("--sparse=always").args([&disk, &copy]);
            cp
        })
        .ok();
        let replay = fsck(&["-p"]);
        let text = replay.text();
        let is_replay = |line: &str| {
            ["recovering journal", "Clearing orphaned inode", ": clean, "]
                .iter()
                .any(|part| line.contains(part))
        };
        assert!(text.lines().all(is_replay), "kill {round}: {replay:?}");
        let check = fsck(&["-fn"]);
        assert_eq!(check.status, Some(0), "kill {round}: {check:?}");
        fs::remove_file(copy).unwrap();
    }
}

/// Whether the guest's program says that it was told of an error.
fn has_failed(line: &str) -> bool {
    line.starts_with("failed: ")
}

/// The lines that a child prints, as they come.
fn lines(child: &mut Child) -> Receiver<String> {
    let (sender, lines) = channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    lines
}

#[test]
fn a_vmm_that_is_killed_loses_nothing_that_was_synced() {
    let home = Home::new();
    let Some(_) = home.nofear(["-l"]) else { return };
    let mut trial = Trial::new(&home);
    for round in 0..kills(3) {
        trial.round(round, None);
        trial.check(round);
        // What a user would do, not every time.
        if (round + 1).is_multiple_of(50) {
            trial.end();
        }
    }
    trial.end();
}

/// A shell command.
fn try_shell(command: &str) -> Ran {
    let mut shell = Command::new("sh");
    shell.args(["-euc", command]).env("DM_DISABLE_UDEV", "1");
    output(shell)
}

/// A shell command that must work.
fn shell(command: &str) -> String {
    try_shell(command).ok().text().trim_end().to_owned()
}

/// Rounds in which what is below the disk fails, too.
fn fail_and_kill(home: &Home, below: &dyn Below) {
    let mut trial = Trial::new(home);
    for round in 0..kills(2) {
        trial.round(round, Some(below));
    }
    trial.end();
}

/// A disk of the host that another file fills.
struct Full<'a>(&'a Path);

impl<'a> Full<'a> {
    fn new(folder: &'a Path) -> Self {
        shell(&format!("mount -t tmpfs -o size=48m full {}", folder.display()));
        Self(folder)
    }
}

impl Below for Full<'_> {
    fn fail(&self) {
        let folder = self.0.display();
        shell(&format!("dd if=/dev/zero of={folder}/filler bs=64k 2>/dev/null || [ -s {folder}/filler ]"));
    }

    fn mend(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Full<'_> {
    fn drop(&mut self) {
        try_shell(&format!("umount --lazy {}", self.0.display()));
    }
}

#[test]
fn a_full_disk_of_the_host_and_a_kill_lose_nothing_that_was_synced() {
    let home = Home::new();
    let Some(_) = home.nofear(["-l"]).filter(|_| may_mount()) else { return };
    let full = Full::new(home.path());
    fail_and_kill(&home, &full);
}

/// A disk of the host that loses its cable: from one moment on all that it is asked for fails.
struct Broken<'a> {
    folder: &'a Path,
    device: String,
    name: String,
}

impl<'a> Broken<'a> {
    const SECTORS: u64 = 96 << 11;

    fn new(folder: &'a Path) -> Self {
        let name = format!("nofear-kills-{}", std::process::id());
        let device = shell(&format!(
            "truncate -s {} {1}/cable.img; losetup --find --show {1}/cable.img",
            Self::SECTORS * 512,
            folder.display()
        ));
        let broken = Self { folder, device, name };
        broken.table("create", &broken.whole());
        shell(&format!("mkfs.ext4 -q /dev/mapper/{}; mkdir {}/nofear", broken.name, folder.display()));
        broken.mount();
        broken
    }

    fn whole(&self) -> String {
        format!("0 {} linear {} 0", Self::SECTORS, self.device)
    }

    fn table(&self, verb: &str, table: &str) {
        shell(&format!("dmsetup {verb} {} --table '{table}'", self.name));
    }

    fn mount(&self) {
        shell(&format!("mount -t ext4 /dev/mapper/{} {}/nofear", self.name, self.folder.display()));
    }

    /// What waits in the device must not wait for a suspended one.
    fn exchange(&self, table: &str) {
        let name = &self.name;
        shell(&format!("dmsetup suspend --noflush --nolockfs {name}"));
        self.table("load", table);
        shell(&format!("dmsetup resume {name}"));
    }
}

impl Below for Broken<'_> {
    fn fail(&self) {
        self.exchange(&format!("0 {} error", Self::SECTORS));
    }

    fn mend(&self) {
        // Nothing that the host still had in memory gets onto the disk.
        shell(&format!("umount {}/nofear", self.folder.display()));
        self.exchange(&self.whole());
        self.mount();
    }
}

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        let (folder, name, device) = (self.folder.display(), &self.name, &self.device);
        try_shell(&format!(
            "umount {folder}/nofear || umount --lazy {folder}/nofear; dmsetup remove --deferred {name}; \
             losetup --detach {device}"
        ));
    }
}

#[test]
fn a_disk_of_the_host_that_breaks_and_a_kill_lose_nothing_that_was_synced() {
    let home = Home::new();
    let Some(_) = home.nofear(["-l"]).filter(|_| may_mount()) else { return };
    if !Path::new("/dev/mapper/control").exists() {
        assert!(env::var_os("CI").is_none(), "no device mapper here");
        eprintln!("SKIPPED: no device mapper here");
        return;
    }
    let broken = Broken::new(home.path());
    fail_and_kill(&home, &broken);
}
