//! Kernels that a distribution built start as ours does.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{fs, process::Command};

use nofear_tests::{ours, output};

/// `nofear` reads modules where distributions put them. They are elsewhere here, so each run sees them there
/// by a mount of its own, which needs no privilege and leaves the machine as it is.
const SCRIPT: &str =
    r#"mount --bind "$1" /lib/modules && exec "$NOFEAR" run --temporary --kernel "$2" -- "${@:3}""#;

#[test]
fn stock_kernels_start_with_their_own_modules() {
    let (Some(_), Some(kernels)) = (ours("NOFEAR"), ours("NOFEAR_STOCK")) else { return };
    let kernels = kernels.into_string().unwrap();
    assert_ne!(kernels, "", "no stock kernel was found");
    if !fs::exists("/lib/modules").unwrap() {
        fs::create_dir("/lib/modules").unwrap();
    }
    for line in kernels.lines() {
        let [release, image, modules] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "bash", "-c", SCRIPT, "stock", modules, image]);
        command.args(["sh", "-c", "uname -r; wc -c < /usr/bin/env; nproc"]);
        let ran = output(command).ok();
        let size = fs::metadata("/usr/bin/env").unwrap().len();
        let text = ran.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], [release, &size.to_string()], "{}", ran.stderr);
        println!("{release} started");
    }
}
