//! A VM's processes: who holds what, and what becomes of the others when one ends.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nofear_tests::{nofear, output, run, script, start};
use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(120);

/// What each namespace of a process is.
const NAMESPACES: [&str; 6] = ["user", "mnt", "net", "ipc", "uts", "cgroup"];

/// A process by its number.
#[derive(Clone, Copy, Debug)]
struct Process(u32);

impl Process {
    fn file(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0))
    }

    fn name(self) -> String {
        fs::read_to_string(self.file("comm")).unwrap_or_default().trim().into()
    }

    /// Its children, by their names.
    fn children(self) -> BTreeMap<String, Self> {
        let file = format!("task/{}/children", self.0);
        let numbers = fs::read_to_string(self.file(&file)).unwrap_or_default();
        let children = numbers.split_whitespace().map(|number| Self(number.parse().unwrap()));
        children.map(|child| (child.name(), child)).collect()
    }

    fn namespaces(self) -> Vec<PathBuf> {
        NAMESPACES.map(|name| fs::read_link(self.file(&format!("ns/{name}"))).unwrap()).into()
    }

    /// What its descriptors are.
    fn holds(self) -> Vec<String> {
        let all = fs::read_dir(self.file("fd")).unwrap().flatten();
        all.filter_map(|entry| fs::read_link(entry.path()).ok()).map(|to| to.display().to_string()).collect()
    }

    /// The memory that it shares with others.
    fn shares(self) -> Vec<String> {
        let maps = fs::read_to_string(self.file("maps")).unwrap();
        let is_shared = |line: &&str| line.split(' ').nth(1).is_some_and(|mode| mode.ends_with('s'));
        maps.lines().filter(is_shared).map(str::to_owned).collect()
    }

    fn send(self, signal: Signal) {
        kill_process(Pid::from_raw(self.0.cast_signed()).unwrap(), signal).unwrap();
    }

    /// Whether it is gone, or nothing but waited for.
    fn is_gone(self) -> bool {
        let state = fs::read_to_string(self.file("stat")).unwrap_or_default();
        state.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    }
}

