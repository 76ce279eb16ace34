//! A command: what the host asks to run, made into a process and its streams.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_proto::{Hello, Run, Stdio, Step, Stream, TerminalSize, User};
use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::WaitOptions;
use rustix::pty::OpenptFlags;
use rustix::termios::{InputModes, OptionalActions, Winsize};

use super::Dial;
use crate::files;
use crate::search;
use crate::spawn::{self, NotStarted, Process, Program};

/// A pipe's size: as much as an unprivileged user may have, so that one turn moves many pages.
const PIPE_SIZE: usize = 1 << 20;

/// A command that runs.
pub(super) struct Command {
    pub(super) process: Process,
}

/// A stream, its connection to the host, and its end here.
type StreamEnds = (Stream, OwnedFd, OwnedFd);

/// Starts what `run` asks for, and opens its streams' connections.
pub(super) fn start(
    run: &Run,
    user: &User,
    dial: &Dial<'_>,
) -> Result<(Command, Vec<StreamEnds>), NotStarted> {
    let program = program(run, user)?;
    let ends = match run.stdio {
        Stdio::Terminal(size) => terminal(size, program.uid),
        Stdio::Pipes => pipes(),
    };
    let (ours, theirs) = ends.map_err(NotStarted::at(Step::SetUp))?;
    let is_terminal = matches!(run.stdio, Stdio::Terminal(_));
    let process = spawn::spawn(&program, theirs.each_ref().map(AsFd::as_fd), is_terminal)?;
    // With a copy of these open here, the end of a stream would never be seen.
    drop(theirs);
    let command = Command { process };
    match connect(run, ours, dial) {
        Ok(streams) => Ok((command, streams)),
        Err(e) => {
            command.kill_and_reap();
            Err(NotStarted { step: Step::SetUp, errno: e })
        }
    }
}

/// What `run` means in this guest.
pub(super) fn program(run: &Run, user: &User) -> Result<Program, NotStarted> {
    let invalid = |_| NotStarted { step: Step::Execute, errno: Errno::INVAL };
    let strings = |bytes: &[Vec<u8>]| bytes.iter().map(|one| CString::new(one.as_slice())).collect();
    let (files, argv) = match run.argv.first() {
        Some(name) => (search::candidates(name, &run.env), strings(&run.argv)),
        None => login_shell(&user.shell),
    };
    let root = run.root || user.uid == 0;
    let home = if root { files::ROOT_HOME } else { user.home.as_str() };
    let cwd = run.cwd.as_deref().unwrap_or(home.as_bytes());
    Ok(Program {
        files: files.map_err(invalid)?,
        argv: argv.map_err(invalid)?,
        env: strings(&run.env).map_err(invalid)?,
        cwd: CString::new(cwd)
            .map_err(|_| NotStarted { step: Step::WorkingDirectory, errno: Errno::INVAL })?,
        uid: if root { 0 } else { user.uid },
        gid: if root { 0 } else { user.gid },
    })
}

type Strings = Result<Vec<CString>, std::ffi::NulError>;

/// The shell, called by its last name with a dash before it, which makes it a login shell. A shell that the
/// guest does not have is replaced by `/bin/sh`.
fn login_shell(shell: &str) -> (Strings, Strings) {
    let name = shell.rsplit('/').next().unwrap_or(shell);
    let files = [shell, "/bin/sh"].into_iter().map(CString::new).collect();
    (files, [CString::new(format!("-{name}"))].into_iter().collect())
}

/// The agent's ends of a command's streams, and the command's descriptors 0 to 2.
type Ends = (Vec<(Stream, OwnedFd)>, [OwnedFd; 3]);

fn pipes() -> Result<Ends, Errno> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let ((stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr)) = (pipe()?, pipe()?, pipe()?);
    for ours in [&to_stdin, &from_stdout] {
        // Refused to those who have used their share up; the default size works too.
        let _ = rustix::pipe::fcntl_setpipe_size(ours, PIPE_SIZE);
    }
    let ours = vec![(Stream::Stdin, to_stdin), (Stream::Stdout, from_stdout), (Stream::Stderr, from_stderr)];
    // The command's ends stay blocking ones: each end has its own flag.
    ours.iter().try_for_each(|(_, end)| rustix::io::ioctl_fionbio(end, true))?;
    Ok((ours, [stdin, stdout, stderr]))
}

fn terminal(size: TerminalSize, uid: u32) -> Result<Ends, Errno> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    resize(master.as_fd(), size)?;
    // So that erasing in a line takes away a character and not a byte.
    let mut modes = rustix::termios::tcgetattr(&master)?;
    modes.input_modes |= InputModes::IUTF8;
    rustix::termios::tcsetattr(&master, OptionalActions::Now, &modes)?;
    if rustix::process::geteuid().is_root() {
        rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), Some(Gid::from_raw(files::TTY_GROUP)))?;
        rustix::fs::fchmod(&slave, Mode::RUSR | Mode::WUSR | Mode::WGRP)?;
    }
    rustix::io::ioctl_fionbio(&master, true)?;
    let again = || rustix::io::fcntl_dupfd_cloexec(&slave, 0);
    let (second, third) = (again()?, again()?);
    Ok((vec![(Stream::Terminal, master)], [slave, second, third]))
}

/// Opens a connection for each stream, and says whose it is.
fn connect(run: &Run, ours: Vec<(Stream, OwnedFd)>, dial: &Dial<'_>) -> Result<Vec<StreamEnds>, Errno> {
    let errno = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    let sockets = dial(ours.len()).map_err(errno)?;
    ours.into_iter()
        .zip(sockets)
        .map(|((stream, local), socket)| {
            let mut socket = File::from(socket);
            agent_proto::write_frame(&mut socket, &Hello::Stream { command: run.command, stream })
                .map_err(errno)?;
            let socket = OwnedFd::from(socket);
            rustix::io::ioctl_fionbio(&socket, true)?;
            Ok((stream, socket, local))
        })
        .collect()
}

/// Gives a terminal a size; its foreground process group gets SIGWINCH if that is a change.
pub(super) fn resize(terminal: BorrowedFd<'_>, size: TerminalSize) -> Result<(), Errno> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}

impl Command {
    /// Sends a signal to the command's process group, or, for those that a terminal's keys and size send, to
    /// the group in the terminal's foreground.
    pub(super) fn signal(&self, terminal: Option<BorrowedFd<'_>>, signal: u8) -> Result<(), Errno> {
        let signal = libc::c_int::from(signal);
        let of_terminal = matches!(signal, libc::SIGINT | libc::SIGQUIT | libc::SIGTSTP | libc::SIGWINCH);
        let foreground = terminal.filter(|_| of_terminal).and_then(|t| rustix::termios::tcgetpgrp(t).ok());
        let group = foreground.unwrap_or(self.process.pid).as_raw_nonzero().get();
        // SAFETY: kill() takes numbers. The group's is positive, and so names a group and not everybody.
        if unsafe { libc::kill(-group, signal) } == 0 { Ok(()) } else { Err(crate::kernel::last_errno()) }
    }

    /// Ends a command that can't be served, with all that it has started.
    pub(super) fn kill_and_reap(self) {
        let pid = self.process.pid;
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
    }
}
