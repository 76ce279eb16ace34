//! One command's process, from its creation to the execution of its program.
//!
//! The child shares the agent's memory until it executes its program, and the agent waits for that
//! (`CLONE_VM | CLONE_VFORK`, as posix_spawn(3) does): no page table is copied, and the child leaves the
//! reason of a failure in a variable. In return it must neither allocate nor take a lock.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use agent_proto::Step;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit};
use rustix::thread::{Gid, Uid};

use crate::kernel::last_errno;

/// The soft limit of open files that Linux programs expect: select(2) breaks above it.
const OPEN_FILES: u64 = 1024;

/// The child's stack; the kernel gives its program another one.
const STACK: usize = 64 << 10;

/// What to execute, as whom, and where.
pub(crate) struct Program {
    /// The files to try, in order.
    pub files: Vec<CString>,
    /// Its arguments, the name that it is given included.
    pub argv: Vec<CString>,
    /// Its whole environment.
    pub env: Vec<CString>,
    /// Its working directory.
    pub cwd: CString,
    /// Its user.
    pub uid: u32,
    /// Its only group.
    pub gid: u32,
}

/// A process whose program runs.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its number, and that of its session and process group.
    pub pid: Pid,
    /// Becomes readable when it ends.
    pub pidfd: OwnedFd,
}

/// What failed in the child, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotStarted {
    /// What was attempted.
    pub step: Step,
    /// The error.
    pub errno: Errno,
}

impl NotStarted {
    pub(crate) fn at(step: Step) -> impl Fn(Errno) -> Self {
        move |errno| Self { step, errno }
    }
}

/// Starts `program` in a session of its own, on these standard streams, none of which may be descriptor 0,
/// 1 or 2 of the agent. With `terminal`, the first of them becomes its controlling terminal.
pub(crate) fn spawn(
    program: &Program,
    streams: [BorrowedFd<'_>; 3],
    terminal: bool,
) -> Result<Process, NotStarted> {
    let set_up = NotStarted::at(Step::SetUp);
    let streams = streams.map(|stream| stream.as_raw_fd());
    if streams.iter().any(|&stream| stream < 3) {
        return Err(set_up(Errno::BADF));
    }
    let mut child = Child {
        files: &program.files,
        argv: pointers(&program.argv),
        script_argv: script_argv(&program.argv),
        env: pointers(&program.env),
        cwd: &program.cwd,
        user: rustix::process::geteuid().is_root().then_some((program.uid, program.gid)),
        streams,
        terminal,
        failure: None,
    };
    let mut stack = vec![MaybeUninit::<u8>::uninit(); STACK];
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: the stack grows down from its end, which is aligned by hand; with CLONE_VFORK this thread
    // stands still, and so the stack and `child` stay and have no other user, until the child is done with
    // both. `run` neither allocates, locks nor unwinds. With CLONE_PIDFD the kernel writes a new descriptor
    // to `pidfd`.
    let (pid, pidfd) = unsafe {
        let top = stack.as_mut_ptr_range().end;
        let top = top.sub(top as usize % 16);
        let pid = libc::clone(run, top.cast(), flags, (&raw mut child).cast(), &raw mut pidfd);
        if pid < 0 {
            return Err(set_up(last_errno()));
        }
        (pid, OwnedFd::from_raw_fd(pidfd))
    };
    let pid = Pid::from_raw(pid).ok_or(set_up(Errno::INVAL))?;
    match child.failure {
        None => Ok(Process { pid, pidfd }),
        Some(failure) => {
            // It has ended, or is about to. In the first process a child is reaped by this or not at all.
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            Err(failure)
        }
    }
}

/// A C array of strings, with the null pointer at its end.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// The arguments for `/bin/sh` to run a text file, whose name goes second.
fn script_argv(argv: &[CString]) -> Vec<*const c_char> {
    let rest = argv.iter().skip(1).map(|argument| argument.as_ptr());
    [c"/bin/sh".as_ptr(), ptr::null()].into_iter().chain(rest).chain([ptr::null()]).collect()
}

/// Everything that the child needs, made before there is one.
struct Child<'a> {
    files: &'a [CString],
    argv: Vec<*const c_char>,
    script_argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    cwd: &'a CStr,
    /// None when the agent is an ordinary process, and can only start commands as itself.
    user: Option<(u32, u32)>,
    streams: [RawFd; 3],
    terminal: bool,
    failure: Option<NotStarted>,
}

