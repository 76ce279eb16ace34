//! `nofear console`: this terminal becomes the one at the guest's serial port.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, bail};
use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use super::client::Vm;
use super::protocol::{Ask, Event};
use crate::exit;
use crate::signals::Signals;
use crate::terminal::{self, Terminal};

/// Ctrl-], as telnet and virsh have it.
const ESCAPE: u8 = 0x1d;

const CHUNK: usize = 4 << 10;

/// Options of `console`.
#[derive(Debug, Args)]
pub struct ConsoleArgs {
    /// The VM: its name, as 'nofear ps' shows it, or its profile's
    vm: String,
}

/// Does it, and returns the exit status.
pub fn run(args: &ConsoleArgs) -> u8 {
    terminal::restore_on_panic();
    let result = connect(args);
    terminal::restore();
    result.unwrap_or_else(|e| {
        log::error!("{e:#}");
        exit::FAILED
    })
}

fn connect(args: &ConsoleArgs) -> anyhow::Result<u8> {
    let vm = Vm::open(&args.vm)?;
    let mut channel = vm.ask(Ask::Console)?;
    match channel.next()? {
        Some(Event::Console) => {}
        Some(Event::Error { text }) => bail!("the VM {} refused: {text}", vm.id),
        other => bail!("the VM {} answered {other:?}", vm.id),
    }
    channel.wait_for_ever()?;
    let signals = Signals::block()?;
    let terminal = Terminal::of_standard_streams();
    // It carries a guest's bytes and needs nothing else, as in `nofear run`.
    vmm::confine_thread(vmm::ThreadKind::Control).context("confine a thread")?;
    if let Some(terminal) = &terminal {
        eprintln!("nofear: this is the console of the VM {}; Ctrl-] leaves it", vm.id);
        terminal.enter_raw_mode()?;
    }
    let (socket, buffered) = channel.into_socket();
    write_all(rustix::stdio::stdout(), &buffered).context("write the standard output")?;
    let status = carry(&socket, &signals, terminal.as_ref())?;
    if terminal.is_some() {
        terminal::restore();
        eprintln!();
    }
    Ok(status)
}

/// Moves bytes both ways until the VM ends, the user leaves, or a signal comes.
fn carry(socket: &UnixStream, signals: &Signals, terminal: Option<&Terminal>) -> anyhow::Result<u8> {
    let mut buffer = vec![0; CHUNK];
    let mut has_input = true;
    loop {
        let stdin = rustix::stdio::stdin();
        let input = if has_input { PollFlags::IN } else { PollFlags::empty() };
        let mut polled = [
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            PollFd::new(socket, PollFlags::IN),
            PollFd::from_borrowed_fd(stdin, input),
        ];
        // Of an input that has ended it is told for ever.
        let count = if has_input { 3 } else { 2 };
        match poll(&mut polled[..count], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e).context("wait for the console"),
        }
        let [_, from_vm, from_user] = polled.map(|polled| !polled.revents().is_empty());
        while let Some(signal) = signals.next().context("read signals")? {
            match (signal, terminal) {
                (Signal::CONT, Some(terminal)) => terminal.enter_raw_mode()?,
                (Signal::WINCH | Signal::CONT, _) => {}
                (signal, _) => return Ok(u8::try_from(128 + signal.as_raw()).unwrap_or(exit::FAILED)),
            }
        }
        if from_vm {
            match rustix::io::read(socket, &mut buffer) {
                Ok(0) | Err(Errno::CONNRESET) => return Ok(0),
                Ok(count) => {
                    let written = write_all(rustix::stdio::stdout(), &buffer[..count]);
                    if written == Err(Errno::PIPE) {
                        return Ok(0);
                    }
                    written.context("write the standard output")?;
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(e) => return Err(e).context("read the console"),
            }
        }
        if from_user && has_input {
            match rustix::io::read(stdin, &mut buffer) {
                Ok(0) => has_input = false,
                Ok(count) => {
                    let keys = &buffer[..count];
                    let end = terminal.and_then(|_| keys.iter().position(|&key| key == ESCAPE));
                    // The VM may have gone: that is seen next.
                    let _ = (&mut &*socket).write_all(&keys[..end.unwrap_or(count)]);
                    if end.is_some() {
                        return Ok(0);
                    }
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(e) => return Err(io::Error::from(e)).context("read the standard input"),
            }
        }
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None)?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
