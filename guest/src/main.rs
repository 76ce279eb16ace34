//! `/init` of the guest.
//!
//! A C `main`, since Rust's start code insists on descriptors 0 to 2 or a `/dev/null` to fill them with, and
//! aborts in an initramfs without a console, which has neither.
#![no_main]

use std::error::Error;
use std::ffi::{c_char, c_int};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use agent_proto::{Configure, FromAgent, HOST_PORT, Hello, MAX_TO_AGENT, OPENER_PROGRAM, ToAgent, VERSION};
use nofear_guest::agent::{self, Orphans, Stop, Ways};
use nofear_guest::{Failure, boot, kernel, modules, tool, vsock};

/// The start of the program. The first process must not end, so what it returns only matters when the
/// machine can't be switched off: the kernel then panics, which the VMM notices.
// SAFETY: the C runtime calls this symbol with these arguments, once; there is no other `main`.
#[unsafe(no_mangle)]
pub extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    if std::process::id() != 1 {
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_default();
        if Path::new(&name).file_name().is_some_and(|name| name == OPENER_PROGRAM) {
            return tool::open_url(arguments.next().as_deref());
        }
        // A tool of guest root. Without its name: mounting over a running system, or switching it off, is
        // nobody's wish.
        return tool::run(arguments.next().as_deref());
    }
    match live() {
        Ok(Stop::Asked) => {}
        Ok(Stop::HostGone) => kernel::report("the host has gone"),
        Err(e) => {
            let cause = e.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            kernel::report(&format!("{e}{cause}"));
        }
    }
    kernel::power_off();
    1
}

fn live() -> Result<Stop, Failure> {
    kernel::reserve_standard_streams().map_err(Failure::of("reserve descriptors"))?;
    kernel::block_signals();
    kernel::raise_open_files().map_err(Failure::of("raise the limit of open files"))?;
    modules::load();
    let mut control = greet()?;
    boot::software()?;
    let configure = configuration(&mut control)?;
    let mut root = boot::root(&configure)?;
    for failure in root.failures.drain(..).chain(boot::finish(&configure)) {
        let cause = failure.source;
        let warning = FromAgent::Warning(format!("{}: {cause}", failure.attempt));
        agent_proto::write_frame(&mut control, &warning).map_err(Failure::of("warn the host"))?;
    }
    let dial = |count| vsock::dial(HOST_PORT, count);
    let ways = Ways { dial: &dial, listen: &vsock::listen };
    let stop =
        agent::serve(OwnedFd::from(control), ways, &configure.user, &configure.published, Orphans::Reaped);
    kernel::end_processes();
    root.settle();
    stop
}

/// Opens the control connection, and lets the host prepare its answer.
fn greet() -> Result<File, Failure> {
    let connect = || -> io::Result<File> {
        let socket = vsock::dial(HOST_PORT, 1)?.pop().ok_or(io::ErrorKind::NotConnected)?;
        rustix::io::ioctl_fionbio(&socket, false)?;
        let mut control = File::from(socket);
        agent_proto::write_frame(&mut control, &Hello::Control { version: VERSION })?;
        Ok(control)
    };
    connect().map_err(Failure::of(format!("connect to the host's vsock port {HOST_PORT}")))
}

/// The first message of the host.
fn configuration(control: &mut File) -> Result<Configure, Failure> {
    let attempt = "read the configuration from the host";
    match agent_proto::read_frame(control, MAX_TO_AGENT).map_err(Failure::of(attempt))? {
        Some(ToAgent::Configure(configure)) => Ok(configure),
        Some(_) => Err(Failure::of(attempt)(io::Error::other("it sent something else first"))),
        None => Err(Failure::of(attempt)(io::Error::from(io::ErrorKind::UnexpectedEof))),
    }
}
