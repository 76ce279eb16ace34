//! An ordinary user in the group of `/dev/kvm` has all of the archive that `cargo xtask dist` makes, unpacked under a
//! prefix: nothing needs root.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use nofear_tests::{
    desktop::{Desktop, until},
    may_mount, ours, output, start,
    windows::{Vm, client_of, others_get_to, tcp_listeners},
};

const USER: u32 = 12_345;
const GROUP_OF_KVM: u32 = 54_321;

/// The archive under a prefix that everybody may read, a home, and a `/dev/kvm` that belongs to a group.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Option<Self> {
        let archive = ours("NOFEAR_ARCHIVE")?;
        if !may_mount() {
            return None;
        }
        let world = Self(tempfile::tempdir_in("/tmp").unwrap());
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(world.0.path(), 0o755);
        fs::create_dir(world.path("prefix")).unwrap();
        mode(&world.path("prefix"), 0o755);
        let mut tar = Command::new("tar");
        tar.arg("--extract").arg("--file").arg(archive).arg("--directory").arg(world.path("prefix"));
        tar.args(["--strip-components=1", "--no-same-owner"]);
        output(tar).ok();
        for folder in ["home", "run", "own"] {
            fs::create_dir(world.path(folder)).unwrap();
            chown(world.path(folder), Some(USER), Some(USER)).unwrap();
            mode(&world.path(folder), 0o700);
        }
        let mut node = Command::new("mknod");
        node.arg(world.path("kvm")).args(["c", "10", "232"]);
        output(node).ok();
        chown(world.path("kvm"), Some(0), Some(GROUP_OF_KVM)).unwrap();
        mode(&world.path("kvm"), 0o660);
        Some(world)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `nofear` as that user, in these groups beside their own.
    fn nofear(&self, groups: &str, arguments: &[&str]) -> Command {
        let script = "mount --bind \"$0/kvm\" /dev/kvm && cd \"$0/home\" && \
                      HOME=$0/home XDG_RUNTIME_DIR=$0/run PATH=$0/prefix/bin:$PATH \
                      exec setpriv --reuid=$1 --regid=$1 --groups=\"$2\" -- nofear \"${@:3}\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "bash", "-c", script]).arg(self.0.path()).arg(USER.to_string()).arg(groups);
        command.args(arguments);
        let others = ["XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"];
        // Its kernel and its guest are found beside it.
        for variable in others.into_iter().chain(["NOFEAR_KERNEL", "NOFEAR_INITRAMFS"]) {
            command.env_remove(variable);
        }
        command
    }
}

#[test]
fn an_ordinary_user_has_all_of_it() {
    let Some(world) = World::new() else { return };
    let groups = format!("{USER},{GROUP_OF_KVM}");
    let as_user = |arguments: &[&str]| output(world.nofear(&groups, arguments));
    let small = ["run", "--cpus", "1", "--mem", "256M", "--net", "none", "--require-confinement"];
    let run = |arguments: &[&str]| as_user(&[&small[..], arguments].concat());

    // Not in the group: what to do.
    let ran = output(world.nofear(&USER.to_string(), &["run", "--net", "none", "-t", "true"]));
    assert!(ran.status == Some(125) && ran.stderr.contains("usermod -aG kvm"), "{ran:?}");

    // A profile, as itself and as the guest's root, which is nobody here.
    let ran = run(&["-p", "a", "--disk-size", "64M", "--", "sh", "-c", "id -u; echo kept > ~/x"]).ok();
    assert_eq!(ran.text(), format!("{USER}\n"));
    let ran = run(&[
        "-p",
        "a",
        "--root",
        "--",
        "sh",
        "-c",
        "id -u; cat $(getent passwd | grep -o '/home/[^:]*')/x",
    ]);
    assert_eq!(ran.ok().text(), "0\nkept\n");

    // A share of its own files, and not of what it may not read.
    fs::write(world.path("secret"), "root's").unwrap();
    fs::set_permissions(world.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let share = format!("{}:/data:rw", world.path("own").display());
    let ran = run(&[
        "-t",
        "--root",
        "--share",
        &share,
        "--",
        "sh",
        "-c",
        "echo new > /data/new; stat -c %u /data/new",
    ]);
    assert_eq!(ran.ok().text(), format!("{USER}\n"));
    let share = format!("{}:/data", world.0.path().display());
    let ran = run(&["-t", "--root", "--share", &share, "--", "sh", "-c", "cat /data/secret || echo refused"]);
    assert_eq!(ran.ok().text(), "refused\n");

    // Control.
    let options = [&small[..], &["-p", "a", "--", "sh", "-c", "echo ready; sleep 1000"]].concat();
    let mut vm = start(world.nofear(&groups, &options));
    let mut line = String::new();
    BufReader::new(vm.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    assert!(as_user(&["ps"]).ok().text().contains("sleep 1000"));
    assert_eq!(as_user(&["exec", "a", "--", "cat", "x"]).ok().text(), "kept\n");
    for verb in ["pause", "debug", "stat", "logs", "resume"] {
        as_user(&[verb, "a"]).ok();
    }
    as_user(&["stop", "a"]).ok();
    assert_eq!(vm.wait().unwrap().code(), Some(143));
    assert!(as_user(&["profile", "list"]).ok().text().contains("64.00 MiB"));

    // In the background.
    let options =
        [&small[..], &["-t", "--detach", "--name", "back", "--", "sh", "-c", "echo said; exit 4"]].concat();
    assert_eq!(as_user(&options).ok().text(), "back\n");
    assert_eq!(as_user(&["wait", "back"]).status, Some(4));
    assert_eq!(as_user(&["logs", "back"]).ok().text(), "said\n");
    assert!(as_user(&["ps", "--all"]).ok().text().contains("(ended: 4)"));

    // What else is in the archive.
    for file in [
        "share/man/man1/nofear-run.1",
        "share/bash-completion/completions/nofear",
        "share/doc/nofear/LICENSE-MIT",
    ] {
        assert!(world.path("prefix").join(file).is_file(), "{file}");
    }
    assert!(as_user(&["doctor"]).text().contains("good     KVM"));
}

#[test]
fn a_window_that_an_ordinary_user_closes_ends_its_program_and_all_else() {
    let Some(world) = World::new() else { return };
    let desktop = Desktop::new();
    let before = tcp_listeners();
    let run = ["run", "-t", "--net", "none", "--cpus", "1", "-v", "-g", "--"];
    let terminal = ["xterm", "-geometry", "20x4", "-T", "closed", "-e", "sleep", "10000"];
    let groups = format!("{USER},{GROUP_OF_KVM}");
    let mut command = world.nofear(&groups, &[&run[..], &terminal].concat());
    desktop.show(&mut command);
    let mut vm = Vm::start(command);
    let window = vm.window(&desktop, "[temporary] closed");

    let folder = world.path("run").join("nofear");
    let vms = || fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let socket = vms().map(|vm| vm.join("xpra.sock")).find(|path| path.exists()).expect("a socket");
    assert!(!others_get_to(&socket));
    assert_eq!(tcp_listeners(), before);
    let client = client_of(&socket).expect("a client");
    let status = fs::read_to_string(format!("/proc/{client}/status")).unwrap();
    assert!(status.contains(&format!("\nUid:\t{USER}\t{USER}\t{USER}\t{USER}\n")), "{status}");

    desktop.close(window);
    let ran = vm.end();
    // As without a VM: it hangs up on its program, and is done.
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    until("the end of the client", || client_of(&socket).is_none());
    assert_eq!(vms().count(), 0);
}
