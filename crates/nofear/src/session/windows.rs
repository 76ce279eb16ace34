//! The command's windows: the display server in the guest comes first, then the command; and the client on the host
//! lives as long as both.

use std::time::Instant;

use agent_proto::{DisplayNews, End, Step};
use anyhow::{anyhow, bail, ensure};
use rustix::process::Signal;

use super::{Conversation, Ending, GuestFailed, State, Stop};
use crate::gui::advice;
use crate::gui::client::{Client, ClientEnd};
use crate::text::printable;

impl Conversation<'_> {
    /// What the agent tells of the display server.
    pub(super) fn on_display_news(&mut self, news: DisplayNews) -> anyhow::Result<()> {
        let is_starting = self.state == State::Starting;
        let Some(windows) = &mut self.session.windows else { return Ok(()) };
        match news {
            DisplayNews::Said(line) => {
                windows.lines = windows.lines.saturating_add(1);
                if windows.lines <= MAX_LINES {
                    let line = printable(line.trim(), 300);
                    log::debug!("the VM's display server: {line}");
                    if windows.sound && advice::is_about_sound(&line) {
                        windows.sound = false;
                        log::warn!("there is no sound: {}", advice::install_sound());
                    }
                    windows.last_words = line;
                }
                Ok(())
            }
            DisplayNews::Ready => {
                ensure!(
                    is_starting && !windows.ready,
                    GuestFailed::protocol("its display server is ready once")
                );
                log::info!("the VM's display server answers");
                windows.open()?;
                self.start_command()
            }
            DisplayNews::NotStarted { step, errno } => {
                ensure!(
                    is_starting && !windows.ready,
                    GuestFailed::protocol("its display server was started")
                );
                let reason = std::io::Error::from_raw_os_error(errno.clamp(0, 4095));
                let what = if step == Step::Execute { "execute Xpra" } else { "start Xpra" };
                bail!("the VM could not {what}, which shows windows: {reason}");
            }
            DisplayNews::Ended(end) => {
                let how = match end {
                    End::Exited(status) => format!("ended with status {status}"),
                    End::Signaled(signal) => format!("was ended by signal {signal}"),
                };
                if matches!(self.state, State::Ended(_)) {
                    return Ok(());
                }
                let advice = advice::for_words(&windows.last_words);
                let words = [Some(windows.last_words.clone()), advice].into_iter().flatten();
                let words: Vec<String> = words.filter(|text| !text.is_empty()).collect();
                let words = if words.is_empty() { String::new() } else { format!(": {}", words.join("; ")) };
                // Its programs have lost their windows.
                self.stop = Some(Stop::InOrder);
                bail!("Xpra's server in the VM {how}{words}");
            }
        }
    }

    /// Says, once, that no window has come.
    fn look_for_windows(&mut self) {
        let is_running = self.state == State::Running;
        let Some(windows) = &mut self.session.windows else { return };
        let Some(client) = &mut windows.client else { return windows.look = None };
        if windows.look.is_some_and(|look| look <= Instant::now()) {
            windows.look = None;
            client.look();
        }
        if client.shown() == Some(false) && is_running {
            let output = match self.session.reporter {
                Some(_) => "'nofear logs' shows what it has printed",
                None => "what it prints is here",
            };
            log::warn!(
                "no window is shown yet, {} s after '{}' was started: it runs in the VM, and {output}",
                windows.patience.as_secs(),
                windows.program,
            );
        }
    }

    /// A program of the guest's asks for an address to be opened. Without `--open-url` nobody listens.
    pub(super) fn on_url(&mut self, url: &str) {
        if let Some(opener) = self.session.windows.as_mut().and_then(|windows| windows.opener.as_mut()) {
            opener.ask(url);
        }
    }

    /// Hears the windows' client. Its end is the VM's.
    pub(super) fn hear_client(&mut self) -> anyhow::Result<Option<Ending>> {
        let is_over = matches!(self.state, State::Ended(_)) || self.vm_ended.is_some();
        let has_agent = self.state == State::Booting || self.control.is_some();
        let Some(windows) = &mut self.session.windows else { return Ok(None) };
        let Some(end) = windows.client.as_mut().and_then(Client::hear) else {
            self.look_for_windows();
            return Ok(None);
        };
        windows.client = None;
        if let Some(control) = &mut self.session.control {
            control.forget_display();
        }
        // It has noticed before this process has.
        if is_over || !has_agent {
            return Ok(None);
        }
        if windows.keep {
            match end {
                ClientEnd::InOrder => {
                    log::info!("the windows are not shown any more; 'nofear attach' does it again")
                }
                ClientEnd::Broken(why) => log::warn!("{why}; 'nofear attach' shows the windows again"),
            }
            return Ok(None);
        }
        self.stop = Some(Stop::InOrder);
        match end {
            ClientEnd::InOrder => {
                log::info!("the windows' client was closed");
                Ok(Some(Ending::Signal(Signal::TERM)))
            }
            ClientEnd::Broken(why) => Err(anyhow!(why)),
        }
    }
}

/// The most lines of the server's that are looked at.
const MAX_LINES: u32 = 1000;
