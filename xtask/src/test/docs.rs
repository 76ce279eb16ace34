//! What the documentation shows is what the tests run.

use std::fs;

use crate::workspace::root;

#[test]
fn the_embedding_example_is_shown_as_it_is_compiled_and_run() {
    let page = fs::read_to_string(root().join("docs/embedding.md")).unwrap();
    let example = fs::read_to_string(root().join("crates/vmm/examples/boot.rs")).unwrap();
    let shown = page.split_once("```rust\n").and_then(|(_, rest)| rest.split_once("```")).unwrap().0;
    let run = &example[example.find("\nuse ").unwrap() + 1..];
    assert_eq!(shown, run, "docs/embedding.md differs from crates/vmm/examples/boot.rs");
}
