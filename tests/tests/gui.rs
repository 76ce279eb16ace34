//! Windows of a VM's programs on a desktop.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nofear_tests::{
    desktop::{DPI, Picture, Place, until},
    output, start,
    windows::{Vm, World, client_of, kill, others_get_to, start_quietly, tcp_listeners},
};
use rustix::process::{Pid, Signal, kill_process};

/// What nofear draws inside a window's edges, in pixels.
const BORDER: usize = 4;

/// The border of the profile `windows`, which must not change from one version to the next: Xpra draws its colour,
/// #f58231, with six tenths of its brightness.
const COLOUR: u32 = 0x93_4e1d;

/// What `terminal` is made to show and read.
const IN_TERMINAL: &str = "printf 'Hello from a window'; read line; printf '%s' \"$line\" >/tmp/typed";

fn terminal(title: &str) -> Vec<String> {
    let options = ["xterm", "-geometry", "50x10", "-bc", "-T", title, "-e", "sh", "-c", IN_TERMINAL];
    options.map(Into::into).into()
}

#[test]
fn windows_of_a_vm_are_on_the_desktop_and_nothing_else_is_opened() {
    let world = World::new();
    let desktop = world.desktop();
    // The same program without a VM, to compare.
    let title = "[windows] hello";
    let mut plain = desktop.command("xterm");
    plain.args(&terminal(title)[1..]);
    let mut plain = start(plain);
    let window = desktop.window(title);
    desktop.park_pointer();
    let place = desktop.settled(window);
    let blank = Picture::blank(place.width, place.height, 0xff_ffff);
    let expected = desktop.picture(place, "the program's own look", |picture| {
        (100..5000).contains(&picture.differences(&blank, BORDER))
    });
    let expected_title = desktop.picture(place.title(), "a title", |_| true);
    expected.keep("xterm-without-vm");
    desktop.screenshot().keep("desktop-without-vm");
    plain.kill().unwrap();
    plain.wait().unwrap();
    until("the end of the first window", || desktop.find(title).is_none());

    let before = tcp_listeners();
    let script = format!(
        "xterm -geometry 50x10 -bc -T hello -e sh -c '{}'; cat /tmp/typed; exit 7",
        IN_TERMINAL.replace('\'', "'\\''")
    );
    let arguments = [
        "run",
        "-p",
        "windows",
        "--disk-size",
        "64M",
        "--net",
        "none",
        "-vv",
        "-g",
        "--keep",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let Some(mut command) = world.nofear(&arguments) else { return };
    assert!(desktop.command("setxkbmap").arg("gb").status().unwrap().success());
    command.env("XCURSOR_SIZE", "37").env("GTK_THEME", "HighContrastInverse");
    // A sound server that nobody has asked for.
    fs::create_dir(world.runtime().join("pulse")).unwrap();
    let sound = UnixListener::bind(world.runtime().join("pulse/native")).unwrap();
    sound.set_nonblocking(true).unwrap();
    let mut vm = Vm::start(command);
    let window = vm.window(desktop, title);
    desktop.park_pointer();

    // It looks as it does without a VM, but for the border.
    let place = desktop.settled(window);
    let shown = desktop.picture(place, "a window with a border and text", |picture| {
        picture.has_border(BORDER, COLOUR) && picture.differences(&expected, BORDER) == 0
    });
    shown.keep("xterm-in-vm");
    desktop.picture(place.title(), "the same title", |picture| picture.differences(&expected_title, 0) == 0);

    // Nobody else gets there, and nothing listens to the world.
    let folder = world.folder();
    let socket = folder.join("xpra.sock");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&socket)), (0o700, 0o600));
    assert!(!others_get_to(&socket));
    assert_eq!(tcp_listeners(), before);

    // The client sees nothing of this machine but its display.
    let client = client_of(&socket).expect("the client runs");
    assert_ne!(namespace(client, "net"), namespace(std::process::id(), "net"));
    let seen = |path: &Path| {
        Path::new(&format!("/proc/{client}/root")).join(path.strip_prefix("/").unwrap()).exists()
    };
    assert!(seen(&socket) && seen(Path::new("/usr/bin/xpra")));
    for hidden in ["/home", "/root", "/etc/passwd", "/var/log", "/sys"].map(PathBuf::from) {
        assert!(!seen(&hidden), "{}", hidden.display());
    }
    assert!(!seen(&folder.join("control.sock")) && !seen(world.home().path().join("nofear").as_path()));

    // Keyboard and resolution are the desktop's, and what it was started with is the theme. Without --sound there is none.
    let look =
        "setxkbmap -query | grep layout; xrdb -query | grep Xft.dpi; echo $XCURSOR_SIZE; pactl info 2>&1";
    let mut command = world.nofear(&["exec", "windows", "--", "sh", "-c", look]).unwrap();
    command.env_remove("XCURSOR_SIZE");
    let seen = output(command);
    let seen = seen.text();
    let (seen, no_sound) = seen.split_at(seen.find("Connection").expect("no sound"));
    let words: Vec<&str> = seen.split_whitespace().collect();
    assert_eq!(words, ["layout:", "gb", "Xft.dpi:", &DPI.to_string(), "37"], "{no_sound}");
    assert!(no_sound.contains("Connection refused"), "{no_sound}");
    assert_eq!(sound.accept().unwrap_err().kind(), ErrorKind::WouldBlock);

    // And others are told where they are.
    let shown = || {
        let text = output(world.nofear(&["ps", "--json"]).unwrap()).ok().text();
        let display = text.lines().find_map(|line| line.trim().strip_prefix("\"display\": ")).unwrap();
        display.trim_end_matches(',').to_owned()
    };
    let display = shown();
    assert!(display.starts_with("\":"), "{display}");

    // One more program, by another toolkit and another command, with something like a menu.
    let mut other = world.nofear(&["exec", "windows", "--", "python3", "-c", GTK]).unwrap();
    let mut other = start_quietly(&mut other);
    let gtk = desktop.settled(desktop.window("[windows] gtk"));
    let picture = desktop.picture(gtk, "a window of GTK", |picture| {
        picture.has_border(BORDER, COLOUR) && picture.has_inside(BORDER, THEME)
    });
    picture.keep("gtk-in-vm");
    let menu = Place { x: gtk.x + 20, y: gtk.y + 180, width: 90, height: 60 };
    desktop.picture(menu, "a menu in its place", |picture| {
        picture.has_border(BORDER, COLOUR) && picture.has_inside(BORDER, 0x20_4080)
    });
    desktop.screenshot().keep("desktop");
    kill(&other, Signal::TERM);
    assert_eq!(other.wait().unwrap().code(), Some(143));
    until("the end of its window", || desktop.find("[windows] gtk").is_none());

    // What shows the windows dies, and something else does it.
    kill_process(Pid::from_raw(client as i32).unwrap(), Signal::KILL).unwrap();
    until("the end of the window", || desktop.find(title).is_none());
    until("that it is told", || shown() == "null");
    assert!(output(world.nofear(&["ps"]).unwrap()).ok().text().contains("(none)"));
    let mut attached = start_quietly(&mut world.nofear(&["attach", "windows"]).unwrap());
    let window = desktop.window(title);
    assert_eq!(shown(), display);
    desktop.park_pointer();
    desktop.picture(desktop.settled(window), "the window once more", |picture| {
        picture.has_border(BORDER, COLOUR) && picture.differences(&expected, BORDER) == 0
    });

    // Keys arrive, and the program's end is that of all.
    desktop.type_into(window, "typed here");
    let ran = vm.end();
    // On a slow machine a key is held for so long that it repeats.
    let mut typed = ran.text().into_bytes();
    typed.dedup();
    assert_eq!((ran.status, typed.as_slice()), (Some(7), &b"typed here"[..]), "{}", ran.stderr);
    assert_eq!(attached.wait().unwrap().code(), Some(0));
    assert!(desktop.find(title).is_none());
    assert_eq!(fs::read_dir(world.runtime().join("nofear")).unwrap().count(), 0);
    until("the end of the client", || client_of(&socket).is_none());
}

