//! What goes over the port between us and the relay in the emulated host: a kind, a length, bytes.
//!
//! Both ends are the same binary, so the format has no version.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Kinds of frames to the relay.
pub mod to_relay {
    /// The first: a [`super::Start`].
    pub const START: u8 = 1;
    /// Input for the command; empty at its end.
    pub const STDIN: u8 = 2;
    /// Nothing but the interrupt with which it comes: see [`super::super::machine`].
    pub const BEAT: u8 = 3;
}

/// Kinds of frames from the relay.
pub mod from_relay {
    /// Output of the command, or of its terminal.
    pub const STDOUT: u8 = 16;
    /// Error output of the command.
    pub const STDERR: u8 = 17;
    /// The last: the command's exit status, one byte.
    pub const EXIT: u8 = 18;
}

/// The longest frame, in bytes; a start frame holds arguments of up to Linux's 2 MiB as JSON numbers.
const MAX_FRAME: usize = 32 << 20;

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub rows: u16,
    pub columns: u16,
}

/// What the relay shall run. Bytes, since neither arguments nor paths need to be UTF-8.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    pub command: Vec<Vec<u8>>,
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    pub cwd: Vec<u8>,
    /// In a terminal of this size, or with pipes.
    pub window: Option<Window>,
}

impl Start {
    /// The payload of the frame that says so.
    pub fn payload(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).context("encode the command")
    }
}

/// One frame's bytes.
pub fn frame(kind: u8, payload: &[u8]) -> Result<Vec<u8>> {
    if payload.len() > MAX_FRAME {
        bail!("{} bytes do not fit into a message to the emulated host", payload.len());
    }
    let mut bytes = Vec::with_capacity(payload.len() + 5);
    bytes.push(kind);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    Ok(bytes)
}

/// Reads one frame into `payload`; `None` at the end of the stream.
pub fn read(from: &mut impl Read, payload: &mut Vec<u8>) -> Result<Option<u8>> {
    let mut header = [0; 5];
    match from.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other.context("read from the emulated host's port")?,
    }
    let [kind, length @ ..] = header;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        bail!("a frame of {length} bytes on the emulated host's port");
    }
    payload.resize(length, 0);
    from.read_exact(payload).context("read from the emulated host's port")?;
    Ok(Some(kind))
}

/// Sends frames, each of them whole, from any thread.
#[derive(Clone)]
pub struct Sender(Arc<Mutex<UnixStream>>);

impl Sender {
    pub fn new(port: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(port)))
    }

    pub fn frame(&self, kind: u8, payload: &[u8]) -> Result<()> {
        let bytes = frame(kind, payload)?;
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        port.write_all(&bytes).context("write to the emulated host's port")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_arrives_byte_for_byte() {
        let start = Start {
            command: vec![b"a\n'\"\xff".to_vec(), Vec::new()],
            environment: vec![(b"N".to_vec(), b"\xfe=".to_vec())],
            cwd: b"/\xfd".to_vec(),
            window: Some(Window { rows: 25, columns: 80 }),
        };
        let bytes = frame(to_relay::START, &start.payload().unwrap()).unwrap();
        let mut payload = Vec::new();
        assert_eq!(read(&mut bytes.as_slice(), &mut payload).unwrap(), Some(to_relay::START));
        assert_eq!(serde_json::from_slice::<Start>(&payload).unwrap(), start);
    }

    #[test]
    fn the_end_between_frames_is_no_error_and_within_one_it_is() {
        let bytes = frame(from_relay::STDOUT, b"hello").unwrap();
        let mut payload = Vec::new();
        assert_eq!(read(&mut [].as_slice(), &mut payload).unwrap(), None);
        assert!(read(&mut &bytes[..7], &mut payload).is_err());
        assert!(read(&mut [16, 255, 255, 255, 255].as_slice(), &mut payload).is_err());
    }
}
