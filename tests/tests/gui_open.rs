//! What is opened in a VM.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs,
    process::{Command, Stdio},
};

use nofear_tests::{may_mount, output, windows::World};

#[test]
fn a_file_is_opened_as_a_copy_with_the_program_for_its_kind() {
    let world = World::new();
    if !may_mount() {
        return;
    }
    let home = world.home().path();
    let file = home.join("-a\nb.txt");
    fs::write(&file, "the file's own text\n").unwrap();
    let applications = home.join("applications");
    fs::create_dir(&applications).unwrap();
    let entry = "[Desktop Entry]\nType=Application\nName=Test\nMimeType=text/plain;\n\
        Exec=sh -c \"cat \\\\\"\\\\$1\\\\\"; echo more >>\\\\\"\\\\$1\\\\\"; ls /sys/class/net; exit 7\" sh %f\n";
    fs::write(applications.join("aaa-nofear-test.desktop"), entry).unwrap();
    let Some(nofear) = world.nofear(&[]) else { return };
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$1\" /usr/share/applications; exec \"$2\" open -v \"$3\"";
    command.args(["-m", "sh", "-c", script, "sh"]).arg(applications).arg(nofear.get_program()).arg(&file);
    command.envs(nofear.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    let ran = output(command);
    assert_eq!(ran.status, Some(7), "{ran:?}");
    assert_eq!(ran.text(), "the file's own text\nlo\n", "{ran:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "the file's own text\n");
    // What is no file, in one line.
    let ran = output(world.nofear(&["open", home.to_str().unwrap()]).unwrap());
    assert!(ran.status == Some(125) && ran.stderr.lines().count() == 1, "{ran:?}");
}
