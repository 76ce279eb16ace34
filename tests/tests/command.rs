//! The command behaves like the command: status, streams, arguments, signals, terminal.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    os::unix::ffi::OsStringExt,
    process::Stdio,
    time::{Duration, Instant},
};

use nofear_tests::{Pty, output, output_with, run, script, start};

#[test]
fn uname_prints_the_guests_kernel() {
    let Some(command) = run(["--", "uname", "-a"]) else { return };
    let ran = output(command).ok();
    assert!(ran.text().starts_with("Linux nofear"), "{ran:?}");
    assert_eq!(ran.stderr, "");
}

#[test]
fn the_status_is_the_commands() {
    for (arguments, status) in [
        (&["sh", "-c", "exit 7"][..], 7),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["nosuchprogram"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let Some(command) = run(["--"].iter().chain(arguments)) else { return };
        let ran = output(command);
        assert_eq!(ran.status, Some(status), "{arguments:?}: {}", ran.stderr);
        if status == 127 {
            assert!(ran.stderr.contains("nosuchprogram"), "{}", ran.stderr);
        }
    }
}

#[test]
fn a_wrong_option_a_bad_kernel_and_too_much_memory_are_125_with_one_line() {
    let cases: [(&[&str], &str); 5] = [
        (&["--cpus", "0", "--", "true"], "cpus"),
        (&["--cpus", "33", "--", "true"], "33"),
        (&["--mem", "1000T", "--", "true"], "1000T"),
        (&["--kernel", "/etc/passwd", "--", "true"], "/etc/passwd"),
        (&["--share", "/nosuchfolder", "--", "true"], "/nosuchfolder"),
    ];
    for (arguments, named) in cases {
        let Some(command) = run(arguments) else { return };
        let ran = output(command);
        assert_eq!(ran.status, Some(125), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(named), "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn streams_are_separate_and_binary() {
    let input: Vec<u8> = (0..3_000_000u32).map(|i| (i ^ i >> 7) as u8).collect();
    let Some(command) = run(["--", "sh", "-c", "cat; echo end >&2"]) else { return };
    let ran = output_with(command, input.clone()).ok();
    assert!(ran.stdout == input, "{} bytes came back of {}", ran.stdout.len(), input.len());
    assert_eq!(ran.stderr, "end\n");
}

#[test]
fn a_reader_that_goes_away_ends_the_command() {
    let Some(mut command) = run(["--", "sh", "-c", "trap '' HUP; yes; echo $? >&2"]) else { return };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 2];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ran = child.wait_with_output().unwrap();
    assert_eq!(&first, b"y\n");
    assert!(ran.status.code().is_some());
}

#[test]
fn arguments_arrive_byte_for_byte() {
    let odd: Vec<OsString> = [
        b"two\nlines".to_vec(),
        b"\"double\" 'single' $HOME `id` \\".to_vec(),
        b"\xff\xfe not UTF-8".to_vec(),
        b"".to_vec(),
        b"--help".to_vec(),
        vec![b'x'; 100_000],
    ]
    .map(OsString::from_vec)
    .into();
    let Some(mut command) = run(["--", "sh", "-c", "for a; do printf '%s\\0' \"$a\"; done", "sh"]) else {
        return;
    };
    command.args(&odd);
    let ran = output(command).ok();
    let mut expected = Vec::new();
    for argument in odd {
        expected.extend(argument.into_vec());
        expected.push(0);
    }
    assert!(ran.stdout == expected, "{}", String::from_utf8_lossy(&ran.stdout));
}

#[test]
fn environment_folder_and_user_are_as_asked() {
    let options = ["--env", "NOFEAR_X=a b", "--workdir", "/usr/lib", "--cpus", "3", "--mem", "300M"];
    let Some(ran) = script(
        &options,
        "echo \"$NOFEAR_X\"; pwd; id -u; nproc; test -w ~ && echo home; hostname; \
         test $(sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo) -lt 310000 && echo small; \
         env | grep -c '^CARGO' ",
    ) else {
        return;
    };
    let uid = rustix::process::getuid().as_raw().to_string();
    let text = ran.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..5], ["a b", "/usr/lib", &uid, "3", "home"], "{}", ran.stderr);
    assert_eq!(lines[6..], ["small", "0"]);
}

#[test]
fn sigterm_reaches_the_command() {
    let trap = "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    let Some(command) = run(["--", "sh", "-c", trap]) else { return };
    let mut child = start(command);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "got it");
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn a_terminal_is_a_terminal_of_the_hosts_size() {
    let Some(command) = run(["--", "sh", "-c", "tty; stty size; exec cat"]) else { return };
    let mut terminal = Pty::default();
    let mut child = terminal.start(command);
    // With the end of its line: a key that is pressed between the two is shown there.
    let text = terminal.wait_for("33 91\r\n");
    assert!(text.contains("/dev/pts/"), "{text}");
    terminal.press(b"hello\r");
    // The terminal's echo, and what cat says: it runs. (A shell loses a Ctrl-C between its fork and its exec.)
    terminal.wait_for("hello\r\nhello\r\n");
    // Ctrl-C ends it, in the guest.
    terminal.press(&[3]);
    let end = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "Ctrl-C did not end the command");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(status.code(), Some(130));
    terminal.is_as_it_was();
}

#[test]
fn a_guest_whose_kernel_panics_is_125_and_shows_why() {
    let Some(command) = run(["--append", "rdinit=/nosuchinit", "--", "true"]) else { return };
    let ran = output(command);
    assert_eq!(ran.status, Some(125), "{}", ran.stderr);
    assert!(ran.stderr.contains("panic"), "{}", ran.stderr);
}
