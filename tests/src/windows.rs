//! What tests of windows share: a desktop, a home, and VMs whose output is read while they run.

use std::{
    fs,
    io::Read,
    os::fd::OwnedFd,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Home, Ran,
    desktop::{Desktop, until},
    output, start,
};

/// A desktop, and a home with a folder for running VMs.
pub struct World {
    home: Home,
    desktop: Desktop,
}

impl Default for World {
    fn default() -> Self {
        let world = Self { home: Home::new(), desktop: Desktop::new() };
        fs::create_dir(world.runtime()).unwrap();
        fs::set_permissions(world.runtime(), fs::Permissions::from_mode(0o700)).unwrap();
        world
    }
}

impl World {
    /// A new one, in which nothing runs.
    pub fn new() -> Self {
        Self::default()
    }

    /// The desktop.
    pub fn desktop(&self) -> &Desktop {
        &self.desktop
    }

    /// The home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The folder of the folders of VMs' folders.
    pub fn runtime(&self) -> PathBuf {
        self.home.path().join("run")
    }

    /// `nofear` with these arguments.
    pub fn nofear(&self, arguments: &[&str]) -> Option<Command> {
        let mut command = self.home.nofear(arguments)?;
        command.env("XDG_RUNTIME_DIR", self.runtime()).env("XDG_CACHE_HOME", self.home.path());
        self.desktop.show(&mut command);
        Some(command)
    }

    /// What puts a server that turns on its client in Xpra's place in a VM: for `--share`. It asks for everything, and
    /// then sends what is no packet; or, if it `waits`, it abuses what is allowed, when a file says that it is time.
    pub fn hostile(&self, waits: bool) -> String {
        let path = self.home.path().join("hostile");
        let script = include_str!("../gui/hostile.py");
        let script =
            if waits { script.replace("\nWAITS = False\n", "\nWAITS = True\n") } else { script.into() };
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        format!("{}:/usr/bin/xpra", path.display())
    }

    /// The folder of the only VM.
    pub fn folder(&self) -> PathBuf {
        let mut folders = fs::read_dir(self.runtime().join("nofear")).unwrap();
        folders.next().unwrap().unwrap().path()
    }
}

/// Every socket that listens at an address of this machine, whoever has it.
pub fn tcp_listeners() -> Vec<String> {
    let lines = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let lines = lines.iter().flat_map(|text| text.lines().skip(1));
    lines.filter(|line| line.split_whitespace().nth(3) == Some("0A")).map(Into::into).collect()
}

/// Whether somebody else gets to the socket.
pub fn others_get_to(socket: &Path) -> bool {
    let script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
    let mut other = Command::new("python3");
    other.args(["-c", script]).arg(socket).uid(65534).gid(65534).stderr(Stdio::piped());
    let ran: Ran = output(other);
    assert!(ran.status == Some(0) || ran.stderr.contains("Permission"), "{ran:?}");
    ran.status == Some(0)
}

/// The process of a client whose channel is below `path`.
pub fn client_of(path: &Path) -> Option<u32> {
    let wanted = format!("socket://{}", path.display());
    fs::read_dir("/proc").unwrap().find_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let is_python = words.first()?.contains("python");
        (is_python && words.iter().any(|word| word.starts_with(&wanted))).then_some(pid)
    })
}

/// Starts a command that nobody hears.
pub fn start_quietly(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Sends a signal to a child.
pub fn kill(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// A VM whose output is read while it runs.
pub struct Vm {
    child: Option<Child>,
    stdout: Reader,
    stderr: Reader,
}

type Reader = Option<std::thread::JoinHandle<Vec<u8>>>;

impl Vm {
    /// Starts it.
    pub fn start(command: Command) -> Self {
        Self::of(start(command))
    }

    /// Starts it on a terminal; what it prints there is not read.
    pub fn on_terminal(mut command: Command, terminal: OwnedFd) -> Self {
        command.stdin(terminal.try_clone().unwrap()).stdout(terminal).stderr(Stdio::piped());
        Self::of(command.spawn().unwrap())
    }

    fn of(mut child: Child) -> Self {
        fn reader(mut from: impl Read + Send + 'static) -> Reader {
            Some(std::thread::spawn(move || {
                let mut bytes = Vec::new();
                from.read_to_end(&mut bytes).unwrap();
                bytes
            }))
        }
        let stdout = child.stdout.take().and_then(reader);
        let stderr = child.stderr.take().and_then(reader);
        Self { child: Some(child), stdout, stderr }
    }

    /// The process.
    pub fn child(&self) -> &Child {
        self.child.as_ref().unwrap()
    }

    /// Waits for a window of this very title, which a VM that has ended does not show.
    pub fn window(&mut self, desktop: &Desktop, title: &str) -> u64 {
        let mut found = None;
        until(title, || {
            found = desktop.find(title);
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the VM has ended, and {title} was not shown");
            found.is_some()
        });
        found.unwrap()
    }

    /// Whether it has not ended.
    pub fn lives(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ran {
        let mut status = None;
        until("the end of the VM", || {
            status = self.child.as_mut().unwrap().try_wait().unwrap();
            status.is_some()
        });
        self.child = None;
        self.ran(status.unwrap().code())
    }

    fn ran(&mut self, status: Option<i32>) -> Ran {
        let read =
            |reader: &mut Reader| reader.take().map(|reader| reader.join().unwrap()).unwrap_or_default();
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
