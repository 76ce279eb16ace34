//! A guest that is nothing but a hostile 9P client, `tests/hostile/`, in the place of a kernel: it drives the
//! devices itself. Here are the host's part in its races, and the judgement.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs::{self, File},
    io::ErrorKind,
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt, PermissionsExt, symlink},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nofear_tests::{Ran, nofear, output};
use rustix::{
    fs::{CWD, FileType, Mode, inotify, makedev, mknodat},
    process::{Pid, Signal, geteuid, kill_process},
};
use tempfile::TempDir;

/// Nothing here may take longer, in the emulated host least of all.
const LIMIT: Duration = Duration::from_secs(400);

/// Most memory of the process of a VM under attack, in bytes, the guest's own few MiB included: `docs/9p.md` has
/// what fids cost.
const MOST_MEMORY: u64 = 128 << 20;

/// The same of one that has no fids, but rings and messages all over its memory, and gives a part of it away.
const MOST_MEMORY_OF_A_MACHINE: u64 = 160 << 20;

/// Most descriptors of that process: opened files, those kept for what is not open and half as many again for what
/// was removed, and the VMM's own.
const MOST_DESCRIPTORS: usize = 16_384 + 4096 * 3 / 2 + 200;

/// What lies outside of every share, as `tests/hostile/ninep.c` knows it.
const CANARY: &str = "canary-of-the-host-5e0d";

/// Mounts in the share that only the VM's process sees: `$0` is the share, and the rest the command.
const MOUNTS: &str = "mount -t tmpfs tmpfs \"$0/mounted\"; echo mounted > \"$0/mounted/file\"
                      mount --rbind /proc \"$0/proc\"; exec \"$@\"";

