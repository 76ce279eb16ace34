//! Whether windows of a VM's are shown on an X display, by their titles' beginning: nothing that the guest or the client
//! says is asked.

use std::collections::VecDeque;

use anyhow::{Context, bail};
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{AtomEnum, ConnectionExt, MapState, Window};

/// The most windows that are looked at. A desktop has some hundreds, most of them invisible.
const MAX_WINDOWS: usize = 4096;

/// How deep: window managers put frames around frames.
const MAX_DEPTH: u8 = 4;

/// Longer titles are not read to their ends; in units of four bytes.
const MAX_TITLE: u32 = 64;

/// Whether the display that the environment names shows a window whose title begins so.
///
/// # Errors
///
/// When there is no such display, or it has too many windows.
pub fn any(prefix: &str) -> anyhow::Result<bool> {
    let (connection, screen) = x11rb::connect(None).context("connect to the display")?;
    let root = connection.setup().roots.get(screen).context("find the screen")?.root;
    let children = |window: Window| -> anyhow::Result<Vec<Window>> {
        Ok(connection.query_tree(window)?.reply()?.children)
    };
    let mut next: VecDeque<_> = children(root)?.into_iter().map(|window| (window, 1)).collect();
    for _ in 0..MAX_WINDOWS {
        let Some((window, depth)) = next.pop_front() else { return Ok(false) };
        // One that has gone meanwhile is none.
        let attributes = connection.get_window_attributes(window)?.reply();
        if !attributes.is_ok_and(|attributes| attributes.map_state == MapState::VIEWABLE) {
            continue;
        }
        if title(&connection, window)?.is_some_and(|title| title.starts_with(prefix.as_bytes())) {
            return Ok(true);
        }
        if depth < MAX_DEPTH {
            next.extend(children(window).unwrap_or_default().into_iter().map(|child| (child, depth + 1)));
        }
    }
    bail!("the display has more than {MAX_WINDOWS} windows")
}

fn title(connection: &impl Connection, window: Window) -> anyhow::Result<Option<Vec<u8>>> {
    let property = connection.get_property(false, window, AtomEnum::WM_NAME, AtomEnum::ANY, 0, MAX_TITLE)?;
    Ok(property.reply().ok().map(|property| property.value))
}
