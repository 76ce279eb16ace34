//! `nofear run --detach`: the VM goes on without who has asked for it.
//!
//! Three processes of this one, by fork(2): who asked, and returns when the command runs; the VM's; and its keeper, the
//! VM's parent, which keeps what is said and how it ended ([`record`]). The VM's process can't: it opens no file once it
//! is confined, and nobody would know how it ended if it were killed.

mod keeper;
pub mod record;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;

use anyhow::Context;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::setsid;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use serde::{Deserialize, Serialize};

use crate::control::protocol::Status;
use crate::{exit, json};

/// Which of the three a process is.
pub enum Role {
    /// Who asked: it is over, with this exit status.
    Asker(u8),
    /// The VM's keeper, whose VM has ended.
    Keeper,
    /// The VM's. Its standard streams are nothing, and two pipes to the keeper: for the command's output, and for this
    /// program's own words.
    Vm(Reporter),
}

/// What the VM's process tells its keeper.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Report {
    /// What it is; once.
    Is(Status),
    /// Its command runs; once.
    Runs,
}

/// What the keeper tells who asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    /// The command runs, in the VM of this name.
    Runs(String),
    /// It never ran; the exit status.
    Ended(u8),
}

/// The VM's end of the way to its keeper.
pub struct Reporter(Option<File>);

impl Reporter {
    /// Says what the VM is.
    pub fn is(&mut self, status: Status) {
        self.tell(&Report::Is(status));
    }

    /// Says that the command runs.
    pub fn runs(&mut self) {
        self.tell(&Report::Runs);
        self.0 = None;
    }

    fn tell(&mut self, report: &Report) {
        // A keeper that was killed is no reason to end the VM.
        if let Some(pipe) = &mut self.0 {
            let _ = json::line(report).map(|line| pipe.write_all(&line));
        }
    }
}

/// Makes the other two processes. To be called while this one has one thread. With `require`, a keeper that can't be
/// confined ends the VM.
pub fn split(require: bool) -> anyhow::Result<Role> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).context("make a pipe");
    let (answer, asker) = pipe()?;
    if vmm::fork().context("make the keeper of the VM")?.is_some() {
        drop(asker);
        return Ok(Role::Asker(wait(answer)));
    }
    drop(answer);
    // Neither its keys nor its end reach what goes on without the terminal.
    setsid().context("leave the terminal")?;
    let ((words, to_words), (output, to_output), (reports, to_reports)) = (pipe()?, pipe()?, pipe()?);
    if let Some(vm) = vmm::fork().context("make the process of the VM")? {
        drop((to_words, to_output, to_reports));
        keeper::keep(vm, keeper::Pipes { words, output, reports, asker }, require)?;
        return Ok(Role::Keeper);
    }
    drop((words, output, reports, asker));
    let nothing = File::open("/dev/null").context("open /dev/null")?;
    dup2_stdin(&nothing).context("set the standard input")?;
    dup2_stdout(&to_output).context("set the standard output")?;
    dup2_stderr(&to_words).context("set the standard error")?;
    Ok(Role::Vm(Reporter(Some(to_reports.into()))))
}

/// Waits until the command runs, or never will.
fn wait(answer: OwnedFd) -> u8 {
    let mut line = String::new();
    let answer = BufReader::new(File::from(answer)).read_line(&mut line).ok().and_then(|_| {
        // Nothing: the keeper has failed, and said why.
        serde_json::from_str(&line).ok()
    });
    match answer {
        Some(Answer::Runs(name)) => {
            // Nobody may be there to read it.
            let _ = writeln!(std::io::stdout(), "{name}");
            0
        }
        Some(Answer::Ended(status)) => status,
        None => exit::FAILED,
    }
}
