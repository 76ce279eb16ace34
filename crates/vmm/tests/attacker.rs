//! What code in a confined thread could do, if a guest had brought its own: each attempt, from each kind of thread, in
//! a process of its own that has nothing but the thread's confinement. `docs/threat-model.md` has the table that this
//! prints.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    env,
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram, UnixListener},
            process::ExitStatusExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    ptr::null,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use libc::*;
use nofear_vmm::{Reach, Rights, ThreadKind, confine_thread_to, landlock_abi};
use vmm_sys_util::tempdir::TempDir;

const KINDS: [ThreadKind; 11] = [
    ThreadKind::Vcpu,
    ThreadKind::NineP,
    ThreadKind::WritableNineP,
    ThreadKind::Disk,
    ThreadKind::Vsock,
    ThreadKind::Network,
    ThreadKind::Resolver,
    ThreadKind::Entropy,
    ThreadKind::Balloon,
    ThreadKind::Control,
    ThreadKind::Keeper,
];

/// What is there to be reached.
struct World {
    /// The tree that 9P servers are to serve, open as theirs is.
    granted: OwnedFd,
    /// A folder beside it, with a file `secret`, and another VM's `control.sock`, and a program's `log.sock`.
    outside: PathBuf,
    /// Another process of the same user.
    victim: pid_t,
}

type Attempt = fn(&World) -> c_long;

