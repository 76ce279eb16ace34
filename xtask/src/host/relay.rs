//! The other end, in the emulated host: PID 1 runs one command for us, and passes its bytes on.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{WaitOptions, wait};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::frames::{self, Start, Window, from_relay, to_relay};

/// The hidden verb's name; `kernel/host/init.sh` uses it.
pub const VERB: &str = "host-relay";

/// What runs as the emulated host's first process.
#[derive(clap::Args)]
pub struct Arguments {}

/// Runs the verb. Its errors go to the machine's console, which the other side shows.
pub fn main(_: &Arguments) -> Result<ExitCode> {
    if rustix::process::getpid() != rustix::process::Pid::INIT {
        bail!("this verb is for the emulated host's own use");
    }
    let outcome = serve();
    if let Err(error) = &outcome {
        eprintln!("xtask host-relay: {error:#}");
    }
    // The other side ends the machine. If nobody is there: power off.
    thread::sleep(Duration::from_secs(1));
    let _ = fs::write("/proc/sysrq-trigger", "o");
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

fn serve() -> Result<()> {
    let mut port = Port::open()?;
    let mut payload = Vec::new();
    let start = match frames::read(&mut port, &mut payload)? {
        Some(to_relay::START) => serde_json::from_slice::<Start>(&payload).context("decode the command")?,
        other => bail!("{other:?} is no start of a command"),
    };
    let out = Out(Arc::new(Mutex::new(port.file.try_clone().context("copy the port")?)));
    let code = match Running::start(&start) {
        Ok(running) => running.serve(port, &out)?,
        Err(error) => {
            let missing = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            out.send(from_relay::STDERR, format!("xtask host: {error:#}\n").as_bytes())?;
            if missing == Some(ErrorKind::NotFound) { 127 } else { 126 }
        }
    };
    rustix::fs::sync();
    out.send(from_relay::EXIT, &[code])
}

/// The virtio console port named `nofear`.
struct Port {
    file: File,
    /// Until the first byte, no byte may mean that the other side is not seen yet.
    heard: bool,
}

impl Port {
    fn open() -> Result<Self> {
        let folder = "/sys/class/virtio-ports";
        for entry in fs::read_dir(folder).with_context(|| format!("read {folder}"))? {
            let entry = entry?;
            if fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == "nofear") {
                let path = std::path::Path::new("/dev").join(entry.file_name());
                let file = File::options().read(true).write(true).open(&path);
                return Ok(Self {
                    file: file.with_context(|| format!("open {}", path.display()))?,
                    heard: false,
                });
            }
        }
        bail!("no port in {folder} is named nofear");
    }
}

impl Read for Port {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let read = self.file.read(buffer)?;
            if read > 0 || self.heard {
                self.heard = true;
                return Ok(read);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[derive(Clone)]
struct Out(Arc<Mutex<File>>);

impl Out {
    fn send(&self, kind: u8, payload: &[u8]) -> Result<()> {
        let frame = frames::frame(kind, payload)?;
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&frame).context("write to the port")
    }
}

struct Running {
    child: Child,
    stdin: Option<File>,
    outputs: Vec<(u8, File)>,
}

impl Running {
    fn start(start: &Start) -> Result<Self> {
        let text = |bytes: &Vec<u8>| OsString::from_vec(bytes.clone());
        let (program, arguments) = start.command.split_first().context("no command")?;
        let mut command = Command::new(text(program));
        command
            .args(arguments.iter().map(text))
            .env_clear()
            .envs(start.environment.iter().map(|(name, value)| (text(name), text(value))))
            .current_dir(text(&start.cwd));
        let Some(window) = start.window else {
            return Self::with_pipes(&mut command, &text(program));
        };
        Self::in_terminal(window, &start.environment, command)
    }

    fn with_pipes(command: &mut Command, program: &OsString) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let owned = |end: Option<OwnedFd>| end.map(File::from).context("a pipe to the command");
        let stdin = owned(child.stdin.take().map(OwnedFd::from))?;
        let stdout = owned(child.stdout.take().map(OwnedFd::from))?;
        let stderr = owned(child.stderr.take().map(OwnedFd::from))?;
        let outputs = vec![(from_relay::STDOUT, stdout), (from_relay::STDERR, stderr)];
        Ok(Self { child, stdin: Some(stdin), outputs })
    }

    /// `setsid --ctty` makes the terminal the command's own, without unsafe code between fork and exec.
    fn in_terminal(window: Window, environment: &[(Vec<u8>, Vec<u8>)], inner: Command) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .context("open a terminal")?;
        grantpt(&master).context("grant the terminal")?;
        unlockpt(&master).context("unlock the terminal")?;
        let size = Winsize { ws_row: window.rows, ws_col: window.columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).context("set the terminal's size")?;
        let name =
            OsString::from_vec(ptsname(&master, Vec::new()).context("name the terminal")?.into_bytes());
        let end =
            File::options().read(true).write(true).open(&name).context("open the terminal's other end")?;
        let copy = || end.try_clone().context("copy the terminal");
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(inner.get_program()).args(inner.get_args());
        command.env_clear();
        for (name, value) in environment {
            command.env(OsString::from_vec(name.clone()), OsString::from_vec(value.clone()));
        }
        if let Some(cwd) = inner.get_current_dir() {
            command.current_dir(cwd);
        }
        let child = command.stdin(copy()?).stdout(copy()?).stderr(copy()?).spawn().context("start setsid")?;
        let master = File::from(master);
        let stdin = master.try_clone().context("copy the terminal")?;
        Ok(Self { child, stdin: Some(stdin), outputs: vec![(from_relay::STDOUT, master)] })
    }

    fn serve(mut self, mut port: Port, out: &Out) -> Result<u8> {
        let (done, ended) = mpsc::channel::<()>();
        for (kind, mut from) in self.outputs.drain(..) {
            let (out, done) = (out.clone(), done.clone());
            thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                // A terminal whose last user is gone says EIO where a pipe says end.
                while let Ok(read @ 1..) = from.read(&mut buffer) {
                    if out.send(kind, &buffer[..read]).is_err() {
                        break;
                    }
                }
                drop(done);
            });
        }
        drop(done);
        let mut stdin = self.stdin.take();
        thread::spawn(move || {
            let mut payload = Vec::new();
            while let Ok(Some(kind)) = frames::read(&mut port, &mut payload) {
                if kind != to_relay::STDIN {
                    continue;
                }
                // A command that closed its input is its own affair; what comes for it is dropped.
                if payload.is_empty() || stdin.as_mut().is_some_and(|to| to.write_all(&payload).is_err()) {
                    stdin = None;
                }
            }
        });
        let code = self.wait()?;
        // A process in the background may hold the output open; the machine's end is its end.
        while !matches!(
            ended.recv_timeout(Duration::from_secs(2)),
            Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout)
        ) {}
        Ok(code)
    }

    /// Waits for the command, and as PID 1 for every orphan too.
    fn wait(&self) -> Result<u8> {
        loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) if pid.as_raw_nonzero().get().cast_unsigned() == self.child.id() => {
                    let code = match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => code,
                        (None, Some(signal)) => 128 + signal,
                        (None, None) => 125,
                    };
                    return Ok(u8::try_from(code).unwrap_or(125));
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("wait for the command"),
            }
        }
    }
}
