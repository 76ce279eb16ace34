//! What a client says on a VM's control socket, and what a VM answers: any line.
//!
//! Found here: a panic or a hang of the parser, and a line that does not come out as it went in.

#![no_main]
#![allow(dead_code, reason = "the target uses the part of the module that parses")]

use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

#[path = "../../../crates/nofear/src/control/protocol.rs"]
mod protocol;

fn read<T: DeserializeOwned + Serialize>(line: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(line) else { return };
    let written = serde_json::to_string(&read).expect("what was read can be written");
    assert!(!written.contains('\n'), "a line of several: {written}");
    let again: T = serde_json::from_str(&written).expect("what was written can be read");
    assert_eq!(serde_json::to_string(&again).expect("again"), written);
}

fuzz_target!(|line: &[u8]| {
    read::<protocol::Request>(line);
    read::<protocol::ToCommand>(line);
    read::<protocol::Event>(line);
});
