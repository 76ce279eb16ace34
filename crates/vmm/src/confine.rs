//! What the process gives up before the guest's first instruction.

use std::{
    fmt, fs, io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use rustix::{
    fd::BorrowedFd,
    io::FdFlags,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use crate::{Error, Reach, apart, capabilities, namespaces, namespaces::Failed, reach, seccomp};

/// Descriptors that the 9P server may hold at once, where the host's hard limit allows.
const MAX_DESCRIPTORS: u64 = 1 << 17;

/// What [`crate::Resources::confine`] does to the process.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Policy {
    /// Descriptors above 2 that were inherited from the parent process and stay open. All others that
    /// were (they survived an `exec`, so they lack `FD_CLOEXEC`) are closed.
    pub keep: Vec<RawFd>,
    /// Whether the VM's own threads are confined, each to what its kind needs, by seccomp, Landlock and the
    /// loss of capabilities; default: yes.
    pub threads: bool,
    /// Whether each share's server is a process of its own, with its files and nothing else of the VM; default: yes.
    /// A process that has several threads can't be copied: then servers are threads.
    pub processes: bool,
    /// Whether the process leaves the host's network, file system, IPC, names and cgroups for empty namespaces, if its
    /// servers are processes of their own and it has one thread; default: yes. What it has open stays open, and its
    /// children are left where they are.
    pub namespaces: bool,
    /// Whether a host that lacks some of what is asked for is refused; default: no.
    pub require: bool,
    /// Whether the thread that calls [`crate::Vm::run`] is confined as [`ThreadKind::Control`] too, for good;
    /// default: no.
    pub confine_runner: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            keep: Vec::new(),
            threads: true,
            processes: true,
            namespaces: true,
            require: false,
            confine_runner: false,
        }
    }
}

/// What was achieved of a [`Policy`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Confinement {
    /// Threads are held to what their kind needs.
    pub threads: bool,
    /// The version of the kernel's Landlock; 0: it has none.
    pub landlock: u32,
    /// Shares are served by processes of their own.
    pub processes: bool,
    /// The process is in namespaces of its own; or why not.
    pub namespaces: Result<(), String>,
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.threads, self.landlock) {
            (false, _) => write!(f, "no seccomp and no Landlock (not asked for), ")?,
            (true, 0) => write!(f, "seccomp, no capabilities, no Landlock (this kernel has none), ")?,
            (true, version) => write!(f, "seccomp, no capabilities, Landlock of version {version}, ")?,
        }
        let where_served = if self.processes { "processes of their own" } else { "threads" };
        write!(f, "files served by {where_served}, ")?;
        match &self.namespaces {
            Ok(()) => write!(f, "empty namespaces"),
            Err(why) => write!(f, "no namespaces ({why})"),
        }
    }
}

/// What a thread does, and so which system calls it may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ThreadKind {
    /// Runs the guest.
    Vcpu,
    /// Serves a 9P export of which nothing can be changed.
    NineP,
    /// Serves a 9P export with a writable grant.
    WritableNineP,
    /// Reads and writes a disk's image.
    Disk,
    /// Moves bytes between guest and Unix sockets.
    Vsock,
    /// Moves frames between guest and network.
    Network,
    /// Answers the guest's questions for names: sends to name servers, and reads what they say.
    Resolver,
    /// Gives the guest entropy.
    Entropy,
    /// Gives the guest's unused memory back to the host.
    Balloon,
    /// Waits for the VM, and carries a command's streams, signals and terminal.
    Control,
    /// Waits for the VM's process from outside, and takes down what it says.
    Keeper,
}

/// Confines the calling thread to what its kind needs, for good: it opens no file any more, has no capability that
/// it does not need, and a system call that is not on its kind's list ends the process.
///
/// # Errors
///
/// The kernel lacks seccomp.
pub fn confine_thread(kind: ThreadKind) -> Result<(), Error> {
    confine_thread_to(kind, Reach::nothing()?)
}

/// The same, with some files that it may still open.
///
/// # Errors
///
/// The kernel lacks seccomp.
pub fn confine_thread_to(kind: ThreadKind, reach: Reach) -> Result<(), Error> {
    capabilities::drop_others(kind)?;
    reach.enter()?;
    seccomp::install(kind)
}

/// Whether this thread, of a device or of what serves one, is confined now, and may go on.
pub(crate) fn confine(kind: ThreadKind, reach: Result<Reach, Error>) -> bool {
    reach
        .and_then(|reach| confine_thread_to(kind, reach))
        .inspect_err(|e| log::error!("a thread can't be confined, so it does not start: {e}"))
        .is_ok()
}

/// Leaves the host's namespaces, if the policy says so.
pub(crate) fn leave_namespaces(policy: &Policy, are_servers_apart: bool) -> Result<Confinement, Error> {
    let namespaces = if !policy.namespaces {
        Err("not asked for".into())
    } else if !are_servers_apart {
        Err("this process serves files, whose owners would be nobody".into())
    } else if !apart::is_alone().map_err(Error::system("count this process's threads"))? {
        Err("this process has several threads".into())
    } else {
        match namespaces::may_leave() {
            Ok(()) => match namespaces::leave() {
                Ok(()) => Ok(()),
                Err(Failed::AtOnce(e)) => Err(e.to_string()),
                // What it is now nobody has thought of.
                Err(Failed::HalfWay(e)) => return Err(Error::system("leave this host's namespaces")(e)),
            },
            Err(e) => Err(e.to_string()),
        }
    };
    if policy.require {
        if policy.processes && !are_servers_apart {
            let why = "this process has several threads, so no other can serve its files";
            return Err(Error::Unconfined(why.into()));
        }
        if let (true, Err(why)) = (policy.namespaces, &namespaces) {
            return Err(Error::Unconfined(format!("it can't leave this host's namespaces: {why}")));
        }
    }
    let (threads, landlock) = (policy.threads, reach::landlock_abi());
    Ok(Confinement { threads, landlock, processes: are_servers_apart, namespaces })
}

pub(crate) fn confine_process(policy: &Policy) -> Result<(), Error> {
    if policy.require {
        reach::require()?;
    }
    give_up_cores().map_err(Error::system("give up new privileges and core dumps"))?;
    set_limits()?;
    close_stray(&policy.keep).map_err(Error::system("close inherited descriptors"))
}

/// No new privileges, and no core dump, which would hold the guest's memory.
pub(crate) fn give_up_cores() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

fn set_limits() -> Result<(), Error> {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(MAX_DESCRIPTORS).min(MAX_DESCRIPTORS);
    setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: Some(hard) })
        .map_err(|e| Error::System("limit open files", e.into()))
}

fn close_stray(keep: &[RawFd]) -> io::Result<()> {
    let mut stray = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|n| n.parse::<RawFd>().ok()) else { continue };
        if fd <= 2 || keep.contains(&fd) {
            continue;
        }
        // SAFETY: only asks for flags; a descriptor that is gone by now gives EBADF.
        let flags = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) });
        if flags.is_ok_and(|f| !f.contains(FdFlags::CLOEXEC)) {
            stray.push(fd);
        }
    }
    for fd in stray {
        // SAFETY: without FD_CLOEXEC it came through an exec, so nothing in this process owns it; what the
        // caller took over it has named in `keep`.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    Ok(())
}
