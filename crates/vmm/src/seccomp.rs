//! One list of system calls for each kind of thread. Everything else ends the process.

mod filter;

use std::collections::BTreeMap;

use filter::Rule;
use libc::*;
use seccompiler::apply_filter;

use crate::{Error, ThreadKind};

const KVM_RUN: u64 = 0xae80;
// For an error's text, and for who asks where a vCPU is.
const KVM_GET_REGS: u64 = 0x8090_ae81;
const KVM_GET_SREGS: u64 = 0x8138_ae83;
/// A device's interrupt, by a line or by a message.
const KVM_IRQ_LINE: u64 = 0x4008_ae61;
const KVM_SIGNAL_MSI: u64 = 0x4020_aea5;
/// Makes the guest's kernel say where it is.
const KVM_NMI: u64 = 0xae9a;
/// Says to the guest that it was stopped.
const KVM_KVMCLOCK_CTRL: u64 = 0xaead;

/// linux/if_tun.h.
const TUNSETOFFLOAD: u64 = 0x4004_54d0;

/// What every thread needs: memory, locks, its own end, the way back from a signal, time.
const EVERY: &[c_long] = &[
    SYS_read,
    SYS_write,
    SYS_close,
    SYS_futex,
    SYS_mmap,
    SYS_munmap,
    SYS_mremap,
    SYS_madvise,
    SYS_brk,
    SYS_mprotect,
    SYS_rt_sigreturn,
    SYS_rt_sigprocmask,
    SYS_sigaltstack,
    SYS_sched_yield,
    SYS_exit,
    SYS_exit_group,
    SYS_clock_gettime,
    SYS_restart_syscall,
    SYS_gettid,
    SYS_getpid,
    SYS_tgkill,
    SYS_rseq,
    SYS_set_robust_list,
    // std asks whether a descriptor is open before it closes it, in debug builds.
    SYS_fcntl,
];

/// The serial port asks whether standard error would block.
const VCPU: &[c_long] = &[SYS_ppoll];

/// A device's event loop.
const EVENT_LOOP: &[c_long] = &[SYS_epoll_wait, SYS_epoll_pwait, SYS_epoll_ctl, SYS_epoll_create1];

/// Read-only files, by descriptor.
const NINEP: &[c_long] = &[
    SYS_openat,
    SYS_openat2,
    SYS_fstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_getdents64,
    SYS_readlinkat,
    SYS_fstatfs,
    SYS_pread64,
    SYS_preadv,
    SYS_preadv2,
    SYS_lseek,
    SYS_fcntl,
    SYS_dup,
    SYS_getrandom,
];

/// What a writable grant needs beside that: files and their attributes are changed by descriptor, names in
/// an open directory.
const NINEP_CHANGE: &[c_long] = &[
    SYS_pwrite64,
    SYS_pwritev,
    SYS_ftruncate,
    SYS_fsync,
    SYS_fdatasync,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchownat,
    SYS_utimensat,
    SYS_mkdirat,
    SYS_mknodat,
    SYS_symlinkat,
    SYS_linkat,
    SYS_renameat2,
    SYS_unlinkat,
    SYS_fgetxattr,
    SYS_fsetxattr,
    SYS_flistxattr,
    SYS_fremovexattr,
];

/// Unix sockets.
const VSOCK: &[c_long] = &[
    SYS_socketpair,
    SYS_accept4,
    SYS_sendmsg,
    SYS_recvmsg,
    SYS_sendto,
    SYS_recvfrom,
    SYS_shutdown,
    SYS_getsockopt,
    SYS_fcntl,
    SYS_ioctl,
    SYS_getrandom,
];

/// A tap, or a stream, and the resolver's socket: descriptors that are there already.
const NETWORK: &[c_long] =
    &[SYS_readv, SYS_writev, SYS_sendmsg, SYS_sendto, SYS_recvfrom, SYS_getrandom, SYS_ioctl];

/// Sockets to name servers, and the list of this host's addresses.
const RESOLVER: &[c_long] = &[
    SYS_socket,
    SYS_bind,
    SYS_connect,
    SYS_sendto,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_setsockopt,
    SYS_poll,
    SYS_ppoll,
    SYS_getrandom,
    // The list of name servers, when it has changed.
    SYS_openat,
    SYS_fstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_lseek,
    SYS_sched_getaffinity,
    SYS_prctl,
];

/// Also what an event loop's table needs.
const ENTROPY: &[c_long] = &[SYS_getrandom];

