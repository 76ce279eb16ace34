//! The keeper of a detached VM: its parent, which takes down what it says, and how it ended.
//!
//! The guest chooses the bytes of the output. Nothing here reads them: they go from a pipe to a file of bounded size.
//! And before there are any this process is confined: it changes the VM's record, waits for the VM, and does nothing else.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, pidfd_send_signal, waitpid,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use vmm::{Reach, ThreadKind};

use super::record::Record;
use super::{Answer, Report};
use crate::{exit, json};

/// The most that is kept of what is said before the VM has a name, in bytes.
const MOST_EARLY: usize = 256 << 10;

/// The most bytes of a report.
const MOST_REPORT: usize = 16 << 20;

const CHUNK: usize = 64 << 10;

/// How often the pipes are read when the VM has ended; one of the usual size is empty after the first time.
const MOST_LAST_READS: usize = 64;

/// What the keeper reads, and who waits for it.
pub struct Pipes {
    /// The words of the VM's process.
    pub words: OwnedFd,
    /// The command's output.
    pub output: OwnedFd,
    /// What the VM's process reports.
    pub reports: OwnedFd,
    /// Who has asked for the VM.
    pub asker: OwnedFd,
}

struct Keeper {
    vm: Pid,
    /// In the place of the standard streams, once the command runs.
    nothing: File,
    is_confined: bool,
    /// Whether there is to be no VM where this process can't be confined.
    require: bool,
    words: Option<OwnedFd>,
    output: Option<OwnedFd>,
    reports: Option<OwnedFd>,
    /// Until the command runs.
    asker: Option<File>,
    record: Option<Record>,
    early: Vec<u8>,
    line: Vec<u8>,
}

/// Keeps a VM until it has ended; with `require`, only while it is confined itself.
pub fn keep(vm: Pid, pipes: Pipes, require: bool) -> anyhow::Result<()> {
    let Pipes { words, output, reports, asker } = pipes;
    for pipe in [&words, &output, &reports] {
        ioctl_fionbio(pipe, true).context("set a pipe up")?;
    }
    let ended = pidfd_open(vm, PidfdFlags::empty()).context("watch the process of the VM")?;
    let mut keeper = Keeper {
        vm,
        nothing: File::options().read(true).write(true).open("/dev/null").context("open /dev/null")?,
        is_confined: false,
        require,
        words: Some(words),
        output: Some(output),
        reports: Some(reports),
        asker: Some(asker.into()),
        record: None,
        early: Vec::new(),
        line: Vec::new(),
    };
    loop {
        let (is_over, is_asker_gone) = keeper.wait(&ended).context("wait for the VM")?;
        keeper.read();
        if is_over {
            // What it has said before its end is there, a pipe's worth each. Others may hold the pipes open, and go on.
            for _ in 0..MOST_LAST_READS {
                if !keeper.read() {
                    break;
                }
            }
            return keeper.end();
        }
        if is_asker_gone && keeper.asker.take().is_some() {
            // As a signal before the command runs: nobody knows of the VM.
            let _ = pidfd_send_signal(&ended, Signal::TERM);
        }
    }
}

