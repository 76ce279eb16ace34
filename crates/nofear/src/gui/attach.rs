//! `nofear attach`: shows the windows of a VM that runs.

use std::os::fd::AsFd;

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use super::client::ClientEnd;
use super::options::{Clipboard, GuiArgs, OpenUrl};
use super::sound::Sound;
use super::xpra::Xpra;
use super::{Places, host_display, look, start_client};
use crate::control::client::Vm;
use crate::control::protocol::Ask;
use crate::exit;
use crate::profile::name::Name;
use crate::profile::store::Profiles;
use crate::signals::Signals;

/// Options of `attach`.
#[derive(Args, Debug)]
pub struct AttachArgs {
    /// The VM: its name, as 'nofear ps' shows it, or its profile's
    #[arg(value_name = "VM")]
    vm: String,

    /// Which way what is copied goes, as for 'run'; not more than the VM was started with
    #[arg(long, value_name = "DIRECTION", value_enum, default_value_t)]
    clipboard: Clipboard,

    /// Play sound here; the VM must have been started with it
    #[arg(short, long)]
    sound: bool,

    /// Show notifications here; the VM must have been started with it
    #[arg(long)]
    notifications: bool,

    /// Let programs listen to this machine's microphone; the VM must have been started with it
    #[arg(long)]
    microphone: bool,
}

/// Shows the windows until their client is closed or the VM ends, and returns the exit status.
pub fn run(args: &AttachArgs) -> u8 {
    try_run(args).unwrap_or_else(|e| {
        log::error!("{e:#}");
        exit::FAILED
    })
}

fn try_run(args: &AttachArgs) -> anyhow::Result<u8> {
    let vm = Vm::open(&args.vm)?;
    let (status, _) = vm.status()?;
    let socket = vm.windows_socket();
    ensure!(socket.exists(), "the VM {} has no windows: it was started without -g", vm.id);
    let profile = status.profile.as_deref();
    let colour = profile.and_then(|name| Profiles::of_user().ok()?.border_of(&Name::parse(name).ok()?));
    let gui = GuiArgs {
        gui: true,
        clipboard: args.clipboard,
        sound: args.sound,
        microphone: args.microphone,
        notifications: args.notifications,
        open_url: OpenUrl::Never,
        keep: true,
    };
    let look = look::of(profile, colour.as_deref());
    let sound = Sound::of(&gui, vm.sound_socket())?;
    let display = host_display()?;
    let places = Places { display: &display, channel: &socket, sound: sound.as_ref() };
    let mut client = start_client(&Xpra::find()?, &gui, &look, &places)?;
    // For `ps`; one of a version before this does not know the request.
    let _shows = vm.ask(Ask::Show { display: display.name() })?;
    let signals = Signals::block()?;
    loop {
        let read = |one| PollFd::from_borrowed_fd(one, PollFlags::IN);
        let mut polled = [read(signals.as_fd()), read(client.as_fd())];
        match poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("wait for the windows' client"),
        }
        while let Some(signal) = signals.next().context("read signals")? {
            if !matches!(signal, Signal::WINCH | Signal::CONT) {
                client.end();
                return Ok(u8::try_from(128 + signal.as_raw()).unwrap_or(exit::FAILED));
            }
        }
        match client.hear() {
            None => {}
            Some(ClientEnd::InOrder) => return Ok(0),
            // It has lost its connection: a VM that ends has let go of its control socket before.
            Some(ClientEnd::Broken(_)) if vm.status().is_err() => return Ok(0),
            Some(ClientEnd::Broken(why)) => return Err(anyhow!(why)),
        }
    }
}
