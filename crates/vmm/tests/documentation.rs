//! `docs/embedding.md` shows the examples as they are.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{fs, path::Path};

#[test]
fn the_page_shows_the_examples_as_they_are() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(here.join("../../docs/embedding.md")).unwrap();
    for name in ["boot", "device", "files"] {
        let example = fs::read_to_string(here.join(format!("examples/{name}.rs"))).unwrap();
        let code = &example[example.find("use std").unwrap()..];
        assert!(page.contains(code.trim_end()), "{name}.rs is not as in docs/embedding.md");
    }
}
