//! Any bytes are decoded without a panic, and what is decoded means the same when it is encoded again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ninep::client::encode;
use ninep::wire::Request;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // Most inputs lie about their size and go no further: once more, with the truth.
    if let Ok(size) = u32::try_from(bytes.len())
        && bytes.len() >= 4
    {
        let mut honest = bytes.to_vec();
        honest[..4].copy_from_slice(&size.to_le_bytes());
        check(&honest);
    }
});

fn check(message: &[u8]) {
    let decoded = Request::decode(message);
    if let Ok(request) = decoded.request {
        let again = encode(decoded.tag, &request);
        assert_eq!(Request::decode(&again).request, Ok(request));
        // Tfsync without its second field is the one message with two encodings.
        assert!(again == message || matches!(request, Request::Fsync { .. }));
    }
}