impl Keeper {
    /// Whether the VM has ended, and whether who asked has.
    fn wait(&self, ended: &OwnedFd) -> Result<(bool, bool), Errno> {
        let nobody = PollFlags::empty();
        let mut polled = vec![PollFd::new(ended, PollFlags::IN)];
        // Of a pipe that nobody reads any more an error is told, unasked.
        polled.extend(self.asker.as_ref().map(|asker| PollFd::new(asker, nobody)));
        let pipes = [&self.words, &self.output, &self.reports];
        polled.extend(pipes.into_iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        let is = |at: usize| !polled[at].revents().is_empty();
        Ok((is(0), self.asker.is_some() && is(1)))
    }

    /// Takes what has come. `false`: that was nothing.
    fn read(&mut self) -> bool {
        let mut has_come = false;
        let mut buffer = vec![0; CHUNK];
        if let Some(bytes) = take(&mut self.words, &mut buffer) {
            has_come = true;
            if self.asker.is_some() {
                let _ = std::io::stderr().write_all(bytes);
            }
            self.write_down(bytes);
        }
        // What the VM is and that it runs comes before what is said in it.
        if let Some(bytes) = take(&mut self.reports, &mut buffer) {
            has_come = true;
            self.hear(bytes);
        }
        if let Some(bytes) = take(&mut self.output, &mut buffer) {
            has_come = true;
            self.write_down(bytes);
        }
        has_come
    }

    fn write_down(&mut self, bytes: &[u8]) {
        match &mut self.record {
            Some(record) => record.append(bytes),
            None => {
                let room = MOST_EARLY.saturating_sub(self.early.len()).min(bytes.len());
                self.early.extend_from_slice(&bytes[..room]);
            }
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        if self.line.len() + bytes.len() > MOST_REPORT {
            self.reports = None;
            return;
        }
        self.line.extend_from_slice(bytes);
        while let Some(end) = self.line.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                // Once: what comes when there is a guest may be its, if it owns the VM's process.
                Ok(Report::Is(status)) if !self.is_confined => {
                    match Record::create(status) {
                        Ok(mut record) => {
                            record.append(&std::mem::take(&mut self.early));
                            self.record = Some(record);
                        }
                        Err(e) => log::warn!("what the VM says is not kept: {e:#}"),
                    }
                    // There is no guest before that.
                    self.confine();
                }
                Ok(Report::Is(_)) => log::debug!("a second report of what the VM is"),
                Ok(Report::Runs) => self.let_go(),
                Err(e) => log::debug!("a report: {e}"),
            }
        }
    }

    fn confine(&mut self) {
        self.is_confined = true;
        let reach = self.record.as_ref().map_or_else(|| Ok(Reach::nothing()?), Record::reach);
        let confined = reach.and_then(|reach| Ok(vmm::confine_thread_to(ThreadKind::Keeper, reach)?));
        match confined {
            Ok(()) => {}
            Err(e) if self.require => {
                log::error!("what keeps the VM's output can't be confined, so there is no VM: {e:#}");
                let _ = kill_process(self.vm, Signal::KILL);
            }
            Err(e) => log::warn!("what keeps the VM's output is not confined: {e:#}"),
        }
    }

    /// The command runs: who asked need not wait any more.
    fn let_go(&mut self) {
        let Some(mut asker) = self.asker.take() else { return };
        let name = self.record.as_ref().map(|record| record.name().to_owned()).unwrap_or_default();
        let _ = json::line(&Answer::Runs(name)).map(|line| asker.write_all(&line));
        // Whoever reads what the asker prints must see its end.
        let _ = dup2_stdin(&self.nothing)
            .and_then(|()| dup2_stdout(&self.nothing))
            .and_then(|()| dup2_stderr(&self.nothing));
    }

    fn end(mut self) -> anyhow::Result<()> {
        let ended = waitpid(Some(self.vm), WaitOptions::empty()).context("learn how the VM ended")?;
        let signal = ended.and_then(|(_, status)| status.terminating_signal());
        let status = ended.and_then(|(_, status)| status.exit_status());
        let status = match (status, signal) {
            (Some(status), _) => u8::try_from(status).unwrap_or(exit::FAILED),
            (None, Some(signal)) => {
                let line = format!("nofear: the VM's process was ended by signal {signal}\n");
                if self.asker.is_some() {
                    let _ = std::io::stderr().write_all(line.as_bytes());
                }
                self.write_down(line.as_bytes());
                u8::try_from(128 + signal).unwrap_or(exit::FAILED)
            }
            (None, None) => exit::FAILED,
        };
        match (self.asker, self.record) {
            (Some(mut asker), record) => {
                // It never ran, and who asked is told why.
                record.map_or(Ok(()), Record::remove)?;
                let _ = json::line(&Answer::Ended(status)).map(|line| asker.write_all(&line));
                Ok(())
            }
            (None, Some(record)) => record.finish(status),
            (None, None) => Ok(()),
        }
    }
}

/// What a pipe has; its end is forgotten.
fn take<'a>(pipe: &mut Option<OwnedFd>, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let read = rustix::io::read(pipe.as_ref()?.as_fd(), &mut *buffer);
    match read {
        Ok(0) => *pipe = None,
        Ok(count) => return Some(&buffer[..count]),
        Err(Errno::AGAIN | Errno::INTR) => {}
        Err(_) => *pipe = None,
    }
    None
}
