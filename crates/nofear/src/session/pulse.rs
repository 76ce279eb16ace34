//! Whether the guest still answers: its agent is asked now and then. One that does not is reported, with what there is
//! to see, and never ended: it may be a slow machine's.

use std::time::{Duration, Instant};

use agent_proto::ToAgent;
use anyhow::ensure;

use super::{Conversation, GuestFailed, State};
use crate::text;

/// How long after an answer the agent is asked again.
const EVERY: Duration = Duration::from_secs(20);

/// How long an answer may take. A healthy agent needs a millisecond; a machine that is emulated, many times that.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is known of the guest's answers.
#[derive(Debug)]
pub(super) struct Pulse {
    /// When it is asked next; of one that was asked, when it should have answered.
    due: Instant,
    asked: bool,
    /// It was said that it does not answer.
    lost: bool,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { due: Instant::now() + EVERY, asked: false, lost: false }
    }

    /// When something is to be done; none: when it answers.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.lost).then_some(self.due)
    }

    /// So long it stood still.
    pub(super) fn stood_still(&mut self, time: Duration) {
        self.due += time;
    }

    /// Whether it does not answer.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }
}

impl Conversation<'_> {
    /// Asks the agent, or says that it does not answer.
    pub(super) fn feel_pulse(&mut self) -> anyhow::Result<()> {
        let is_due = self.pulse.due().is_some_and(|due| due <= Instant::now());
        if !is_due || self.state != State::Running || self.control.is_none() || self.vm_ended.is_some() {
            return Ok(());
        }
        if self.pulse.asked {
            self.pulse.lost = true;
            self.report_hang();
            return Ok(());
        }
        self.pulse.asked = true;
        self.pulse.due = Instant::now() + PATIENCE;
        self.send(&ToAgent::Ping).map(drop)
    }

    /// The agent has answered.
    pub(super) fn on_pulse(&mut self) -> anyhow::Result<()> {
        ensure!(self.pulse.asked, GuestFailed::protocol("an answer that nobody asked for"));
        if self.pulse.lost {
            log::warn!("the guest answers again");
        }
        self.pulse = Pulse::new();
        Ok(())
    }

    fn report_hang(&self) {
        log::warn!(
            "the guest has not answered for {} s, and has not ended: it hangs, or is very slow. 'nofear debug' looks \
             into it, 'nofear stop --force' ends it",
            PATIENCE.as_secs()
        );
        let Some(machine) = self.session.control.as_ref().and_then(|server| server.machine()) else { return };
        for (number, registers) in machine.registers().iter().enumerate() {
            match registers.as_ref().map(|registers| &registers.0) {
                Some(all) => {
                    let of = |name| all.get(name).map_or("?", String::as_str);
                    log::warn!("CPU {number} is at {}, cs {}, rflags {}", of("rip"), of("cs"), of("rflags"));
                }
                None => log::warn!("CPU {number} does not come out of the guest"),
            }
        }
        for line in text::last_lines(&machine.log()) {
            log::warn!("in the VM: {line}");
        }
    }
}
