//! The kernel's services that only the first process uses: its log, its power switch, its clock.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit, WaitOptions};
use rustix::time::{ClockId, Timespec};

/// How long processes may take to end when they are asked to, and when they are killed.
const TERM_PATIENCE: Duration = Duration::from_secs(2);
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// `_IOWR('X', 119, int)` of `linux/fs.h`.
const FIFREEZE: libc::Ioctl = 0xc004_5877;

/// `_IOW('f', 16, __u64)` of Linux's `fs/ext4/ext4.h`.
const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;

/// Writes a line to the kernel's log, which the VMM keeps and shows when the guest dies.
///
/// There is nobody to tell if this fails.
pub fn report(text: &str) {
    // Level 2, critical: the least that the VMM lets through to the console (`loglevel=3`).
    let line = format!("<2>nofear-init: {text}\n");
    let open = |path| rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let log = open(c"/dev/kmsg").or_else(|_| {
        // Before devtmpfs is mounted.
        let made = rustix::fs::mknodat(
            CWD,
            c"/kmsg",
            FileType::CharacterDevice,
            Mode::RUSR | Mode::WUSR,
            rustix::fs::makedev(1, 11),
        );
        made.or_else(|e| if e == Errno::EXIST { Ok(()) } else { Err(e) })?;
        open(c"/kmsg")
    });
    if let Ok(log) = log {
        let _ = rustix::io::write(log, line.as_bytes());
    }
}

/// Ends every other process: they are asked to, and killed when they take too long.
///
/// To be called by the first process: those whose parents have ended are its children.
pub fn end_processes() {
    for (signal, patience) in [(libc::SIGTERM, TERM_PATIENCE), (libc::SIGKILL, KILL_PATIENCE)] {
        // SAFETY: kill() takes numbers. -1 is every process but this one. One that is stopped takes its signal
        // only when it goes on.
        unsafe {
            libc::kill(-1, signal);
            libc::kill(-1, libc::SIGCONT);
        }
        let deadline = Instant::now() + patience;
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                // A child that still lives.
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                Ok(None) => break,
                // No child, and so nobody but kernel threads.
                Err(_) => return,
            }
        }
    }
}

/// Writes out what a file system still misses, marks it clean, and lets nobody write any more.
pub fn freeze(file_system: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: FIFREEZE takes a descriptor of the file system, and ignores its argument.
    let result = unsafe { libc::ioctl(file_system.as_raw_fd(), FIFREEZE, 0) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Lets a mounted ext4 file system fill `blocks` of its blocks.
pub fn grow_ext4(file_system: &OwnedFd, blocks: u64) -> Result<(), Errno> {
    // SAFETY: EXT4_IOC_RESIZE_FS reads a 64-bit number.
    let result = unsafe { libc::ioctl(file_system.as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Switches the machine off. Returns if the kernel refuses.
pub fn power_off() {
    if let Err(e) = rustix::system::reboot(rustix::system::RebootCommand::PowerOff) {
        report(&format!("power off: {e}"));
    }
}

/// Fills the descriptors 0 to 2, so that nothing opened later gets one of them.
///
/// The kernel opens them on `/dev/console` for its first process, and leaves them closed when the machine
/// has no console.
pub fn reserve_standard_streams() -> Result<(), Errno> {
    loop {
        let filler = rustix::fs::open(c"/", OFlags::PATH, Mode::empty())?;
        if filler.as_raw_fd() > 2 {
            return Ok(());
        }
        // Stays open for the process's life.
        std::mem::forget(filler);
    }
}

/// Points the standard streams of this process at `/dev/null`, once there is one.
pub fn silence_standard_streams() -> Result<(), Errno> {
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)
}

/// Sets the clock to the host's time, in seconds and nanoseconds since 1970, if it is over a second off.
pub fn set_clock((seconds, nanoseconds): (u64, u32)) -> Result<(), Errno> {
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    let seconds = i64::try_from(seconds).map_err(|_| Errno::INVAL)?;
    if now.tv_sec.abs_diff(seconds) <= 1 {
        return Ok(());
    }
    rustix::time::clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() })
}

/// Brings the loopback interface up. A kernel without IPv4 has none, which is no failure.
pub fn loopback_up() -> Result<(), Errno> {
    let socket =
        match rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None) {
            Ok(socket) => socket,
            Err(Errno::AFNOSUPPORT) => return Ok(()),
            Err(e) => return Err(e),
        };
    // SAFETY: all zeros is a valid `ifreq`, and SIOCSIFFLAGS only reads one: the name, which the zeros
    // after it end, and the flags.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request)
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Raises this process's limit of open files to what its commands may raise theirs to.
pub fn raise_open_files() -> Result<(), Errno> {
    let most = Some(524_288);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })
}

/// Blocks every signal in this thread: the agent takes those that it wants from a descriptor, and a stray
/// SIGPIPE is an error of the write that caused it.
pub fn block_signals() {
    // SAFETY: both calls write and read a local set; the old set is not asked for.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}

/// The error of the C library's call that just failed.
pub(crate) fn last_errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}