/// Each by what it wants; the call's result.
const ATTEMPTS: &[(&str, Attempt)] = &[
    ("read a file of the user", |w| at(SYS_openat, AT_FDCWD, w.outside.join("secret"), O_RDONLY)),
    ("list a folder of the user", |w| at(SYS_openat, AT_FDCWD, &w.outside, O_RDONLY | O_DIRECTORY)),
    ("write a file of the user", |w| at(SYS_openat, AT_FDCWD, w.outside.join("secret"), O_WRONLY)),
    ("make a file", |w| at(SYS_openat, AT_FDCWD, w.outside.join("new"), O_CREAT | O_WRONLY)),
    ("climb out of the share", |w| at(SYS_openat, w.granted.as_raw_fd(), "../outside/secret", O_RDONLY)),
    ("write in the share by openat2", |w| openat2(w.granted.as_raw_fd(), "file", O_RDWR)),
    ("write out of the share by openat2", |w| openat2(w.granted.as_raw_fd(), "../outside/secret", O_RDWR)),
    ("read another process's memory by /proc", |w| {
        at(SYS_openat, AT_FDCWD, format!("/proc/{}/mem", w.victim), O_RDONLY)
    }),
    ("write its own memory by /proc", |_| at(SYS_openat, AT_FDCWD, "/proc/self/mem", O_RDWR)),
    ("open /dev/kvm", |_| at(SYS_openat, AT_FDCWD, "/dev/kvm", O_RDWR)),
    ("type at the terminal (TIOCSTI)", |_| call(SYS_ioctl, [0, TIOCSTI as i64, c"x".as_ptr() as i64])),
    ("remove a file", |w| at(SYS_unlinkat, AT_FDCWD, w.outside.join("secret"), 0)),
    ("make a folder", |w| at(SYS_mkdirat, AT_FDCWD, w.outside.join("folder"), 0o700)),
    ("make a symlink", |w| {
        let to = path(&w.outside.join("link"));
        call(SYS_symlinkat, [c"x".as_ptr() as i64, AT_FDCWD.into(), to.as_ptr() as i64])
    }),
    ("move a file into the share", |w| two(SYS_renameat2, w, 0)),
    ("link a file into the share", |w| two(SYS_linkat, w, 0)),
    ("make a device", |w| {
        let name = path(&w.outside.join("device"));
        call(SYS_mknodat, [AT_FDCWD.into(), name.as_ptr() as i64, i64::from(S_IFCHR | 0o600), 0x0103])
    }),
    ("change a file's mode", |w| at(SYS_fchmodat, AT_FDCWD, w.outside.join("secret"), 0o777)),
    ("run a program", |_| {
        let arguments = [c"/bin/true".as_ptr(), null()];
        call(SYS_execve, [c"/bin/true".as_ptr() as i64, arguments.as_ptr() as i64, 0])
    }),
    ("fork", |_| call(SYS_clone, [SIGCHLD.into(), 0, 0, 0, 0])),
    ("trace a process", |w| call(SYS_ptrace, [PTRACE_SEIZE.into(), w.victim.into(), 0, 0])),
    ("read a process's memory", |w| call(SYS_process_vm_readv, [w.victim.into(), 0, 0, 0, 0, 0])),
    ("kill a process", |w| call(SYS_kill, [w.victim.into(), SIGKILL.into()])),
    ("kill a process by its thread", |w| {
        call(SYS_tgkill, [w.victim.into(), w.victim.into(), SIGKILL.into()])
    }),
    ("take a process's descriptors", |w| call(SYS_pidfd_open, [w.victim.into(), 0])),
    ("mount", |_| {
        let (tmpfs, at) = (c"tmpfs".as_ptr() as i64, c"/mnt".as_ptr() as i64);
        call(SYS_mount, [tmpfs, at, tmpfs, 0, 0])
    }),
    ("unmount", |_| call(SYS_umount2, [c"/proc".as_ptr() as i64, MNT_DETACH.into()])),
    ("change the root", |_| call(SYS_chroot, [c"/".as_ptr() as i64])),
    ("make namespaces", |_| call(SYS_unshare, [CLONE_NEWUSER.into()])),
    ("enter namespaces", |_| call(SYS_setns, [0, 0])),
    ("open a file by its handle", |_| call(SYS_open_by_handle_at, [0, 0, 0])),
    ("become root", |_| call(SYS_setuid, [0])),
    ("bpf", |_| call(SYS_bpf, [0, 0, 0])),
    ("userfaultfd", |_| call(SYS_userfaultfd, [0])),
    ("make an io_uring", |_| {
        let mut parameters = [0_u8; 120];
        call(SYS_io_uring_setup, [1, parameters.as_mut_ptr() as i64])
    }),
    ("perf", |_| call(SYS_perf_event_open, [0, 0, -1, -1, 0])),
    ("keys", |_| call(SYS_keyctl, [0, -3, 0])),
    ("load a kernel module", |_| call(SYS_finit_module, [0, c"".as_ptr() as i64, 0])),
    ("watch files (fanotify)", |_| call(SYS_fanotify_init, [0, 0])),
    ("reboot", |_| call(SYS_reboot, [0, 0, 0, 0])),
    ("port input and output", |_| call(SYS_iopl, [3])),
    ("new executable memory", |_| {
        let flags = (MAP_PRIVATE | MAP_ANONYMOUS).into();
        call(SYS_mmap, [0, 4096, (PROT_READ | PROT_EXEC).into(), flags, -1, 0])
    }),
    ("memory from a file (memfd)", |_| call(SYS_memfd_create, [c"x".as_ptr() as i64, 0])),
    ("an IPv4 stream", |_| call(SYS_socket, [AF_INET.into(), SOCK_STREAM.into(), 0])),
    ("a connection to this host", |_| {
        let socket = call(SYS_socket, [AF_INET.into(), SOCK_STREAM.into(), 0]);
        let mut address = [0_u8; 16];
        address[..8].copy_from_slice(&[AF_INET as u8, 0, 0, 22, 127, 0, 0, 1]);
        if socket < 0 { socket } else { call(SYS_connect, [socket, address.as_ptr() as i64, 16]) }
    }),
    ("a raw packet socket", |_| call(SYS_socket, [AF_PACKET.into(), SOCK_RAW.into(), 0])),
    ("a vsock socket", |_| call(SYS_socket, [AF_VSOCK.into(), SOCK_STREAM.into(), 0])),
    ("a netlink socket", |_| call(SYS_socket, [AF_NETLINK.into(), SOCK_RAW.into(), 0])),
    ("a message to a program's socket", |w| datagram(w.outside.join("log.sock").as_os_str().as_bytes())),
    ("another VM's control socket", |w| unix(w.outside.join("control.sock").as_os_str().as_bytes(), 0)),
    ("a session's abstract socket", |w| unix(format!("nofear-{}", w.victim).as_bytes(), 1)),
];

