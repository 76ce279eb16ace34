use super::*;

fn display() -> Display {
    Display { files: vec!["/tmp/.X11-unix/X1".into(), "/home/u/.Xauthority".into()], ..Display::default() }
}

fn program() -> Program {
    Program { command: vec!["/usr/bin/xpra".into(), "attach".into()], env: vec![("A".into(), "b".into())] }
}

const CHANNEL: &str = "/run/user/7/nofear/1/xpra.sock";

fn places<'a>(display: &'a Display, sound: Option<&'a Sound>) -> Places<'a> {
    Places { display, channel: Path::new(CHANNEL), sound }
}

#[test]
fn sound_goes_through_the_keeper() {
    let socket = PathBuf::from("/run/user/7/nofear/1/sound.sock");
    let sound =
        Sound { server: "/run/user/7/pulse/native".into(), socket: socket.clone(), microphone: false };
    for confinement in [Confinement::Namespaces("/usr/bin/bwrap".into()), Confinement::Landlock] {
        let (around, keeper) = confinement.around(program(), &places(&display(), Some(&sound)));
        assert!(!around.command.contains(&sound.server.clone().into()), "{around:?}");
        let is_bound = around.command.contains(&socket.clone().into());
        assert_eq!(is_bound, confinement != Confinement::Landlock);
        assert!(keeper.contains(&sound.server.clone().into()) && !keeper.contains(&"--microphone".into()));
    }
    let sound = Sound { microphone: true, ..sound };
    let (_, keeper) = Confinement::Landlock.around(program(), &places(&display(), Some(&sound)));
    assert!(keeper.contains(&"--microphone".into()));
}

#[test]
fn namespaces_hold_the_software_the_display_and_the_channel() {
    let channel = Path::new(CHANNEL);
    let (around, keeper) =
        Confinement::Namespaces("/usr/bin/bwrap".into()).around(program(), &places(&display(), None));
    assert!(keeper.is_empty());
    let words: Vec<&str> = around.command.iter().map(|word| word.to_str().unwrap()).collect();
    assert!(words.starts_with(&["/usr/bin/bwrap", "--unshare-all", "--die-with-parent"]), "{words:?}");
    assert!(words.ends_with(&["--", "/usr/bin/xpra", "attach"]), "{words:?}");
    let bound: Vec<&str> =
        words.windows(2).filter(|pair| pair[0].contains("bind")).map(|pair| pair[1]).collect();
    for wanted in
        ["/usr", "/etc/fonts", "/tmp/.X11-unix/X1", "/home/u/.Xauthority", channel.to_str().unwrap()]
    {
        assert!(bound.contains(&wanted), "{wanted}: {bound:?}");
    }
    for never in ["/", "/home", "/etc", "/tmp", "/run", "/run/user/7", "/var"] {
        assert!(!bound.contains(&never), "{never}");
    }
    assert!(!words.contains(&"--share-net"));
    assert_eq!(around.env, program().env);
    let far = Display { tcp_port: Some(6010), ..display() };
    let (around, _) = Confinement::Namespaces("/usr/bin/bwrap".into()).around(program(), &places(&far, None));
    assert!(around.command.contains(&"--share-net".into()));
}

#[test]
fn landlock_leaves_the_program_and_tells_its_keeper() {
    let far = Display { tcp_port: Some(6010), ..display() };
    let (around, keeper) = Confinement::Landlock.around(program(), &places(&far, None));
    assert_eq!(around, program());
    for wanted in ["--landlock", "/usr", "/home/u/.Xauthority", "--tcp-port", "6010"] {
        assert!(keeper.contains(&wanted.into()), "{wanted}");
    }
    for never in ["/", "/home", "/etc", "/tmp", "/run"] {
        assert!(!keeper.contains(&never.into()), "{never}");
    }
}