/// One file, by descriptor. The ring was restricted to that file and to these operations when it was made.
const DISK: &[c_long] = &[
    // musl asks for the older ones when there are no flags.
    SYS_preadv,
    SYS_pwritev,
    SYS_preadv2,
    SYS_pwritev2,
    SYS_fdatasync,
    SYS_fallocate,
    SYS_io_uring_enter,
    // While the kernel has no memory for a request.
    SYS_clock_nanosleep,
    // The event loop's table.
    SYS_getrandom,
];

/// The command: streams, terminal, signals, the end of the VM and of its run-time directory. `prctl` and
/// `sched_getaffinity` are glibc's, at a thread's end.
const CONTROL: &[c_long] = &[
    SYS_poll,
    SYS_ppoll,
    SYS_writev,
    SYS_accept4,
    SYS_shutdown,
    SYS_sendto,
    // A stream's socket, to the process that has asked for the command.
    SYS_sendmsg,
    SYS_recvfrom,
    // A connection of the guest's, from the vsock device.
    SYS_recvmsg,
    SYS_getsockopt,
    SYS_ioctl,
    SYS_unlinkat,
    // The end of its servers' processes: by their descriptors, and of no other.
    SYS_pidfd_send_signal,
    SYS_wait4,
    SYS_sched_getaffinity,
    SYS_prctl,
];

/// The log of a detached VM, and the end of its process. Files and folders are Landlock's to choose.
const KEEPER: &[c_long] = &[
    SYS_poll,
    SYS_ppoll,
    SYS_openat,
    SYS_fstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_lseek,
    SYS_getdents64,
    SYS_renameat,
    SYS_renameat2,
    // A folder that is removed with what is in it.
    SYS_unlink,
    SYS_unlinkat,
    SYS_rmdir,
    SYS_dup2,
    SYS_dup3,
    // By a descriptor: of the VM's process, and no other.
    SYS_pidfd_send_signal,
    SYS_wait4,
    SYS_writev,
];

/// What the command asks of a terminal: its modes, in both forms of the structure, and its size.
const TERMINAL: &[u64] =
    &[TCGETS, TCSETS, TCSETSW, TCSETSF, TCGETS2, TCSETS2, TCSETSW2, TCSETSF2, TIOCGWINSZ, FIONBIO];

pub(crate) fn install(kind: ThreadKind) -> Result<(), Error> {
    apply_filter(&filter::program(&rules(kind))).map_err(|e| Error::Seccomp(Box::new(e)))
}

