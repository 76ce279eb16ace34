//! The QEMU process: its command line, its port, its death.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::{FdFlags, fcntl_setfd};
use tempfile::TempDir;

use super::frames::{self, Sender, Start, from_relay, to_relay};
use super::{Machine, START_LIMIT, image};
use crate::kernel::Kernel;
use crate::packages;

/// On a busy machine the emulated timer misses the ticks by which Linux tests the IO-APIC's wiring, and it
/// panics: `no_timer_check`, as every hypervisor that Linux knows gets it.
///
/// Its KVM takes the first calibration of the TSC for the guests' frequency. If the refined one comes out higher
/// by more than a tolerance (250 ppm by itself), it multiplies what guests read by 0, since the emulated SVM
/// can't scale, and every timer of a guest comes late by the host's uptime: `kvm.tsc_tolerance_ppm`.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=1 panic=-1 random.trust_cpu=on mitigations=off \
    no_timer_check kvm.tsc_tolerance_ppm=100000";

/// An emulated machine that starts or runs. Dropped, it is gone.
pub struct Running {
    qemu: Child,
    port: UnixStream,
    sender: Sender,
    beats: bool,
    files: TempDir,
    _lock: File,
    deadline: Option<Instant>,
}

/// Starts the machine.
pub fn boot(machine: &Machine, kernel: &Kernel) -> Result<Running> {
    remove_stale();
    let files = tempfile::Builder::new().prefix(FILES).tempdir().context("make a temporary folder")?;
    let lock = File::create(files.path().join(LOCK)).context("make a lock")?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).context("take a lock")?;
    let cwd = env::current_dir().context("find the current folder")?;
    image::write_initramfs(&files.path().join("initramfs"))?;
    image::write_control(&files.path().join("control"), &cwd, &machine.visible)?;

    let (port, theirs) = UnixStream::pair().context("make a socket pair")?;
    // QEMU inherits its end.
    fcntl_setfd(&theirs, FdFlags::empty()).context("pass a socket on")?;
    let mut command = qemu();
    command
        .args(accelerator(machine))
        .args(["-cpu", "EPYC,+svm", "-m", &machine.mem.to_string()])
        .args(["-display", "none", "-vga", "none", "-nic", "none", "-monitor", "none", "-no-reboot"])
        .args(["-nodefaults", "-no-user-config"])
        .arg("-serial")
        .arg(joined("file:", &files.path().join("console"), "")?)
        .args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port,name=nofear"])
        .args(["-chardev", &format!("socket,id=port,fd={}", theirs.as_raw_fd())]);
    let control = files.path().join("control");
    for (tag, path, mode) in
        [("low", Path::new("/"), ",readonly=on"), ("cwd", &cwd, ""), ("control", &control, ",readonly=on")]
    {
        let rest = format!(",mount_tag={tag},security_model=none,multidevs=remap{mode}");
        command.arg("-virtfs").arg(joined("local,path=", path, &rest)?);
    }
    command
        .arg("-kernel")
        .arg(kernel.bzimage())
        .arg("-initrd")
        .arg(files.path().join("initramfs"))
        .args(["-append", COMMAND_LINE])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut qemu = command.spawn().context("start qemu-system-x86_64")?;
    drop(theirs);
    if let Some(stderr) = qemu.stderr.take() {
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // A note for each CPU feature of EPYC that the emulation lacks.
                if !line.contains("TCG doesn't support") {
                    eprintln!("{line}");
                }
            }
        });
    }
    let deadline = machine.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let sender = Sender::new(port.try_clone().context("copy a socket")?);
    // The counting clock's timers are the CPU's own thread's affair.
    Ok(Running { qemu, port, sender, beats: !machine.icount, files, _lock: lock, deadline })
}

/// Sends the machine an interrupt now and then, until it is gone.
///
/// QEMU before 10.2 adds the pending virtual interrupt to a CPU's set of requests without a lock when a guest is
/// entered or left, and so loses the request that its timer's thread makes at that moment. The interrupt stays in
/// the local APIC, but no CPU looks: a machine that waits for its timer waits for ever, and a guest that spins is
/// not interrupted any more. Whatever interrupt comes next makes the request again.
fn keep_awake(sender: Sender) {
    thread::spawn(move || {
        while sender.frame(to_relay::BEAT, &[]).is_ok() {
            thread::sleep(BEAT);
        }
    });
}

