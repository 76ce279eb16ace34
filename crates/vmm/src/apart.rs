//! Processes that do a part of a VM's work, apart from all the rest.

use std::{
    fs, io,
    os::fd::RawFd,
    panic::{AssertUnwindSafe, catch_unwind},
    process,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, WaitOptions, getppid, set_parent_process_death_signal, waitpid},
    stdio::{dup2_stdin, dup2_stdout},
};

use crate::Error;

/// A copy of this process that does one thing, and shares nothing with this one but what it was given. It is killed when
/// the thread that made it ends; dropping this waits for its end, so what it waits for must have gone before.
#[derive(Debug)]
pub struct Process(Pid);

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
        if !is_alone()? {
            return Err(failed(io::Error::other("this process has several threads")));
        }
        let parent = process::id();
        // SAFETY: there is no other thread, so the copy has all that this process has, locks too.
        match unsafe { libc::fork() } {
            0 => {
                let ran = catch_unwind(AssertUnwindSafe(|| {
                    match prepare(name, parent, keep) {
                        Ok(()) => body(),
                        Err(e) => log::error!("the process {name} can't start: {e}"),
                    };
                }));
                // Not by `exit`, which would write out what this process's buffers hold.
                // SAFETY: ends the process.
                unsafe { libc::_exit(ran.is_err().into()) }
            }
            pid => Pid::from_raw(pid)
                .filter(|_| pid > 0)
                .map(Self)
                .ok_or_else(|| failed(io::Error::last_os_error())),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails when somebody else has waited for it.
        while matches!(waitpid(Some(self.0), WaitOptions::empty()), Err(rustix::io::Errno::INTR)) {}
    }
}

/// Whether this process has one thread.
pub(crate) fn is_alone() -> Result<bool, Error> {
    let threads = fs::read_dir("/proc/self/task").map_err(Error::system("count this process's threads"))?;
    Ok(threads.count() == 1)
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
    let short: String = name.chars().take(15).collect();
    rustix::thread::set_name(&std::ffi::CString::new(short)?)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
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
        unsafe { rustix::io::close(number) };
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