/// The background that its theme gives a window; with GTK's own theme it is light.
const THEME: u32 = 0x30_3030;

/// A window of the theme's colour, and one that no window manager places, at its side: as menus are.
const GTK: &str = "
import gi
gi.require_version('Gtk', '3.0')
gi.require_version('Gdk', '3.0')
from gi.repository import Gdk, GLib, Gtk
window = Gtk.Window(title='gtk')
window.set_default_size(240, 160)
menu = Gtk.Window(type=Gtk.WindowType.POPUP)
menu.set_size_request(90, 60)
menu.set_transient_for(window)
def add(to, colour):
    area = Gtk.DrawingArea()
    def draw(area, context):
        Gdk.cairo_set_source_rgba(context, colour)
        context.paint()
    area.connect('draw', draw)
    to.add(area)
add(window, window.get_style_context().lookup_color('theme_bg_color')[1])
add(menu, Gdk.RGBA(0x20 / 255, 0x40 / 255, 0x80 / 255, 1))
window.show_all()
def place():
    _, x, y = window.get_window().get_origin()
    menu.move(x + 20, y + 180)
    menu.show_all()
    return True
GLib.timeout_add(2000, place)
Gtk.main()
";

/// Lies in the desktop's clipboard.
const SECRET: &str = "correct horse battery staple";