/// The child's first function, on its own stack.
extern "C" fn run(child: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its `Child` and stands still meanwhile.
    let child = unsafe { &mut *child.cast::<Child<'_>>() };
    child.failure = Some(child.become_program());
    // SAFETY: ends this process alone, without the exit handlers of the agent.
    unsafe { libc::_exit(127) }
}

impl Child<'_> {
    /// Returns only if it fails.
    fn become_program(&mut self) -> NotStarted {
        let set_up = || -> Result<(), Errno> {
            default_signals();
            rustix::process::setsid()?;
            for (target, &stream) in (0..).zip(&self.streams) {
                // SAFETY: plain numbers; the targets belong to this process's own descriptor table.
                if unsafe { libc::dup2(stream, target) } < 0 {
                    return Err(last_errno());
                }
            }
            // The agent's own are marked already. This holds for those that it was started with, too.
            // SAFETY: marks the descriptors of this process's own table; they are closed by the execution.
            let marked =
                unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as c_int) };
            if marked < 0 {
                return Err(last_errno());
            }
            if self.terminal {
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            }
            let limit = rustix::process::getrlimit(Resource::Nofile);
            let current = limit.maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
            rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit })?;
            rustix::process::umask(Mode::WGRP | Mode::WOTH);
            if let Some((uid, gid)) = self.user {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                rustix::thread::set_thread_groups(&[gid])?;
                rustix::thread::set_thread_res_gid(gid, gid, gid)?;
                rustix::thread::set_thread_res_uid(uid, uid, uid)?;
            }
            Ok(())
        };
        if let Err(errno) = set_up() {
            return NotStarted { step: Step::SetUp, errno };
        }
        // As the user: what the user may not enter, the command does not start in.
        if let Err(errno) = rustix::process::chdir(self.cwd) {
            return NotStarted { step: Step::WorkingDirectory, errno };
        }
        NotStarted { step: Step::Execute, errno: self.execute() }
    }

    /// Tries the files in turn, with the rules of execvp(3).
    fn execute(&mut self) -> Errno {
        let mut reason = Errno::NOENT;
        for file in self.files {
            match self.execute_file(file.as_ptr()) {
                // Not here, or on a file system that has gone: the next directory may have it.
                Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::NODEV | Errno::TIMEDOUT => {}
                // Not this one, but say so if there is no other.
                Errno::ACCESS => reason = Errno::ACCESS,
                other => return other,
            }
        }
        reason
    }

    fn execute_file(&mut self, file: *const c_char) -> Errno {
        // SAFETY: null-ended arrays of strings that outlive the call.
        unsafe { libc::execve(file, self.argv.as_ptr(), self.env.as_ptr()) };
        let errno = last_errno();
        if errno != Errno::NOEXEC {
            return errno;
        }
        // A text file without `#!`.
        if let Some(name) = self.script_argv.get_mut(1) {
            *name = file;
        }
        // SAFETY: as above.
        unsafe { libc::execve(c"/bin/sh".as_ptr(), self.script_argv.as_ptr(), self.env.as_ptr()) };
        last_errno()
    }
}

/// Undoes the agent's blocked signals, and whatever handlers the process has.
fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: sets a disposition of this process alone (no CLONE_SIGHAND). It fails for SIGKILL,
        // SIGSTOP and the two of the C library, which cannot have been changed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: a local, initialised set; the old one is not asked for.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}
