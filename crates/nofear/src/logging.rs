//! What the user is told: lines on the standard error that begin with the program's name.

use std::io::Write;

use log::{Level, LevelFilter};

use crate::terminal;

/// Starts to log: warnings and errors, and more with each of `verbosity`.
pub fn start(verbosity: u8) {
    let level = match verbosity {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    env_logger::Builder::new()
        .filter_level(level)
        // It logs what a guest does wrong each time it does it.
        .filter_module("virtio_queue", LevelFilter::Off)
        .format(|to, record| {
            let kind = match record.level() {
                Level::Error => "",
                Level::Warn => "warning: ",
                Level::Info | Level::Debug | Level::Trace => "",
            };
            let line_end = if terminal::is_raw() { "\r\n" } else { "\n" };
            write!(to, "nofear: {kind}{}{line_end}", record.args())
        })
        .init();
}
