use std::os::fd::{AsFd, OwnedFd};

use rustix::pty::OpenptFlags;
use rustix::termios::{OutputModes, Winsize, tcsetwinsize};

use super::*;

/// Held by each test that uses a terminal, since the saved modes are the process's.
pub(crate) static ALONE: Mutex<()> = Mutex::new(());

/// The slave side of a new terminal, and the master that keeps it alive.
pub(crate) fn terminal() -> (Terminal, &'static OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
    let slave: &'static OwnedFd = Box::leak(Box::new(slave));
    (Terminal { descriptor: slave.as_fd() }, Box::leak(Box::new(master)))
}

#[test]
fn a_terminal_is_as_it_was_after_raw_mode_whoever_ends_it() {
    let _alone = ALONE.lock();
    let (terminal, master) = terminal();
    let descriptor = terminal.descriptor;
    let cooked = |descriptor| {
        let modes = tcgetattr(descriptor).unwrap();
        let canonical = modes.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        (canonical, modes.output_modes.contains(OutputModes::OPOST))
    };
    let before = cooked(descriptor);
    assert_eq!(before, (true, true));

    terminal.enter_raw_mode().unwrap();
    assert_eq!(cooked(descriptor), (false, false));
    // After a stop: the saved modes stay those of the very start.
    terminal.enter_raw_mode().unwrap();
    assert!(is_raw());
    // After the command's end Ctrl-C is for this program, and nothing else changes.
    terminal.allow_signals().unwrap();
    let modes = tcgetattr(descriptor).unwrap().local_modes;
    assert!(modes.contains(LocalModes::ISIG) && !modes.intersects(LocalModes::ICANON | LocalModes::ECHO));
    drop(terminal);
    assert_eq!(cooked(descriptor), before);
    assert!(!is_raw());

    let again = Terminal { descriptor };
    again.enter_raw_mode().unwrap();
    restore();
    assert_eq!(cooked(descriptor), before);
    // A second restoration changes nothing, and neither does what is for raw mode alone.
    again.allow_signals().unwrap();
    drop(again);
    assert_eq!(cooked(descriptor), before);

    let terminal = Terminal { descriptor };
    assert_eq!(terminal.size(), TerminalSize { rows: 24, columns: 80 });
    tcsetwinsize(master, Winsize { ws_row: 50, ws_col: 132, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    assert_eq!(terminal.size(), TerminalSize { rows: 50, columns: 132 });
}
