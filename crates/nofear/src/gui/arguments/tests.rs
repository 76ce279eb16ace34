use super::*;

/// What 3.1.3 of Debian 12 prints, and whole lists of later ones in the same form, written from their manual pages and
/// notes: names and values are theirs, explanations are not.
const HELP: [(&str, &str); 4] = [
    ("3.1", include_str!("help-3.1.3.txt")),
    ("4.4", include_str!("help-4.4.txt")),
    ("5.0", include_str!("help-5.0.txt")),
    ("6.2", include_str!("help-6.2.txt")),
];

fn known(version: &str) -> Known {
    Known::from_help(HELP.iter().find(|(name, _)| *name == version).unwrap().1)
}

fn look() -> Look {
    Look { name: "work".into(), colour: "#123456".into() }
}

fn client_of(known: &Known, args: &GuiArgs) -> Vec<String> {
    client(known, args, &look(), Path::new("/run/user/1000/nofear/01234567/xpra.sock")).unwrap()
}

#[test]
fn options_are_read_from_the_beginnings_of_lines_only() {
    let names = known("3.1");
    for name in ["version", "help", "tray", "mmap", "speaker", "compression_level", "xvfb", "debug", "border"]
    {
        assert!(names.has(name), "{name}");
    }
    assert_eq!(names.names().count(), 176);
    for later in ["splash", "reconnect", "headerbar", "audio"] {
        assert!(!names.has(later) && known("5.0").has(later), "{later}");
    }
    for (version, _) in HELP {
        assert!(known(version).names().count() > 170, "{version}");
        assert!(!known(version).has("made-up") && !known(version).has("also-made-up"), "{version}");
    }
    assert_eq!(Known::from_help("  --\n--=\n - x\n"), Known::default());
}

#[test]
fn the_client_of_every_version_does_nothing_for_the_guest() {
    for (version, _) in HELP {
        let arguments = client_of(&known(version), &GuiArgs::default());
        assert_eq!(arguments[..2], ["attach", "socket:///run/user/1000/nofear/01234567/xpra.sock"]);
        for safe in [
            "--mmap=no",
            "--opengl=no",
            "--tray=no",
            "--system-tray=no",
            "--clipboard=no",
            "--speaker=disabled",
            "--microphone=disabled",
            "--webcam=no",
            "--printing=no",
            "--file-transfer=no",
            "--open-files=no",
            "--open-url=no",
            "--notifications=no",
            "--remote-logging=no",
            "--bell=no",
            "--xsettings=no",
            "--start-new-commands=no",
            "--modal-windows=no",
            "--challenge-handlers=none",
            "--encodings=rgb",
            "--video-decoders=none",
            "--csc-modules=none",
            "--border=#123456,4",
            "--title=[work] @title@",
        ] {
            assert!(
                arguments.iter().any(|argument| argument == safe),
                "{version} lacks {safe}: {arguments:?}"
            );
        }
        assert!(!arguments.iter().any(|argument| argument.contains("direction")));
        // Each once, and none that the version does not know.
        let mut names: Vec<&str> = arguments[2..].iter().map(|one| option_name(one)).collect();
        assert!(names.iter().all(|name| known(version).has(name)), "{version}: {names:?}");
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), arguments.len() - 2);
    }
    let has = |version, option: &str| {
        client_of(&known(version), &GuiArgs::default()).iter().any(|one| one == option)
    };
    assert!(!has("3.1", "--reconnect=no") && has("4.4", "--reconnect=no") && has("6.2", "--splash=no"));
    assert!(!has("3.1", "--control=no") && has("6.2", "--control=no") && has("6.2", "--shell=no"));
    assert!(has("3.1", "--global-menus=no") && !has("6.2", "--global-menus=no") && has("6.2", "--audio=no"));
}

#[test]
fn the_clipboard_goes_where_the_user_says() {
    for (clipboard, direction) in
        [(Clipboard::ToHost, "to-client"), (Clipboard::ToGuest, "to-server"), (Clipboard::Both, "both")]
    {
        let args = GuiArgs { clipboard, ..GuiArgs::default() };
        let arguments = client_of(&known("6.2"), &args);
        assert!(arguments.contains(&"--clipboard=yes".into()), "{arguments:?}");
        assert!(arguments.contains(&format!("--clipboard-direction={direction}")), "{arguments:?}");
        let arguments = server(&known("6.2"), &args, "/s").unwrap();
        assert!(arguments.contains(&"--clipboard=yes".into()), "{arguments:?}");
    }
}

