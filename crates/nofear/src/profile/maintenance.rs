//! What is done to a profile's disk in a VM of its own, since nothing on the host reads what a guest wrote.
//!
//! The VM has the host's software and the disk, which it mounts only as far as its one program does. What that
//! program prints is the guest's, and shown as such.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use agent_proto::{
    Change, ChangeKind, CommandId, Configure, End, FileKind, MAX_CHANGE, Run, Stdio, TOOL, TOOL_DIFF,
};
use anyhow::{Context, bail};
use rustix::net::Shutdown;
use vmm::ThreadKind;

use super::image::human;
use super::store::Profile;
use crate::runtime_dir::RuntimeDir;
use crate::session::Ending;
use crate::streams::StandardStreams;
use crate::text::{escaped, printable};
use crate::user;
use crate::vm::{self, Conduct};

/// Memory of such a VM: fsck of a large disk needs some.
const MEMORY: u64 = 512 << 20;

/// The longest line of a guest's program that is shown, in bytes.
const MAX_LINE: u64 = 1000;

/// The exit status for a file system that is not clean.
const UNCLEAN: u8 = 1;

/// Checks the file system, and repairs what can be without loss, or everything. Returns the exit status.
pub fn check(profile: &Profile, repair: bool) -> anyhow::Result<u8> {
    if profile.is_fresh() {
        let _ = writeln!(io::stdout(), "the profile {} has not been used yet", profile.name);
        return Ok(0);
    }
    let how = if repair { "-y" } else { "-p" };
    let argv = ["e2fsck", "-f", how, "/dev/vda"];
    let (ending, ()) = in_vm(profile, &argv, show_lines)?;
    let name = &profile.name;
    // e2fsck(8): bit 0, errors corrected; bit 1, and reboot, which is for mounted ones.
    let (status, text) = match ending {
        Ending::Command(End::Exited(0)) => (0, format!("the profile {name} is clean")),
        Ending::Command(End::Exited(1..=3)) => {
            (0, format!("the profile {name} was repaired, and is clean now"))
        }
        Ending::Command(End::Exited(status @ 4..=7)) if !repair => (
            UNCLEAN,
            format!(
                "the profile {name} is not clean (e2fsck: {status}): take a snapshot, then repair all of it with \
                 --repair, which may lose files"
            ),
        ),
        Ending::NotStarted { .. } => bail!("there is no e2fsck in the VM: install the package e2fsprogs"),
        other => bail!("the profile {name} could not be checked ({})", describe(other)),
    };
    // Not by `println`, which ends the program when nobody reads.
    let _ = writeln!(io::stdout(), "{text}");
    Ok(status)
}

/// Prints what the profile changed against this machine's files. Returns the exit status.
pub fn diff(profile: &Profile) -> anyhow::Result<u8> {
    if profile.is_fresh() {
        return Ok(0);
    }
    let (ending, printed) = in_vm(profile, &[TOOL, TOOL_DIFF], show_changes)?;
    match ending {
        Ending::Command(End::Exited(0)) => printed.map(|()| 0),
        other => bail!("the profile {} could not be read ({})", profile.name, describe(other)),
    }
}

fn describe(ending: Ending) -> String {
    match ending {
        Ending::Command(End::Exited(status)) => format!("exit status {status}"),
        Ending::Command(End::Signaled(signal)) => format!("signal {signal}"),
        Ending::NotStarted { .. } => "it could not be started".into(),
        Ending::Signal(signal) => format!("ended by signal {}", signal.as_raw()),
    }
}

