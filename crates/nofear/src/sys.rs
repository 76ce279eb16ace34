//! The C library's calls that rustix does not have. All of the command's `unsafe` is in this file.
#![allow(unsafe_code, reason = "signal masks, signalfd and the user database are C library calls")]

use std::ffi::{CStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;

/// Blocks `signals` in the calling thread, and in the threads that it starts later.
pub fn block_signals(signals: &[Signal]) -> io::Result<()> {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised, and no old mask is asked for.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// A non-blocking descriptor that reads `signals`, which must be blocked, as `signalfd_siginfo` records.
pub fn signal_descriptor(signals: &[Signal]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: signalfd() has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether this process was started, or has set itself, to ignore a signal.
pub fn is_ignored(signal: Signal) -> io::Result<bool> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: no new action is given, and `action` has room for the old one.
    let result = unsafe { libc::sigaction(signal.as_raw(), std::ptr::null(), action.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: sigaction() has succeeded, so it has written the old action.
    Ok(unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN)
}

/// Sends a signal to the calling thread alone.
#[cfg(test)]
pub fn raise(signal: Signal) {
    // SAFETY: takes a number, which of a `Signal` is a valid one.
    assert_eq!(unsafe { libc::raise(signal.as_raw()) }, 0);
}

fn signal_set(signals: &[Signal]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset() initialises the whole set, and cannot fail.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for signal in signals {
        // SAFETY: `set` is initialised, and a `Signal` is a valid number.
        unsafe { libc::sigaddset(&raw mut set, signal.as_raw()) };
    }
    set
}

/// Whether this program was given more rights than who started it has, by its file. A security module can ask for
/// the same care (AT_SECURE) without giving any.
pub fn has_rights_by_its_file() -> bool {
    // SAFETY: takes a number and returns one.
    let careful = unsafe { libc::getauxval(libc::AT_SECURE) != 0 };
    careful && !rustix::thread::capabilities(None).is_ok_and(|sets| sets.permitted.is_empty())
}

/// Makes a tap by a pattern such as `nofear%d`, with so many queues: its name, and a descriptor for each. It is gone
/// when all of them are closed.
pub fn open_tap(pattern: &str, queues: u16) -> io::Result<(String, Vec<OwnedFd>)> {
    // linux/if_tun.h.
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    // IFF_TAP, IFF_NO_PI, IFF_VNET_HDR; IFF_MULTI_QUEUE.
    let flags = 0x0002 | 0x1000 | 0x4000 | if queues > 1 { 0x0100 } else { 0 };
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = flags;
    if pattern.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, byte) in request.ifr_name.iter_mut().zip(pattern.bytes()) {
        *to = byte as libc::c_char;
    }
    let mut taps = Vec::new();
    for _ in 0..queues {
        let tap = rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        // SAFETY: TUNSETIFF reads an `ifreq` and writes the name in it, which later queues then share.
        if unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETIFF, &raw mut request) } != 0 {
            return Err(io::Error::last_os_error());
        }
        taps.push(tap);
    }
    let name = request.ifr_name.iter().take_while(|&&byte| byte != 0).map(|&byte| byte as u8).collect();
    let name = String::from_utf8(name).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok((name, taps))
}

/// Lets the program of `command` be killed when the thread that starts it ends.
pub fn dies_with_this_thread(command: &mut Command) {
    let ask = || Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?);
    // SAFETY: between fork and exec the closure makes one system call and touches no memory of others.
    unsafe { command.pre_exec(ask) };
}

/// What the user database says of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The login name.
    pub name: OsString,
    /// The login shell.
    pub shell: OsString,
}

/// Asks the C library's user database, which may ask a directory service; `None` for one it does not know.
pub fn account(uid: u32) -> Option<Account> {
    let mut buffer = vec![0_u8; 16 << 10];
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut found = std::ptr::null_mut();
    // SAFETY: every pointer is valid for the call, and `buffer` is as long as it is said to be.
    let error = unsafe {
        libc::getpwuid_r(uid, entry.as_mut_ptr(), buffer.as_mut_ptr().cast(), buffer.len(), &raw mut found)
    };
    if error != 0 || found.is_null() {
        return None;
    }
    // SAFETY: `found` is not null, so the entry is initialised and its strings end with NUL within
    // `buffer`, which lives until they are copied.
    unsafe {
        let entry = entry.assume_init();
        let copy = |text: *const libc::c_char| {
            let bytes = if text.is_null() { Vec::new() } else { CStr::from_ptr(text).to_bytes().to_vec() };
            OsString::from_vec(bytes)
        };
        Some(Account { name: copy(entry.pw_name), shell: copy(entry.pw_shell) })
    }
}