#[test]
fn sound_goes_where_the_user_says_and_notifications_come_if_asked_for() {
    for (version, _) in HELP {
        let known = known(version);
        for (sound, microphone) in [(true, false), (false, true), (true, true)] {
            let args = GuiArgs { sound, microphone, ..GuiArgs::default() };
            let both = [client_of(&known, &args), server(&known, &args, "/s").unwrap()];
            for arguments in both {
                let has = |option: &str| arguments.iter().any(|one| one == option);
                for (name, wanted) in [("speaker", sound), ("microphone", microphone)] {
                    let value = if wanted { "on" } else { "disabled" };
                    assert!(has(&format!("--{name}={value}")), "{version}: {arguments:?}");
                    let one = arguments.iter().filter(|one| one.starts_with(&format!("--{name}="))).count();
                    assert_eq!(one, 1, "{version}: {arguments:?}");
                }
                assert!(!has("--audio=no") && has("--webcam=no"), "{version}: {arguments:?}");
            }
        }
        let args = GuiArgs { notifications: true, ..GuiArgs::default() };
        assert!(client_of(&known, &args).contains(&"--notifications=yes".into()));
        assert!(server(&known, &args, "/s").unwrap().contains(&"--notifications=yes".into()));
    }
    let args = GuiArgs { sound: true, ..GuiArgs::default() };
    let less: Known = known("3.1").names().filter(|one| *one != "speaker").collect();
    let error = client(&less, &args, &look(), Path::new("/s")).unwrap_err().to_string();
    assert!(error.contains("--speaker"), "{error}");
}

#[test]
fn a_client_that_can_t_be_told_to_do_nothing_is_not_started() {
    let all = known("3.1");
    for name in [
        "mmap",
        "clipboard",
        "file-transfer",
        "open-url",
        "notifications",
        "remote-logging",
        "title",
        "border",
    ] {
        let less: Known = all.names().filter(|one| *one != name).collect();
        let error = client(&less, &GuiArgs::default(), &look(), Path::new("/s")).unwrap_err().to_string();
        assert!(error.contains(&format!("--{name}")), "{error}");
    }
    let args = GuiArgs { clipboard: Clipboard::ToHost, ..GuiArgs::default() };
    let less: Known = all.names().filter(|one| *one != "clipboard-direction").collect();
    assert!(client(&less, &args, &look(), Path::new("/s")).is_err());
}

#[test]
fn a_path_that_means_something_to_xpra_is_refused() {
    for path in ["/a:b/s", "/user@host/s", "/a?ssh=x/s", "/a#b"] {
        let error =
            client(&known("3.1"), &GuiArgs::default(), &look(), Path::new(path)).unwrap_err().to_string();
        assert!(error.contains(path), "{error}");
    }
}

#[test]
fn the_server_gets_what_it_needs_in_every_version() {
    for (version, _) in HELP {
        let arguments = server(&known(version), &GuiArgs::default(), "/run/user/7/xpra.sock").unwrap();
        assert_eq!(arguments[..2], ["start", ":10"]);
        for option in
            ["--bind=/run/user/7/xpra.sock", "--daemon=no", "--attach=no", "--mdns=no", "--html=off"]
        {
            assert!(arguments.iter().any(|one| one == option), "{version} lacks {option}: {arguments:?}");
        }
        assert!(arguments.iter().any(|one| one.starts_with("--xvfb=Xvfb ") && one.contains("-nolisten tcp")));
        assert!(arguments[2..].iter().all(|one| known(version).has(option_name(one))), "{arguments:?}");
    }
    let error = server(&Known::from_iter(["bind", "daemon"]), &GuiArgs::default(), "/s").unwrap_err();
    assert!(error.to_string().contains("--xvfb"), "{error}");
}

fn option_name(argument: &str) -> &str {
    argument.strip_prefix("--").unwrap().split('=').next().unwrap()
}

proptest::proptest! {
    #[test]
    fn any_help_text_is_read(text in "(?s).{0,400}") {
        let _ = Known::from_help(&text);
    }
}