/// Runs a program as guest root with the profile's disk, and `read`s what it prints. What it prints on the standard
/// error is shown.
fn in_vm<T: Send + 'static>(
    profile: &Profile,
    argv: &[&str],
    read: fn(UnixStream) -> T,
) -> anyhow::Result<(Ending, T)> {
    let runtime_dir = RuntimeDir::create(None)?;
    let mut config = vm::config(None)?;
    config.memory = MEMORY;
    config.vcpus = 1;
    config.disks = vec![super::disk(profile)];
    let user = user::current();
    let command = Run {
        command: CommandId(1),
        argv: argv.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        env: vec![b"PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_vec(), b"LC_ALL=C".to_vec()],
        cwd: Some(b"/".to_vec()),
        root: true,
        stdio: Stdio::Pipes,
    };
    let configure = Configure {
        hostname: "nofear".into(),
        user,
        shares: Vec::new(),
        time: vm::now(),
        machine_id: vm::random_id()?,
        profile: None,
        network: None,
        published: Vec::new(),
    };
    let null = File::open("/dev/null").context("open /dev/null")?;
    let (output, from_output) = UnixStream::pair().context("make a socket pair")?;
    let (error, from_error) = UnixStream::pair().context("make a socket pair")?;
    let mut readers = None;
    // The pumps' threads live as long as the process.
    let (output, error) = (leak(output), leak(error));
    let streams = StandardStreams { input: leak(null).as_fd(), output: output.as_fd(), error: error.as_fd() };
    let ending = vm::conduct(Conduct {
        config,
        network: None,
        published: None,
        runtime_dir: &runtime_dir,
        streams,
        terminal: None,
        configure,
        command,
        gui: None,
        status: None,
        reporter: None,
        reach: runtime_dir.reach()?,
        require_confinement: false,
        meanwhile: Some(Box::new(|| {
            readers = Some((reader("output", from_output, read)?, reader("error", from_error, show_lines)?));
            Ok(())
        })),
    });
    for end in [output, error] {
        rustix::net::shutdown(end, Shutdown::Write).context("end the output")?;
    }
    let ending = ending?;
    let (reader, error_reader) = readers.context("the VM has ended before it began")?;
    let read = reader.join().map_err(|_| anyhow::anyhow!("a thread of this program failed"));
    let _ = error_reader.join();
    Ok((ending, read?))
}

fn leak<T: Into<OwnedFd>>(descriptor: T) -> &'static OwnedFd {
    Box::leak(Box::new(descriptor.into()))
}

/// A thread that reads what the guest sends, confined like all that do.
fn reader<T: Send + 'static>(
    name: &str,
    from: UnixStream,
    read: fn(UnixStream) -> T,
) -> anyhow::Result<thread::JoinHandle<T>> {
    let confined = move || {
        if let Err(e) = vmm::confine_thread(ThreadKind::Control) {
            log::warn!("confine a thread: {e}");
        }
        read(from)
    };
    thread::Builder::new().name(name.into()).spawn(confined).context("start a thread")
}

/// Shows the lines of a guest's program.
fn show_lines(from: UnixStream) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned();
        // Nobody may be there to read it.
        let _ = writeln!(io::stdout(), "  {}", printable(&text, 500));
    }
}

/// Shows the changes of a profile, and how many there are.
fn show_changes(from: UnixStream) -> anyhow::Result<()> {
    let mut from = BufReader::new(from);
    let mut out = io::stdout().lock();
    let mut counts = [0_u64; 3];
    while let Some(change) = agent_proto::read_frame::<Change>(&mut from, MAX_CHANGE)
        .context("read the changes that the VM sends")?
    {
        counts[change.kind as usize] += 1;
        // Nobody may be there to read it; the rest is read all the same, so that the guest gets to its end.
        let _ = out.write_all(line(&change).as_bytes());
    }
    let [added, changed, deleted] = counts;
    let _ = writeln!(out, "{added} added, {changed} changed, {deleted} deleted");
    Ok(())
}

/// A change in one line.
fn line(change: &Change) -> String {
    let kind = match change.kind {
        ChangeKind::Added => "added",
        ChangeKind::Changed => "changed",
        ChangeKind::Deleted => "deleted",
    };
    let (size, mark) = match change.file {
        FileKind::Regular => (human(change.size), ""),
        FileKind::Directory => ("-".into(), "/"),
        FileKind::Symlink => ("-".into(), "@"),
        FileKind::Special => ("-".into(), "?"),
    };
    format!("{kind:<8} {size:>12}  {}{mark}\n", escaped(&change.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_harmless_line() {
        let change = |kind, file, size, path: &[u8]| line(&Change { kind, file, size, path: path.to_vec() });
        assert_eq!(
            change(ChangeKind::Added, FileKind::Regular, 3 << 20, b"/home/ann/x"),
            "added        3.00 MiB  /home/ann/x\n"
        );
        assert_eq!(
            change(ChangeKind::Deleted, FileKind::Directory, 0, b"/opt/a\x1b]0;\n\xff"),
            "deleted             -  /opt/a\\x1b]0;\\x0a\\xff/\n"
        );
    }
}
