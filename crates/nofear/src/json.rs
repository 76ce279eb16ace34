//! Messages between processes of this program: a line of JSON each.

use serde::Serialize;

/// A message, with the end of its line.
pub fn line<T: Serialize>(message: &T) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}