#[test]
fn a_hostile_server_gets_nothing_and_does_nothing() {
    let world = World::new();
    let share = world.hostile(false);
    let mut secrets: Vec<Child> = ["clipboard", "primary"]
        .map(|selection| {
            let mut owner = world.desktop().command("xclip");
            owner.args(["-quiet", "-in", "-selection", selection]);
            let mut owner = owner.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            owner.stdin.take().unwrap().write_all(SECRET.as_bytes()).unwrap();
            owner
        })
        .into();

    // Without bubblewrap, for this one alone: by Landlock.
    let run = ["run", "-t", "--net", "none", "--cpus", "1", "-vv", "--share", &share, "-g"];
    let Some(nofear) = world.nofear(&[]) else { return };
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", "mount --bind /bin/false /usr/bin/bwrap; exec \"$0\" \"$@\""]);
    command
        .arg(nofear.get_program())
        .args(run)
        .args(["--", "xterm", "-e", "sleep", "10000"])
        .stdin(Stdio::null());
    command.envs(nofear.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = Vm::start(command).end();

    let said = &ran.stderr;
    for part in [
        "hostile: tries clipboard",
        "hostile: tries malformed",
        "hostile: the client is there",
        "unknown packet type: clipboard-request",
        "file transfer rejected for file",
        "opening of URLs is disabled",
        "speaker forwarding is disabled",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("correct horse"), "the clipboard's content was told: {said}");
    // The end is the client's, and clear.
    assert!(matches!(ran.status, Some(125 | 143)), "{ran:?}");
    if ran.status == Some(125) {
        assert!(said.contains("nofear: the client that shows the windows"), "{said}");
    }
    for folder in ["/tmp", "/var/tmp", world.home().path().to_str().unwrap()] {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let found: Vec<_> = names.filter(|name| name.to_string_lossy().contains("nofear-hostile")).collect();
        assert!(found.is_empty(), "{folder}: {found:?}");
    }
    for owner in &mut secrets {
        owner.kill().unwrap();
        owner.wait().unwrap();
    }
}

#[test]
fn starts_that_come_to_nothing_leave_nothing() {
    let world = World::new();
    let run = ["run", "-t", "--net", "none", "--cpus", "1", "-v"];
    let with = |options: &[&str]| -> Vec<String> {
        run.iter().chain(options).map(|one| (*one).to_owned()).collect()
    };
    let nofear =
        |options: &[&str]| world.nofear(&with(options).iter().map(String::as_str).collect::<Vec<_>>());

    // The guest's kernel dies.
    let Some(command) = nofear(&["--append", "rdinit=/none init=/none", "-g", "true"]) else { return };
    let ran = output(command);
    assert!(ran.status == Some(125) && ran.stderr.contains("in the VM: "), "{ran:?}");

    // The user thinks better of it; or nofear is killed.
    for (signal, status) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
        let mut child = start_quietly(&mut nofear(&["-g", "true"]).unwrap());
        until("the client", || client_of(&world.runtime()).is_some());
        kill(&child, signal);
        assert_eq!(child.wait().unwrap().code(), status);
        until("the end of the client", || client_of(&world.runtime()).is_none());
    }

    // There is nothing to show windows on.
    let mut command = nofear(&["-g", "true"]).unwrap();
    let ran = output({
        command.env_remove("DISPLAY");
        command
    });
    assert!(ran.status == Some(125) && ran.stderr.contains("there is no display"), "{ran:?}");
    assert_eq!(fs::read_dir(world.runtime().join("nofear")).unwrap().count(), 0);
}

#[test]
fn landlock_leaves_a_client_nothing_but_what_it_draws_with() {
    let Some(nofear) = nofear_tests::nofear() else { return };
    let script = "cat /usr/bin/env >/dev/null && echo reads; cat /etc/passwd && echo wrong; ls /tmp && echo wrong; \
        (echo x >/tmp/nofear-landlock) && echo wrong; cat /dev/tty && echo wrong; \
        python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 9))'; echo end";
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new(nofear.get_program());
    command.args(["keep-window-client", "--landlock"]);
    for readable in ["/usr", "/bin", "/lib", "/lib64"] {
        command.args(["--readable", readable]);
    }
    command.args(["--", "/bin/sh", "-c", script]).stdin(std::os::fd::OwnedFd::from(theirs));
    let mut keeper = command.spawn().unwrap();
    drop(command);
    let mut said = String::new();
    (&ours).read_to_string(&mut said).unwrap();
    keeper.wait().unwrap();
    assert!(said.contains("reads") && said.contains("end") && said.contains("exited"), "{said}");
    assert!(!said.contains("wrong") && !said.contains("root:"), "{said}");
    // Refused by Landlock, not by nobody who listens.
    assert!(said.contains("PermissionError"), "{said}");
}

fn namespace(pid: u32, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}