/// What a kind needs, and so an attacker there gets.
const GETS: &[(&str, ThreadKind, &str)] = &[
    ("write in the share by openat2", ThreadKind::WritableNineP, "the share is writable"),
    (
        "change a file's mode",
        ThreadKind::WritableNineP,
        "Landlock does not look at modes, owners, times and extended attributes; content stays out of reach",
    ),
    ("an IPv4 stream", ThreadKind::Resolver, "a socket is only the beginning: it connects nowhere"),
    ("a netlink socket", ThreadKind::Resolver, "this host's addresses, which guests must not reach"),
];

/// Calls the kernel; the result, or an error's number below zero.
fn call<const N: usize>(number: c_long, arguments: [i64; N]) -> c_long {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&arguments);
    let [a, b, c, d, e, f] = all;
    // SAFETY: a child process that is about to end; pointers are to what lives, or to nothing.
    let result = unsafe { syscall(number, a, b, c, d, e, f) };
    if result < 0 { -c_long::from(io::Error::last_os_error().raw_os_error().unwrap()) } else { result }
}

fn path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn at(number: c_long, folder: c_int, name: impl AsRef<Path>, flags: impl Into<i64>) -> c_long {
    let name = path(name.as_ref());
    call(number, [folder.into(), name.as_ptr() as i64, flags.into(), 0o600])
}

fn openat2(folder: c_int, name: &str, flags: c_int) -> c_long {
    let (name, how) = (CString::new(name).unwrap(), [u64::from(flags as u32), 0, 0]);
    call(SYS_openat2, [folder.into(), name.as_ptr() as i64, how.as_ptr() as i64, 24])
}

/// The secret, to a new name in the share.
fn two(number: c_long, world: &World, flags: i64) -> c_long {
    let from = path(&world.outside.join("secret"));
    let to = c"taken".as_ptr() as i64;
    call(number, [AT_FDCWD.into(), from.as_ptr() as i64, world.granted.as_raw_fd().into(), to, flags])
}

fn unix(name: &[u8], offset: usize) -> c_long {
    let socket = call(SYS_socket, [AF_UNIX.into(), SOCK_STREAM.into(), 0]);
    let address = address(name, offset);
    let (at, length) = (address.as_ptr() as i64, address.len() as i64);
    if socket < 0 { socket } else { call(SYS_connect, [socket, at, length]) }
}

/// Sends without a connection: who may make pairs of sockets has one that can.
fn datagram(name: &[u8]) -> c_long {
    let mut pair: [c_int; 2] = [-1; 2];
    let (kind, address) = (i64::from(SOCK_DGRAM | SOCK_CLOEXEC), address(name, 0));
    let made = call(SYS_socketpair, [AF_UNIX.into(), kind, 0, pair.as_mut_ptr() as i64]);
    let (at, length) = (address.as_ptr() as i64, address.len() as i64);
    if made < 0 { made } else { call(SYS_sendto, [pair[0].into(), at, 1, 0, at, length]) }
}

fn address(name: &[u8], offset: usize) -> Vec<u8> {
    let family = (AF_UNIX as u16).to_ne_bytes();
    [&family[..], &[0].repeat(offset), name].concat()
}

const CHILD: &str = "NOFEAR_ATTEMPT";

