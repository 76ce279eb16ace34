//! The kernel command line that every guest gets.

use crate::Console;

/// For any kernel; each with its reason.
const ALWAYS: &[&str] = &[
    // A panic ends the VM at once; nobody sits before it to read.
    "panic=-1",
    // An NMI comes from who wants to know where a guest hangs: it says so, and ends.
    "unknown_nmi_panic",
    // The TSC is KVM's: it needs no watchdog, and the timers no check against a PIT that is not there.
    "tsc=reliable",
    "no_timer_check",
    // One vCPU or many, the lock prefixes stay: patching them out costs more than they do.
    "noreplace-smp",
    // RDRAND seeds the pool: no program waits for entropy.
    "random.trust_cpu=on",
    // What a stock kernel would look for, and a VM does not have.
    "pci=off",
    "i8042.noaux",
    "i8042.nokbd",
    "cryptomgr.notests",
];

/// The command line for a guest, with what the configuration adds at its end, where it wins.
pub(crate) fn command_line(console: Console, added: &str) -> String {
    let console = match console {
        // Kernel messages cost a hundred exits a line: only what is critical is written, through the port that
        // needs no driver; and an oops or a panic in full, since the kernel then writes all.
        Console::Ring => "quiet loglevel=3 earlyprintk=serial,ttyS0,115200,keep 8250.nr_uarts=0",
        Console::Stderr => "earlyprintk=serial,ttyS0,115200 console=ttyS0,115200",
    };
    let mut line = ALWAYS.join(" ");
    line.push(' ');
    line.push_str(console);
    if !added.is_empty() {
        line.push(' ');
        line.push_str(added);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_adds_comes_last() {
        let line = command_line(Console::Ring, "quiet=0 a=\"b c\"");
        assert!(line.ends_with(" quiet=0 a=\"b c\""));
        assert!(!command_line(Console::Stderr, "").ends_with(' '));
    }
}
