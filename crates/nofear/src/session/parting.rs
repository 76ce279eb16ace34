//! The end of a VM of which something lasts.

use std::time::{Duration, Instant};

use agent_proto::{FromAgent, MAX_FROM_AGENT, ToAgent};
use anyhow::{Context, bail, ensure};
use rustix::process::Signal;

use super::Conversation;
use crate::frames::Received;
use crate::streams::Event;

/// How long a guest that keeps something may take to write it back and power off.
const PARTING: Duration = Duration::from_secs(60);

impl Conversation<'_> {
    /// Lets the guest end by itself, so that nothing it has written is lost. A guest that does not, or a signal,
    /// ends the waiting.
    pub(super) fn part(&mut self) {
        if let Some(terminal) = &self.session.terminal
            && let Err(e) = terminal.allow_signals()
        {
            log::debug!("{e:#}");
        }
        self.deadline = Some(Instant::now() + PARTING);
        self.session.software = None;
        // Those who wait for it learn that the VM ends.
        self.session.control = None;
        if let Err(e) = self.until_vm_ends() {
            log::warn!("the VM was not ended in order: {e:#}; what it wrote last may be lost");
        }
    }

    fn until_vm_ends(&mut self) -> anyhow::Result<()> {
        ensure!(self.send(&ToAgent::Shutdown)?, "its agent takes no messages");
        while self.vm_ended.is_none() {
            if let Some(control) = &mut self.control {
                control.flush().context("write to the guest's agent")?;
            }
            self.wait()?;
            while let Some(signal) = self.session.signals.next().context("read signals")? {
                if !matches!(signal, Signal::WINCH | Signal::CONT) {
                    bail!("signal {} came first", signal.as_raw());
                }
            }
            self.session.inbox.clear();
            while let Some(event) = self.session.inbox.next() {
                if let Event::VmEnded(why) = event {
                    self.vm_ended = Some(why);
                }
            }
            // What comes to the socket now is of no interest, but must not keep the loop from its sleep.
            self.greeting.clear();
            while self.session.visitors.accept().is_ok() {}
            while let Some(control) = &mut self.control {
                match control.receive::<FromAgent>(MAX_FROM_AGENT) {
                    Ok(Received::Message(_)) => {}
                    Ok(Received::Nothing) => break,
                    Ok(Received::End) | Err(_) => self.control = None,
                }
            }
            let late = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
            ensure!(!late || self.vm_ended.is_some(), "it took more than {} s", PARTING.as_secs());
        }
        Ok(())
    }
}