/// How long an interrupt may be lost.
const BEAT: Duration = Duration::from_millis(500);

/// How the names of our temporary folders begin.
const FILES: &str = "nofear-host-";

/// The file in such a folder that is locked while its machine lives.
const LOCK: &str = "lock";

/// Removes the folders of machines whose xtask was killed. It is a courtesy: what fails, fails.
fn remove_stale() {
    for entry in fs::read_dir(env::temp_dir()).into_iter().flatten().flatten() {
        let is_old = || {
            let made = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            // A younger one may be about to take its lock.
            made.and_then(|made| made.elapsed().ok()).is_some_and(|age| age > Duration::from_secs(60))
        };
        if entry.file_name().as_encoded_bytes().starts_with(FILES.as_bytes())
            && is_old()
            && File::open(entry.path().join(LOCK))
                .is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// QEMU, so that it dies with us however we end.
fn qemu() -> Command {
    const QEMU: &str = "qemu-system-x86_64";
    if !packages::is_there("setpriv") {
        return Command::new(QEMU);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", QEMU]);
    command
}

fn accelerator(machine: &Machine) -> Vec<String> {
    let text = if machine.icount {
        // The clock starts at a fixed date too, or the kernel's start would differ with the day.
        "-accel tcg,thread=single -icount shift=0,sleep=off -seed 1 -rtc base=2026-01-01,clock=vm -smp 1"
            .into()
    } else {
        format!("-accel tcg,thread=multi -smp {}", machine.cpus)
    };
    text.split(' ').map(str::to_owned).collect()
}

/// An option with a path in it, where a comma is written twice.
fn joined(before: &str, path: &Path, after: &str) -> Result<String> {
    let path = path.to_str().with_context(|| format!("{}: QEMU takes UTF-8 names only", path.display()))?;
    Ok(format!("{before}{}{after}", path.replace(',', ",,")))
}

impl Running {
    /// Tells the relay what to run, before anything else is sent.
    pub fn start(&mut self, start: &Start) -> Result<()> {
        self.port.set_write_timeout(Some(START_LIMIT)).context("set a time limit")?;
        if let Err(error) = self.sender.frame(to_relay::START, &start.payload()?) {
            return Err(error.context(self.last_words()));
        }
        self.port.set_write_timeout(None).context("clear a time limit")?;
        if self.beats {
            keep_awake(self.sender.clone());
        }
        Ok(())
    }

    /// For a thread that sends input.
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Hands output on until the command ends; returns its exit status, 124 if the time is over.
    pub fn until_exit(mut self, mut output: impl FnMut(u8, &[u8]) -> Result<()>) -> Result<u8> {
        if let Some(deadline) = self.deadline {
            let port = self.port.try_clone().context("copy a socket")?;
            thread::spawn(move || {
                thread::sleep(deadline.saturating_duration_since(Instant::now()));
                // Ends the loop below.
                let _ = port.shutdown(Shutdown::Both);
            });
        }
        let mut reader = BufReader::with_capacity(256 << 10, self.port.try_clone().context("copy a socket")?);
        let mut payload = Vec::new();
        loop {
            match frames::read(&mut reader, &mut payload) {
                Ok(Some(from_relay::EXIT)) => return Ok(payload.first().copied().unwrap_or(125)),
                Ok(Some(stream)) => output(stream, &payload)?,
                Ok(None) | Err(_) if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                    eprintln!("xtask: the command in the emulated host did not end in time");
                    return Ok(124);
                }
                Ok(None) => bail!("{}", self.last_words()),
                Err(error) => return Err(error.context(self.last_words())),
            }
        }
    }

    fn last_words(&mut self) -> String {
        let console = fs::read(self.files.path().join("console")).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = console.lines().collect();
        let end = lines[lines.len().saturating_sub(20)..].join("\n");
        let status = match self.qemu.try_wait() {
            Ok(Some(status)) => format!("QEMU ended with {status}"),
            _ => "QEMU still runs".to_owned(),
        };
        format!("the emulated host died before the command ended; {status}; its console's end:\n{end}")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The relay synced its disks before it said the command's status: nothing is lost.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