/// The child: one attempt. Its exit status is the error's number, or 0 when it got what it wanted.
#[test]
fn attempt() {
    let Ok(text) = env::var(CHILD) else { return };
    let [number, kind, victim, folder] = text.splitn(4, ' ').collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    let (attempt, kind) =
        (ATTEMPTS[number.parse::<usize>().unwrap()].1, KINDS[kind.parse::<usize>().unwrap()]);
    let granted: OwnedFd = File::open(Path::new(folder).join("granted")).unwrap().into();
    let world =
        World { granted, outside: Path::new(folder).join("outside"), victim: victim.parse().unwrap() };
    let reach = Reach::nothing().unwrap();
    let reach = match kind {
        ThreadKind::NineP => reach.and(&world.granted, Rights::Read),
        ThreadKind::WritableNineP | ThreadKind::Keeper => reach.and(&world.granted, Rights::Change),
        _ => Ok(reach),
    };
    confine_thread_to(kind, reach.unwrap()).unwrap();
    let result = attempt(&world);
    call(SYS_exit_group, [if result < 0 { -result } else { 0 }]);
}

/// How an attempt ended: the layer that refused it; nothing when it got what it wanted.
fn try_one(number: usize, kind: usize, victim: &Child, folder: &Path) -> Option<&'static str> {
    let given = format!("{number} {kind} {} {}", victim.id(), folder.display());
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "attempt", "--test-threads=1"]).env(CHILD, given);
    let status = child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    match (status.signal(), status.code()) {
        (Some(SIGSYS), _) => Some("seccomp"),
        (_, Some(0)) => None,
        (_, Some(EACCES)) => Some("Landlock"),
        (_, Some(EPERM | EXDEV)) => Some("kernel"),
        other => panic!("{}, {:?}: {other:?}", ATTEMPTS[number].0, KINDS[kind]),
    }
}

#[test]
fn an_attacker_in_any_thread_gets_nothing_but_what_the_thread_needs() {
    if env::var_os(CHILD).is_some() {
        return;
    }
    if landlock_abi() < 6 {
        println!("skipped: this kernel's Landlock is older than what the table says");
        return;
    }
    let folder = TempDir::new().unwrap();
    let root = folder.as_path().canonicalize().unwrap();
    let mut victim = Command::new("sleep").arg("1000").spawn().unwrap();
    fs::create_dir(root.join("granted")).unwrap();
    fs::create_dir(root.join("outside")).unwrap();
    fs::write(root.join("granted/file"), "shared").unwrap();
    let secret = root.join("outside/secret");
    fs::write(&secret, "secret").unwrap();
    let _socket = UnixListener::bind(root.join("outside/control.sock")).unwrap();
    let _log = UnixDatagram::bind(root.join("outside/log.sock")).unwrap();
    let name = format!("nofear-{}", victim.id());
    let name = SocketAddr::from_abstract_name(name).unwrap();
    let _abstract = UnixListener::bind_addr(&name).unwrap();

    // Two attempts at a time, each a process.
    let next = AtomicUsize::new(0);
    let results = std::sync::Mutex::new(vec![None; ATTEMPTS.len() * KINDS.len()]);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let one = next.fetch_add(1, Ordering::Relaxed);
                    if one >= ATTEMPTS.len() * KINDS.len() {
                        return;
                    }
                    let layer = try_one(one / KINDS.len(), one % KINDS.len(), &victim, &root);
                    results.lock().unwrap()[one] = layer;
                }
            });
        }
    });
    let results = results.into_inner().unwrap();
    let mut wrong = Vec::new();
    println!("| attempt |{} |", KINDS.map(|kind| format!(" {kind:?}")).join(" |"));
    println!("|---|{}", "---|".repeat(KINDS.len()));
    for (row, (what, _)) in results.chunks(KINDS.len()).zip(ATTEMPTS) {
        let cells: Vec<_> = row.iter().map(|layer| layer.unwrap_or("**gets it**")).collect();
        println!("| {what} | {} |", cells.join(" | "));
        for (kind, layer) in KINDS.iter().zip(row) {
            let expected = GETS.iter().any(|(gets, by, _)| gets == what && by == kind);
            if layer.is_none() != expected {
                wrong.push(format!("{what}, {kind:?}: {}", layer.unwrap_or("gets it")));
            }
        }
    }
    assert!(victim.try_wait().unwrap().is_none(), "the other process has ended");
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
    assert_eq!(fs::read_dir(root.join("outside")).unwrap().count(), 3);
    assert_eq!(wrong, Vec::<String>::new());
}