fn rules(kind: ThreadKind) -> BTreeMap<u32, Rule> {
    let lists: &[&[c_long]] = match kind {
        ThreadKind::Vcpu => &[EVERY, VCPU],
        ThreadKind::NineP => &[EVERY, EVENT_LOOP, NINEP],
        ThreadKind::WritableNineP => &[EVERY, EVENT_LOOP, NINEP, NINEP_CHANGE],
        ThreadKind::Vsock => &[EVERY, EVENT_LOOP, VSOCK],
        ThreadKind::Network => &[EVERY, EVENT_LOOP, NETWORK],
        ThreadKind::Resolver => &[EVERY, RESOLVER],
        ThreadKind::Entropy => &[EVERY, EVENT_LOOP, ENTROPY],
        ThreadKind::Balloon => &[EVERY, EVENT_LOOP, ENTROPY],
        ThreadKind::Disk => &[EVERY, EVENT_LOOP, DISK],
        ThreadKind::Control => &[EVERY, CONTROL],
        ThreadKind::Keeper => &[EVERY, KEEPER],
    };
    let calls = lists.iter().flat_map(|list| list.iter());
    let mut rules: BTreeMap<u32, Rule> = calls.map(|&call| (call as u32, Rule::Always)).collect();
    // No code that was not there when the thread started.
    let executable = Rule::Without(2, PROT_EXEC as u32);
    rules.insert(SYS_mmap as u32, executable.clone());
    rules.insert(SYS_mprotect as u32, executable);
    let mut only = |call: c_long, argument: u8, values: &[u64]| {
        let values = values.iter().map(|&value| value as u32).collect();
        rules.insert(call as u32, Rule::Argument(argument, values));
    };
    // Its own threads, not another process's.
    only(SYS_tgkill, 0, &[u64::from(std::process::id())]);
    match kind {
        ThreadKind::Vcpu => {
            // A device that the guest sets up wrongly interrupts from here.
            let calls = [
                KVM_RUN,
                KVM_GET_REGS,
                KVM_GET_SREGS,
                KVM_NMI,
                KVM_KVMCLOCK_CTRL,
                KVM_IRQ_LINE,
                KVM_SIGNAL_MSI,
            ];
            only(SYS_ioctl, 1, &calls);
        }
        ThreadKind::Vsock => {
            only(SYS_ioctl, 1, &[FIONBIO, KVM_IRQ_LINE, KVM_SIGNAL_MSI]);
            // A connection and its other side, which is handed over. A stream can't send to a name; datagrams could.
            let stream = (SOCK_STREAM | SOCK_CLOEXEC) as u32;
            rules.insert(SYS_socketpair as u32, Rule::Both((0, AF_UNIX as u32), (1, stream)));
        }
        // Not TIOCSTI, which types for the user.
        ThreadKind::Control => only(SYS_ioctl, 1, TERMINAL),
        // Which segments a tap may give to the guest.
        ThreadKind::Network => only(SYS_ioctl, 1, &[TUNSETOFFLOAD, KVM_IRQ_LINE, KVM_SIGNAL_MSI]),
        ThreadKind::Resolver => {
            only(SYS_socket, 0, &[AF_INET as u64, AF_INET6 as u64, AF_NETLINK as u64]);
            let writing = (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC) as u32;
            rules.insert(SYS_openat as u32, Rule::Without(2, writing));
        }
        ThreadKind::NineP => {
            only(SYS_ioctl, 1, &[KVM_IRQ_LINE, KVM_SIGNAL_MSI]);
            // `openat2` passes its flags in memory, out of a filter's reach.
            let writing = (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC) as u32;
            rules.insert(SYS_openat as u32, Rule::Without(2, writing));
        }
        ThreadKind::WritableNineP => {
            only(SYS_ioctl, 1, &[KVM_IRQ_LINE, KVM_SIGNAL_MSI]);
            // Regular files and FIFOs only. No device whatever the server does, as root too.
            rules.insert(SYS_mknodat as u32, Rule::Without(2, S_IFCHR));
        }
        // To submit, and to wait; not to poke a kernel's polling thread, of which there is none.
        ThreadKind::Disk => {
            only(SYS_ioctl, 1, &[KVM_IRQ_LINE, KVM_SIGNAL_MSI]);
            only(SYS_io_uring_enter, 3, &[0, 1]);
        }
        ThreadKind::Entropy | ThreadKind::Balloon => only(SYS_ioctl, 1, &[KVM_IRQ_LINE, KVM_SIGNAL_MSI]),
        ThreadKind::Keeper => {}
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_fits_a_filter() {
        for kind in KINDS {
            assert!(filter::program(&rules(kind)).len() < 500, "{kind:?}");
        }
    }

    const KINDS: [ThreadKind; 11] = [
        ThreadKind::Vcpu,
        ThreadKind::NineP,
        ThreadKind::WritableNineP,
        ThreadKind::Vsock,
        ThreadKind::Network,
        ThreadKind::Resolver,
        ThreadKind::Entropy,
        ThreadKind::Balloon,
        ThreadKind::Disk,
        ThreadKind::Control,
        ThreadKind::Keeper,
    ];

    /// `docs/threat-model.md` states the numbers that this prints.
    #[test]
    fn few_system_calls_are_allowed() {
        let mut all = std::collections::BTreeSet::new();
        for kind in KINDS {
            let calls: Vec<_> = rules(kind).into_keys().collect();
            println!("{kind:?}: {}", calls.len());
            all.extend(calls);
        }
        println!("in all: {}", all.len());
        assert!(all.len() < 110, "{}", all.len());
    }

    #[test]
    fn a_server_of_read_only_grants_may_change_nothing() {
        let rules = rules(ThreadKind::NineP);
        for call in NINEP_CHANGE {
            assert!(!rules.contains_key(&(*call as u32)), "{call}");
        }
        assert!(matches!(rules.get(&(SYS_openat as u32)), Some(Rule::Without(2, _))));
    }

    #[test]
    fn no_thread_may_start_a_program_or_trace_another() {
        for list in
            [EVERY, EVENT_LOOP, NINEP, NINEP_CHANGE, VSOCK, NETWORK, RESOLVER, ENTROPY, DISK, CONTROL, KEEPER]
        {
            for forbidden in [
                SYS_execve,
                SYS_execveat,
                SYS_ptrace,
                SYS_mount,
                SYS_bpf,
                SYS_userfaultfd,
                SYS_process_vm_readv,
            ] {
                assert!(!list.contains(&forbidden));
            }
        }
    }
}
