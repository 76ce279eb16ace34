//! What comes beside windows: sound, addresses that are opened here, and files that are opened in a VM.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nofear_tests::{
    desktop::until,
    may_mount, output,
    sound::{Speaker, TONE, part_at, samples, tone, wav},
    windows::{Vm, World},
};

/// What an attack has left.
fn hostile_files(home: &Path) -> Vec<PathBuf> {
    let files = [Path::new("/tmp"), Path::new("/var/tmp"), home].map(|folder| fs::read_dir(folder).unwrap());
    let files = files.into_iter().flatten().map(|entry| entry.unwrap().path());
    files.filter(|path| path.display().to_string().contains("nofear-hostile")).collect()
}

/// Makes a program of this folder.
fn program(path: &Path, script: &str) {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_tone_is_told_from_others() {
    let tone = |frequency| samples(frequency).collect::<Vec<_>>();
    assert!(part_at(&tone(TONE), TONE) > 0.95);
    assert!(part_at(&tone(TONE + 10.0), TONE) < 0.05);
    assert!(part_at(&[0.0; 16_000], TONE) < 0.01);
}

/// A client that is in the guest's hands can say to the sound server what the filter lets through: nothing of this.
fn attack(speaker: &Speaker, filter: &Path, tone: &Path) {
    let modules = speaker.list("modules");
    let tone = tone.to_str().unwrap();
    let recorded = Path::new(tone).with_file_name("recorded");
    for words in [
        &["pactl", "load-module", "module-null-sink", "sink_name=evil"][..],
        &["pactl", "unload-module", "0"],
        &["pactl", "list", "short", "source-outputs"],
        &["pactl", "list", "short", "clients"],
        &["pactl", "list", "short", "modules"],
        &["pactl", "list", "short", "sources"],
        &["pactl", "set-sink-volume", "Host", "0"],
        &["pactl", "set-default-sink", "Host"],
        &["pactl", "upload-sample", tone, "evil"],
        &["pactl", "play-sample", "evil"],
        &["pactl", "exit"],
        &["parec", "--raw", "-d", "Host.monitor", recorded.to_str().unwrap()],
    ] {
        let mut command = Command::new("timeout");
        command.arg("100").args(words).env("PULSE_SERVER", format!("unix:{}", filter.display()));
        let ran = output(command);
        assert_eq!(ran.status, Some(1), "{words:?}: {ran:?}");
        assert!(ran.stderr.contains("Access denied") && ran.stdout.is_empty(), "{words:?}: {ran:?}");
    }
    assert!(fs::metadata(recorded).map_or(0, |file| file.len()) == 0);
    // What is no packet, one that is too long, shared memory, and many who say nothing.
    let huge = [u32::MAX, u32::MAX, 0, 0, 0].map(u32::to_be_bytes).concat();
    let shared = [4, 0, 0, 0, 0x8000_0000, 0].map(u32::to_be_bytes).concat();
    for bytes in [&[0xff; 4096][..], &huge, &shared] {
        let mut socket = UnixStream::connect(filter).unwrap();
        // Either way it is over: with an end, or with what was not read.
        let _ = socket.write_all(bytes);
        let end = socket.read_to_end(&mut Vec::new());
        assert!(
            matches!(end.as_ref().map_err(std::io::Error::kind), Ok(_) | Err(ErrorKind::ConnectionReset)),
            "{end:?}"
        );
    }
    let many: Vec<_> = (0..100).map_while(|_| UnixStream::connect(filter).ok()).collect();
    assert!(speaker.list("clients").lines().count() < 30, "{}", speaker.list("clients"));
    drop(many);
    assert_eq!(speaker.list("modules"), modules);
    assert!(!speaker.list("samples").contains("evil"));
    until("the end of all streams that record", || speaker.list("source-outputs").is_empty());
}

/// Plays a tone that its input begins with, and then opens addresses, one kind for each line that comes.
const IN_VM: &str = r#"
head -c "$1" >/tmp/tone
sh -c 'while cat /tmp/tone; do :; done | pacat --format=s16le --rate=16000 --channels=1' >/dev/null 2>&1 &
read line
cd /run/nofear-open-url && stat -c '%U %a %n' . socket open-url
"$BROWSER" 'https://example.org/yes?a=b'
read line
"$BROWSER" file:///etc/passwd
"$BROWSER" https://yes@example.org/
"$BROWSER" "$(printf 'https://example.org/yes%3000s' x)" || echo too long
while :; do "$BROWSER" https://example.org/no; done &
read line
kill $!
i=0
while [ $i -lt 40 ]; do "$BROWSER" "$(printf 'https://\033[2J\377-%s@' $i)"; i=$((i + 1)); done
touch /tmp/nofear-hostile-begins
until [ -e /tmp/nofear-hostile-ends ]; do sleep 1; done
"#;

#[test]
fn sound_is_heard_and_addresses_are_opened_if_the_user_says_so() {
    let world = World::new();
    let folder = world.home().path().join("bin");
    fs::create_dir(&folder).unwrap();
    // The dialog notes what it shows, and says yes to what has the word.
    let log = folder.join("log");
    let to_log = format!(">>{}", log.display());
    let dialog = format!(
        "for last; do :; done; echo \"asked: $last\" {to_log}; case $last in *yes*) exit 0; esac; exit 1"
    );
    program(&folder.join("zenity"), &dialog);
    program(&folder.join("xdg-open"), &format!("echo \"opened: $*\" {to_log}"));
    let asked = |what: &str| fs::read_to_string(&log).unwrap_or_default().matches(what).count();

    let tone = tone();
    let length = tone.len().to_string();
    let tone_file = world.home().path().join("tone.wav");
    fs::write(&tone_file, wav(&tone)).unwrap();
    // Xpra's own server, until it is told to be none.
    let share = world.hostile(true);
    let options =
        ["--cpus", "1", "-vv", "--share", &share, "-g", "--sound", "--notifications", "--open-url", "ask"];
    let command = ["--", "sh", "-c", IN_VM, "sh", &length];
    let nofear = || world.nofear(&[&["run", "-t", "--net", "none"][..], &options, &command].concat());
    // There is nothing to play on.
    let Some(mut silent) = nofear() else { return };
    silent.env_remove("PULSE_SERVER");
    let ran = output(silent);
    assert!(ran.status == Some(125) && ran.stderr.contains("no sound server runs here"), "{ran:?}");

    let speaker = Speaker::new(&world.runtime(), world.home().path());
    let mut command = nofear().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let (theirs, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    command.env("PATH", path).env("PULSE_SERVER", speaker.address()).stdin(theirs);
    let mut vm = Vm::start(command);
    let mut input = File::from(ours);
    input.write_all(&tone).unwrap();
    until("a player", || {
        assert!(vm.lives(), "the VM has ended");
        !speaker.list("sink-inputs").is_empty()
    });
    speaker.hears(TONE);
    // The speaker, not the microphone.
    assert_eq!(speaker.list("source-outputs"), "");
    attack(&speaker, &world.folder().join("sound.sock"), &tone_file);

    let mut go_on = || input.write_all(b"now\n").unwrap();
    go_on();
    until("an address that is opened", || asked("opened: ") == 1);
    go_on();
    // Who is refused three times is not heard again, however often it asks.
    until("three refusals", || asked("https://example.org/no") == 3);
    go_on();
    let ran = vm.end().ok();
    let expected = "root 755 .\nroot 666 socket\nroot 755 open-url\ntoo long\n";
    assert_eq!(ran.text(), expected, "{}", ran.stderr);
    let text = fs::read_to_string(&log).unwrap();
    let lines: BTreeSet<&str> = text.lines().filter(|line| line.contains("http")).collect();
    let yes = "https://example.org/yes?a=b";
    let expected = [yes, "https://example.org/no", &format!("opened: {yes}")];
    assert_eq!(lines, expected.into(), "{}", ran.stderr);
    assert_eq!((asked("asked: "), asked("opened: ")), (4, 1), "{text}");
    for said in [
        "no window is shown yet, 30 s after 'sh' was started",
        "is not of http or https",
        "names no host that is shown as it is",
        "the VM's addresses are refused from here on",
    ] {
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
    assert!(!ran.stderr.contains('\x1b'), "{}", ran.stderr);
    let refused = "the VM asked for an address to be opened, which is refused";
    assert!((2..=32).contains(&ran.stderr.matches(refused).count()), "{}", ran.stderr);
    // The server's attacks have done nothing, and the client has outlived them.
    for part in
        ["tries notification", "tries sound", "asks whether the client is there", "the client is there"]
    {
        assert!(ran.stderr.contains(&format!("hostile: {part}")), "{part}: {}", ran.stderr);
    }
    assert_eq!(hostile_files(world.home().path()), Vec::<PathBuf>::new());
    assert!(world.runtime().join("nofear").read_dir().unwrap().next().is_none());
}

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