/// A folder of the host with what is shared and what is not.
struct World {
    folder: TempDir,
    _socket: UnixListener,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let path = |name: &str| folder.path().join(name);
        for directory in [
            "share/deep/deeper",
            "share/leaves/below",
            "share/inside",
            "share/mounted",
            "share/proc",
            "other",
            "outside",
            "run",
        ] {
            fs::create_dir_all(path(directory)).unwrap();
        }
        fs::set_permissions(path("run"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(path("outside/canary"), CANARY).unwrap();
        fs::write(path("other/file"), "read-only").unwrap();
        fs::write(path("share/file"), vec![7; 1 << 20]).unwrap();
        fs::write(path("share/leaves/below/leaf"), "leaf").unwrap();
        fs::write(path("share/inside/canary"), "harmless").unwrap();
        symlink("../outside", path("share/out")).unwrap();
        symlink("../outside/canary", path("share/link")).unwrap();
        symlink("../outside", path("share/up")).unwrap();
        symlink(path("outside"), path("share/absolute")).unwrap();
        symlink("/proc/self/fd", path("share/descriptors")).unwrap();
        mknodat(CWD, path("share/fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let socket = UnixListener::bind(path("share/socket")).unwrap();
        // The client does without it where only root makes devices.
        let _ = mknodat(CWD, path("share/null"), FileType::CharacterDevice, Mode::RWXU, makedev(1, 3));
        Self { folder, _socket: socket }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The client, as a kernel.
    fn compile(&self) {
        let mut gcc = Command::new("gcc");
        gcc.args(["-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pic", "-no-pie"])
            .args(["-mgeneral-regs-only", "-mno-red-zone", "-O2", "-Wl,-Ttext-segment=0x1000000,-N"])
            .args(["-Wl,-z,noexecstack,--build-id=none", "-o"])
            .arg(self.path("kernel"));
        let sources = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/hostile")).unwrap();
        gcc.args(
            sources
                .map(|file| file.unwrap().path())
                .filter(|path| path.extension().is_some_and(|e| e == "c")),
        );
        output(gcc).ok();
    }

    /// A VM with the client in it, hostile or not; what it says goes to a file of the same name.
    fn start(&self, name: &str, line: &str) -> Option<Child> {
        let mut command = nofear()?;
        if geteuid().is_root() {
            let nofear = command;
            command = Command::new("unshare");
            command.args(["--mount", "sh", "-euc", MOUNTS]).arg(self.path("share")).arg(nofear.get_program());
        }
        command
            .args(["run", "--temporary", "--console", "--cpus", "1", "--mem", "256M"])
            .args(["--name", name, "--append", line])
            .args(["--share", &format!("{}:/data:rw", self.path("share").display())])
            .args(["--share", &format!("{}:/other", self.path("other").display())])
            .args(["--", "true"])
            .env("NOFEAR_KERNEL", self.path("kernel"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.path(name)).unwrap());
        Some(command.spawn().unwrap())
    }

    /// `nofear` with these arguments, for one of those VMs.
    fn nofear(&self, arguments: &[&str]) -> Ran {
        let mut command = nofear().unwrap();
        command.args(arguments).env("XDG_RUNTIME_DIR", self.path("run"));
        output(command)
    }

    /// What the client in that VM said.
    fn said(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Waits for a file that the client makes; false if it never came.
    fn wait_for(&self, name: &str) -> bool {
        let end = Instant::now() + LIMIT;
        while !self.path(name).exists() {
            if self.path("share/over").exists() || Instant::now() > end {
                return false;
            }
            thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// Takes a folder out of the share while the client has fids that lead to and through it.
    fn move_leaves(&self) {
        if self.wait_for("share/move") {
            fs::rename(self.path("share/leaves"), self.path("outside/taken")).unwrap();
            File::create(self.path("share/has-moved")).unwrap();
        }
    }

    /// `door` is by turns a folder with a harmless `canary`, and a link to the folder of the real one.
    fn swap_door(&self) {
        if !self.wait_for("share/race") {
            return;
        }
        let door = self.path("share/door");
        while !self.path("share/race-over").exists() && !self.path("share/over").exists() {
            for target in ["share/inside", "share/out"] {
                for _ in 0..50 {
                    let _ = fs::rename(self.path(target), &door);
                    thread::yield_now();
                    let _ = fs::rename(&door, self.path(target));
                }
            }
        }
    }
}

/// Who opens, reads, lists or changes a folder or an entry of it is noticed.
struct Watch(OwnedFd);

impl Watch {
    fn of(folder: &Path) -> Self {
        use inotify::{CreateFlags, WatchFlags as W, add_watch, init};
        let notify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        let what = W::ACCESS | W::OPEN | W::MODIFY | W::ATTRIB | W::CREATE | W::DELETE | W::MOVED_FROM;
        add_watch(&notify, folder, what).unwrap();
        Self(notify)
    }

    /// What was noticed, but for the folder that was moved there, to which the client has fids.
    fn noticed(&self) -> Vec<String> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        let mut noticed = Vec::new();
        loop {
            match events.next() {
                Ok(event) if event.file_name().is_some_and(|name| name == c"taken") => {}
                Ok(event) => noticed.push(format!("{:?} of {:?}", event.events(), event.file_name())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return noticed,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// The most that the process of a VM, or one that serves its files, had as long as they were looked at.
#[derive(Debug, Default)]
struct Peak {
    memory: u64,
    descriptors: usize,
}

impl Peak {
    fn look(&mut self, child: &Child) {
        let vm = child.id();
        let servers = fs::read_to_string(format!("/proc/{vm}/task/{vm}/children")).unwrap_or_default();
        for process in servers.split_whitespace().chain([&*vm.to_string()]) {
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            let line = status.lines().find(|line| line.starts_with("VmHWM:"));
            let kilobytes =
                line.and_then(|line| line.split_whitespace().nth(1)).map(|number| number.parse::<u64>());
            self.memory = self.memory.max(kilobytes.map_or(0, |number| number.unwrap() << 10));
            let descriptors = fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count);
            self.descriptors = self.descriptors.max(descriptors);
        }
    }
}

/// Waits for a VM's end, and ends it when that does not come.
fn wait(child: &mut Child, peak: &mut Peak) -> Option<i32> {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > end {
            kill_process(Pid::from_child(child), Signal::KILL).unwrap();
        }
        peak.look(child);
        thread::sleep(Duration::from_millis(100));
    }
}

/// Regular files with set-uid or set-gid, wherever they are below a folder.
fn set_id_files(folder: &Path) -> Vec<PathBuf> {
    // What the client has closed to its owner has nothing in it that anybody could run.
    let entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    let mut found = Vec::new();
    for entry in entries {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            found.extend(set_id_files(&entry.path()));
        } else if metadata.is_file() && metadata.mode() & 0o6000 != 0 {
            found.push(entry.path());
        }
    }
    found
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_guest_that_drives_the_devices_itself_reads_and_changes_nothing_outside_and_stops_nobody() {
    let world = World::new();
    world.compile();
    let watch = Watch::of(&world.path("outside"));
    let Some(mut polite) = world.start("polite", "hostile=no") else { return };
    let mut hostile = world.start("hostile", "hostile=yes").unwrap();
    let mut peak = Peak::default();
    let (ended, polite_ended) = thread::scope(|scope| {
        scope.spawn(|| world.move_leaves());
        scope.spawn(|| world.swap_door());
        let ended = wait(&mut hostile, &mut peak);
        File::create(world.path("share/over")).unwrap();
        (ended, wait(&mut polite, &mut Peak::default()))
    });
    let noticed = watch.noticed();
    let (said, polite_said) = (world.said("hostile"), world.said("polite"));
    println!("{said}\n{polite_said}\n{peak:?}");
    // It powers off before the command has run.
    assert_eq!((ended, polite_ended), (Some(125), Some(125)), "{said}\n{polite_said}");
    for said in [&said, &polite_said] {
        assert!(said.contains("checks, 0 wrong") && !said.contains("WRONG"), "{said}");
        assert!(said.contains("the VM ended before the command did: power off"), "{said}");
    }
    let served = polite_said.split_once("hostile: served ").unwrap().1;
    assert!(served.split(' ').next().unwrap().parse::<u32>().unwrap() > 3, "{polite_said}");

    assert!(noticed.is_empty(), "{noticed:?}");
    assert_eq!(names(&world.path("outside")), ["canary", "taken"]);
    assert_eq!(fs::read_to_string(world.path("outside/canary")).unwrap(), CANARY);
    assert_eq!(names(&world.path("outside/taken/below")), ["leaf"]);
    assert_eq!(fs::read_to_string(world.path("outside/taken/below/leaf")).unwrap(), "leaf");
    assert_eq!(set_id_files(&world.path("share")), Vec::<PathBuf>::new());
    assert_eq!(names(&world.path("other")), ["file"]);
    assert_eq!(fs::read_to_string(world.path("other/file")).unwrap(), "read-only");
    assert!(peak.memory < MOST_MEMORY, "{peak:?}");
    assert!(peak.descriptors < MOST_DESCRIPTORS, "{peak:?}");
}

#[test]
fn a_guest_that_attacks_the_machine_stops_nobody_and_is_stopped() {
    let world = World::new();
    world.compile();
    let Some(mut polite) = world.start("polite", "hostile=no") else { return };
    let mut machine = world.start("machine", "hostile=machine").unwrap();
    let mut peak = Peak::default();
    let ended = wait(&mut machine, &mut peak);
    let said = world.said("machine");
    println!("{said}\n{peak:?}");
    assert_eq!(ended, Some(125), "{said}");
    assert!(said.contains("checks, 0 wrong") && !said.contains("WRONG"), "{said}");
    assert!(said.contains("the VM ended before the command did: power off"), "{said}");
    assert!(peak.memory < MOST_MEMORY_OF_A_MACHINE && peak.descriptors < MOST_DESCRIPTORS, "{peak:?}");

    // What never ends is seen, looked into and ended by others.
    for how in ["spins", "exits", "interrupts", "kicks"] {
        let mut endless = world.start(how, &format!("hostile={how}")).unwrap();
        let said = || world.said(how);
        let begun = Instant::now();
        while !said().contains("hostile: for ever") {
            assert!(begun.elapsed() < LIMIT, "{how}: {}", said());
            thread::sleep(Duration::from_millis(50));
        }
        thread::sleep(Duration::from_secs(1));
        let mut peak = Peak::default();
        peak.look(&endless);
        assert!(peak.memory < MOST_MEMORY_OF_A_MACHINE, "{how}: {peak:?}");
        assert!(world.nofear(&["ps"]).ok().text().contains(&format!("{how} ")), "{how}");
        let text = world.nofear(&["debug", how]).ok().text();
        assert!(text.contains("rip 0x"), "{how}: {text}");
        world.nofear(&["stat", how]).ok();
        world.nofear(&["pause", how]).ok();
        world.nofear(&["resume", how]).ok();
        world.nofear(&["stop", how]).ok();
        assert_eq!(endless.wait().unwrap().code(), Some(143), "{how}: {}", said());
    }

    // The other one was served all the while.
    File::create(world.path("share/over")).unwrap();
    let ended = wait(&mut polite, &mut Peak::default());
    let polite_said = world.said("polite");
    assert_eq!(ended, Some(125), "{polite_said}");
    assert!(polite_said.contains("checks, 0 wrong") && !polite_said.contains("WRONG"), "{polite_said}");
    let served = polite_said.split_once("hostile: served ").unwrap().1;
    assert!(served.split(' ').next().unwrap().parse::<u32>().unwrap() > 3, "{polite_said}");
}
