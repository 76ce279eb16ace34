//! Notifications: a session bus in the guest, on which Xpra's server takes the place of the desktop's service.
//!
//! On the host the client shows them by itself. It has no way to this machine's bus: who reaches that can start
//! programs.

use agent_proto::User;
use anyhow::Context;

use super::{runtime_folder, xpra};

/// The bus of the guest, by the address that programs look for it at.
pub fn bus(user: &User) -> anyhow::Result<Vec<String>> {
    let program = xpra::program("dbus-daemon").context(
        "--notifications: install dbus-daemon (Debian, Ubuntu: apt install dbus-daemon; Fedora: dbus-daemon; Arch: \
         dbus; openSUSE: dbus-1-daemon; Gentoo: sys-apps/dbus)",
    )?;
    let address = format!("--address={}", address(user));
    let argv =
        [&program.display().to_string(), "--session", "--nofork", "--nopidfile", "--nosyslog", &address];
    Ok(argv.map(Into::into).into())
}

/// Where programs find it, as `NAME=value`.
pub fn variable(user: &User) -> String {
    format!("DBUS_SESSION_BUS_ADDRESS={}", address(user))
}

fn address(user: &User) -> String {
    format!("unix:path={}/bus", runtime_folder(user))
}