/// A VM with a share and a profile's disk, and with a network where there is one, whose command runs.
fn vm(folder: &Path) -> Option<Child> {
    let mut command = nofear()?;
    command.args(["run", "--cpus", "1", "--profile", "apart", "--disk-size", "64M", "--share"]);
    command.arg(format!("{}:/data:rw", folder.join("share").display())).args([
        "--",
        "sh",
        "-c",
        "echo up; exec sleep 1000",
    ]);
    command.env("XDG_DATA_HOME", folder.join("profiles")).stdin(Stdio::null());
    let mut child = start(command);
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    if line != "up\n" {
        let ran: nofear_tests::Ran = child.wait_with_output().unwrap().into();
        panic!("{line:?}, {ran:?}");
    }
    Some(child)
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn each_process_holds_what_it_needs_and_the_others_end_with_one() {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    fs::create_dir(folder.path().join("share")).unwrap();
    let Some(mut child) = vm(folder.path()) else { return };
    let vm_process = Process(child.id());
    let (this, servers) = (Process(std::process::id()), vm_process.children());
    let (root, shares) = (servers["9p-nofear-root"], servers["9p-nofear-share"]);

    // The one that has the guest has nothing of the host but its own folder, with the lock on it.
    for (own, hosts) in vm_process.namespaces().into_iter().zip(this.namespaces()) {
        assert_ne!(own, hosts);
    }
    let root_folder = fs::read_dir(vm_process.file("root")).unwrap();
    assert_eq!(root_folder.count(), 0, "it finds nothing by a path");
    let paths: Vec<_> = vm_process.holds().into_iter().filter(|to| to.starts_with('/')).collect();
    // The profile's disk and lock, too.
    let is_its_own = |path: &String| path == "/dev/null" || path.contains("/nofear");
    assert!(paths.iter().all(is_its_own), "{paths:?}");
    for process in [vm_process, root, shares] {
        let status = fs::read_to_string(process.file("status")).unwrap();
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(status.contains(line), "{line}: {status}");
        }
    }
    // Those that have files have nothing of the guest, of KVM or of each other.
    let (of_root, of_shares) = (root.holds(), shares.holds());
    for held in [&of_root, &of_shares] {
        let sockets = held.iter().filter(|to| to.starts_with("socket:")).count();
        assert_eq!(sockets, 1, "{held:?}");
        assert!(!held.iter().any(|to| to.contains("kvm") || to.contains("eventfd")), "{held:?}");
    }
    // Nor a way to its memory, or to each other's, but for the requests in hand.
    for process in [root, shares] {
        assert_eq!(process.shares().len(), 1, "{:?}", process.shares());
    }
    if let Some(names) = servers.get("names") {
        assert_eq!(names.shares(), Vec::<String>::new());
    }
    let share = folder.path().join("share").display().to_string();
    assert!(of_root.contains(&"/usr".into()) && !of_root.iter().any(|to| to.starts_with(&share)));
    assert!(of_shares.contains(&share) && !of_shares.iter().any(|to| to.starts_with("/usr")));

    // A server that is killed: its VM can't go on, and says so, also when it wants nothing of it.
    thread::sleep(Duration::from_secs(2));
    root.send(Signal::KILL);
    let ran: nofear_tests::Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.status, Some(125), "{ran:?}");
    assert!(ran.stderr.contains("the server of the share 9p-nofear-root has ended"), "{ran:?}");
    wait_until("the other server ends", || shares.is_gone());

    // Servers that do nothing, as on a file system that hangs: the VM can be ended.
    child = vm(folder.path()).unwrap();
    let servers = Process(child.id()).children();
    servers.values().for_each(|server| server.send(Signal::STOP));
    let begun = Instant::now();
    for _ in 0..3 {
        Process(child.id()).send(Signal::TERM);
        thread::sleep(Duration::from_millis(200));
    }
    let ran: nofear_tests::Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.status, Some(143), "{ran:?}");
    assert!(begun.elapsed() < LIMIT);
    wait_until("they end", || servers.values().all(|server| server.is_gone()));

    // A VM that is killed.
    child = vm(folder.path()).unwrap();
    let servers = Process(child.id()).children();
    assert!(servers.len() >= 2, "{servers:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("its servers end", || servers.values().all(|server| server.is_gone()));
}

#[test]
fn what_was_achieved_is_said_when_one_asks() {
    let Some(mut command) = run(["-v", "--net", "none", "--require-confinement", "--", "true"]) else {
        return;
    };
    command.stdin(Stdio::null());
    let ran = output(command).ok();
    let wanted = "files served by processes of their own, empty namespaces";
    assert!(ran.stderr.contains(wanted), "{}", ran.stderr);
    let ran = script(&["--net", "none"], "true").unwrap().ok();
    assert_eq!(ran.stderr, "");

    // Where the host lets nobody make them: here, a user namespace that may have none of a kind.
    for kind in ["user", "mnt", "net"] {
        let nofear = |options: &[&str]| {
            let limit = format!("echo 0 > /proc/sys/user/max_{kind}_namespaces && exec \"$0\" \"$@\"");
            let inside = run(["-v", "--net", "none"].iter().chain(options).chain(&["--", "true"])).unwrap();
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "sh", "-c", &limit]).arg(inside.get_program());
            output({
                command.args(inside.get_args()).stdin(Stdio::null());
                command
            })
        };
        let ran = nofear(&[]).ok();
        assert!(ran.stderr.contains("no namespaces (No space left on device"), "{kind}: {}", ran.stderr);
        let ran = nofear(&["--require-confinement"]);
        assert_eq!(ran.status, Some(125), "{kind}: {ran:?}");
        assert!(ran.stderr.contains("it can't leave this host's namespaces"), "{kind}: {ran:?}");
    }
}
