//! A terminal for a command under test, and the person at it.

use std::{
    fs::File,
    io::{Read, Write},
    process::{Child, Command},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};

/// For how long nothing may come while something is waited for.
const SILENCE: Timespec = Timespec { tv_sec: 120, tv_nsec: 0 };

/// A terminal of 33 rows and 91 columns.
pub struct Pty {
    master: File,
    slave: File,
    before: Termios,
    seen: Vec<u8>,
}

impl Default for Pty {
    fn default() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        tcsetwinsize(&master, Winsize { ws_row: 33, ws_col: 91, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let before = tcgetattr(&slave).unwrap();
        Self { master: master.into(), slave, before, seen: Vec::new() }
    }
}

impl Pty {
    /// Starts a command whose streams are this terminal.
    pub fn start(&self, mut command: Command) -> Child {
        let end = || self.slave.try_clone().unwrap();
        command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }

    /// Waits until there is such a text on it, and returns all that was. Fails with that when nothing comes any more.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let mut chunk = [0; 1000];
        loop {
            let seen = String::from_utf8_lossy(&self.seen);
            if seen.contains(text) {
                return seen.into_owned();
            }
            let mut readable = [PollFd::new(&self.master, PollFlags::IN)];
            let count = poll(&mut readable, Some(&SILENCE)).unwrap();
            assert!(count > 0, "there is no {text:?} on the terminal, but {seen:?}");
            let count = self.master.read(&mut chunk).unwrap();
            self.seen.extend(&chunk[..count]);
        }
    }

    /// Fails unless its modes are those that it had at first.
    #[track_caller]
    pub fn is_as_it_was(&self) {
        let after = tcgetattr(&self.slave).unwrap();
        assert_eq!(self.before.input_modes, after.input_modes);
        assert_eq!(self.before.output_modes, after.output_modes);
        assert_eq!(self.before.control_modes, after.control_modes);
        assert_eq!(self.before.local_modes, after.local_modes);
    }

    /// Whether keys go to the program as they are pressed, and none of them is a signal or is shown.
    pub fn is_raw(&self) -> bool {
        use rustix::termios::LocalModes;
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHO)
    }
}
