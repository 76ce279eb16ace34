//! Processes that do a part of a VM's work, apart from all the rest.

use std::{
    fs, io,
    os::fd::{OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    process,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    io::retry_on_intr,
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, getppid, kill_process, pidfd_open, pidfd_send_signal,
        set_parent_process_death_signal, waitpid,
    },
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
};

use crate::{Error, confine};

/// How long a process that was killed may take to end: one that waits for a dead file system does not.
const ENDS_WITHIN: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A copy of this process that does one thing. It is killed when this is dropped, and when the thread that made it ends.
///
/// It has its own copy of all private memory that this process has when it is made, so it is to be made early; of shared
/// memory it has what was not kept from it.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    descriptor: OwnedFd,
}

impl Process {
    /// Forks, and calls `body` in the copy, which ends when that returns. Of the descriptors it has those in `keep`, which
    /// must be all that `body` uses, and standard error, for its log. No signal reaches it but those that can't be blocked:
    /// a terminal's are not for it.
    ///
    /// # Errors
    ///
    /// This process has other threads, whose locks the copy would find locked for ever; or there is no room for one more.
    pub fn start(name: &str, keep: &[RawFd], body: impl FnOnce()) -> Result<Self, Error> {
        let failed = |e: io::Error| Error::System("start a process", e);
        let parent = process::id();
        let Some(pid) = fork().map_err(failed)? else {
            let ran = catch_unwind(AssertUnwindSafe(|| {
                match prepare(name, parent, keep) {
                    Ok(()) => body(),
                    Err(e) => log::error!("the process {name} can't start: {e}"),
                };
            }));
            end(ran.is_err().into())
        };
        // Its number is its own until it is waited for.
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| {
            let _ = kill_process(pid, Signal::KILL);
            failed(e.into())
        })?;
        Ok(Self { pid, descriptor })
    }
}

/// Makes a copy of this process; none: this is the copy.
///
/// # Errors
///
/// Also when this process has other threads, whose locks the copy would find locked for ever.
pub fn fork() -> io::Result<Option<Pid>> {
    if !is_alone()? {
        return Err(io::Error::other("this process has several threads"));
    }
    // SAFETY: there is no other thread, so that the copy has all that this process has.
    let pid = unsafe { libc::fork() };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(Pid::from_raw(pid)) }
}

/// Ends a copy of this process. Not by `exit`, which would write out what the first one's buffers hold.
pub(crate) fn end(status: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails when it has ended, and that is what is wanted.
        let _ = pidfd_send_signal(&self.descriptor, Signal::KILL);
        let mut end = [PollFd::new(&self.descriptor, PollFlags::IN)];
        let _ = retry_on_intr(|| poll(&mut end, Some(&ENDS_WITHIN)));
        // Fails when somebody else has waited for it.
        let _ = waitpid(Some(self.pid), WaitOptions::NOHANG);
    }
}

/// Whether this process has one thread.
pub(crate) fn is_alone() -> io::Result<bool> {
    Ok(fs::read_dir("/proc/self/task")?.count() == 1)
}

fn prepare(name: &str, parent: u32, keep: &[RawFd]) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid().is_none_or(|pid| pid.as_raw_nonzero().get().cast_unsigned() != parent) {
        return Err(io::Error::other("who started it has ended"));
    }
    // SAFETY: the set is filled before it is used.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
    confine::give_up_cores()?;
    let short: String = name.chars().take(15).collect();
    rustix::thread::set_name(&std::ffi::CString::new(short)?)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    // It writes its log there, and does not read what is typed; a socket can't be opened anew.
    let log =
        rustix::fs::open("/proc/self/fd/2", OFlags::WRONLY | OFlags::NOCTTY | OFlags::APPEND, Mode::empty());
    if let Ok(log) = log {
        dup2_stderr(&log)?;
    }
    let mut others = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        others.extend(number.filter(|number| *number > 2 && !keep.contains(number)));
    }
    // Among them is this one.
    std::mem::forget(null);
    for number in others {
        // SAFETY: what owned it in the process that was copied is never dropped in this one, which ends without. One that
        // is closed by now, as that of the listing, is no error.
        unsafe { libc::close(number) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tests' process has threads.
    #[test]
    fn a_process_with_threads_is_not_copied() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        assert!(!is_alone().unwrap());
        Process::start("x", &[], || panic!("it was copied")).unwrap_err();
        drop(go);
        let _ = thread.join();
    }
}
