//! Windows of a VM's programs on a desktop.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs,
    io::Read,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nofear_tests::{
    Home, Ran,
    desktop::{Desktop, Picture, until},
    output, start,
};

/// What nofear draws inside a window's edges, in pixels.
const BORDER: usize = 4;

/// The border of the profile `windows`, which must not change from one version to the next: Xpra draws its colour,
/// #f58231, with six tenths of its brightness.
const COLOUR: u32 = 0x93_4e1d;

/// A desktop, and a home with a folder for running VMs.
struct World {
    home: Home,
    desktop: Desktop,
}

impl World {
    fn new() -> Self {
        let world = Self { home: Home::new(), desktop: Desktop::new() };
        fs::create_dir(world.runtime()).unwrap();
        fs::set_permissions(world.runtime(), fs::Permissions::from_mode(0o700)).unwrap();
        world
    }

    fn runtime(&self) -> PathBuf {
        self.home.path().join("run")
    }

    fn nofear(&self, arguments: &[&str]) -> Option<Command> {
        let mut command = self.home.nofear(arguments)?;
        command.env("XDG_RUNTIME_DIR", self.runtime()).env("XDG_CACHE_HOME", self.home.path());
        self.desktop.show(&mut command);
        Some(command)
    }

    /// The folder of the only VM.
    fn folder(&self) -> PathBuf {
        let mut folders = fs::read_dir(self.runtime().join("nofear")).unwrap();
        folders.next().unwrap().unwrap().path()
    }
}

/// Every socket that listens at an address of this machine, whoever has it.
fn tcp_listeners() -> Vec<String> {
    let lines = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let lines = lines.iter().flat_map(|text| text.lines().skip(1));
    lines.filter(|line| line.split_whitespace().nth(3) == Some("0A")).map(Into::into).collect()
}

/// Whether somebody else gets to the socket.
fn others_get_to(socket: &Path) -> bool {
    let script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
    let mut other = Command::new("python3");
    other.args(["-c", script]).arg(socket).uid(65534).gid(65534).stderr(Stdio::piped());
    let ran: Ran = output(other);
    assert!(ran.status == Some(0) || ran.stderr.contains("Permission"), "{ran:?}");
    ran.status == Some(0)
}

/// What `terminal` is made to show and read.
const IN_TERMINAL: &str = "printf 'Hello from a window'; read line; printf '%s' \"$line\" >/tmp/typed";

fn terminal(title: &str) -> Vec<String> {
    let options = ["xterm", "-geometry", "50x10", "-bc", "-T", title, "-e", "sh", "-c", IN_TERMINAL];
    options.map(Into::into).into()
}

#[test]
fn windows_of_a_vm_are_on_the_desktop_and_nothing_else_is_opened() {
    let world = World::new();
    let desktop = &world.desktop;
    // The same program without a VM, to compare.
    let title = "[windows] hello";
    let mut plain = desktop.command("xterm");
    plain.args(&terminal(title)[1..]);
    let mut plain = start(plain);
    let window = desktop.window(title);
    desktop.park_pointer();
    let place = desktop.settled(window);
    let blank = Picture::blank(place.width, place.height, 0xff_ffff);
    let expected = desktop.picture(place, "the program's own look", |picture| {
        (100..5000).contains(&picture.differences(&blank, BORDER))
    });
    let expected_title = desktop.picture(place.title(), "a title", |_| true);
    expected.keep("xterm-without-vm");
    desktop.screenshot().keep("desktop-without-vm");
    plain.kill().unwrap();
    plain.wait().unwrap();
    until("the end of the first window", || desktop.find(title).is_none());

    let before = tcp_listeners();
    let script = format!(
        "xterm -geometry 50x10 -bc -T hello -e sh -c '{}'; cat /tmp/typed; exit 7",
        IN_TERMINAL.replace('\'', "'\\''")
    );
    let arguments = [
        "run",
        "-p",
        "windows",
        "--disk-size",
        "64M",
        "--net",
        "none",
        "-vv",
        "-g",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let Some(command) = world.nofear(&arguments) else { return };
    let vm = Vm::start(command);
    let window = desktop.window(title);
    desktop.park_pointer();

    // It looks as it does without a VM, but for the border.
    let place = desktop.settled(window);
    let shown = desktop.picture(place, "a window with a border and text", |picture| {
        picture.has_border(BORDER, COLOUR) && picture.differences(&expected, BORDER) == 0
    });
    shown.keep("xterm-in-vm");
    desktop.picture(place.title(), "the same title", |picture| picture.differences(&expected_title, 0) == 0);
    desktop.screenshot().keep("desktop");

    // Nobody else gets there, and nothing listens to the world.
    let folder = world.folder();
    let socket = folder.join("xpra.sock");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&socket)), (0o700, 0o600));
    assert!(!others_get_to(&socket));
    assert_eq!(tcp_listeners(), before);

    // Keys arrive, and the program's end is that of all.
    desktop.type_into(window, "typed here");
    let ran = vm.end();
    assert_eq!((ran.status, ran.text().as_str()), (Some(7), "typed here"), "{}", ran.stderr);
    assert!(desktop.find(title).is_none());
    assert_eq!(fs::read_dir(world.runtime().join("nofear")).unwrap().count(), 0);
}

/// A VM whose output is read while it runs.
struct Vm {
    child: Option<Child>,
    stdout: Reader,
    stderr: Reader,
}

type Reader = Option<std::thread::JoinHandle<Vec<u8>>>;

impl Vm {
    fn start(command: Command) -> Self {
        let mut child = start(command);
        fn reader(mut from: impl Read + Send + 'static) -> Reader {
            Some(std::thread::spawn(move || {
                let mut bytes = Vec::new();
                from.read_to_end(&mut bytes).unwrap();
                bytes
            }))
        }
        let (stdout, stderr) = (reader(child.stdout.take().unwrap()), reader(child.stderr.take().unwrap()));
        Self { child: Some(child), stdout, stderr }
    }

    fn end(mut self) -> Ran {
        let status = self.child.take().unwrap().wait().unwrap().code();
        self.ran(status)
    }

    fn ran(&mut self, status: Option<i32>) -> Ran {
        let read = |reader: &mut Reader| reader.take().unwrap().join().unwrap();
        let stderr = String::from_utf8_lossy(&read(&mut self.stderr)).into_owned();
        Ran { status, stdout: read(&mut self.stdout), stderr }
    }
}

impl Drop for Vm {
    /// After a failure: says what the VM has said.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let status = child.wait().unwrap().code();
            eprintln!("{}", self.ran(status).stderr);
        }
    }
}
