//! What a hostile guest's agent sends: frames cut anywhere, of any length and content.
//!
//! Found here: a panic or a hang of the decoder, a message that is longer than its frame, and one that does not come
//! out as it went in.

#![no_main]

use std::io::Cursor;

use agent_proto::{FromAgent, Hello, MAX_CHANGE, MAX_FROM_AGENT, read_frame, write_frame};
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

/// Reads messages to the end of the bytes, or to the first that is none.
fn read_all<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8], limit: usize) {
    let mut from = Cursor::new(bytes);
    loop {
        let start = from.position();
        let Ok(Some(message)) = read_frame::<T>(&mut from, limit) else { return };
        let length = from.position() - start;
        assert!(length <= limit as u64 + 4, "a frame of {length} bytes");
        // What was read is what its sender meant, though not in its shortest form.
        let mut again = Vec::new();
        write_frame(&mut again, &message).expect("a message that was read can be written");
        assert!(again.len() as u64 <= length, "{message:?} has become longer");
        let copy = read_frame::<T>(&mut again.as_slice(), limit).expect("it is a frame");
        assert_eq!(copy.as_ref(), Some(&message));
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    match kind % 3 {
        0 => read_all::<FromAgent>(bytes, MAX_FROM_AGENT),
        1 => read_all::<Hello>(bytes, 64),
        _ => read_all::<agent_proto::Change>(bytes, MAX_CHANGE),
    }
});
