use super::*;

fn of(variables: &[(&str, &str)], files: &[&str]) -> anyhow::Result<Display> {
    let get = |name: &str| variables.iter().find(|(one, _)| *one == name).map(|(_, value)| value.into());
    Display::of(get, |path| files.iter().any(|file| path.as_os_str() == *file))
}

#[test]
fn a_display_is_its_socket_and_its_key() {
    let display = of(
        &[("DISPLAY", ":1.0"), ("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/7")],
        &["/tmp/.X11-unix/X1", "/home/u/.Xauthority"],
    );
    let display = display.unwrap();
    assert_eq!(display.files, [PathBuf::from("/tmp/.X11-unix/X1"), "/home/u/.Xauthority".into()]);
    assert_eq!(display.env[0], ("DISPLAY".into(), ":1.0".into()));
    assert_eq!(display.env[1], ("XAUTHORITY".into(), "/home/u/.Xauthority".into()));
    assert_eq!(display.env.len(), 2);
    let display = of(
        &[("WAYLAND_DISPLAY", "wayland-0"), ("XDG_RUNTIME_DIR", "/run/user/7")],
        &["/run/user/7/wayland-0"],
    );
    assert_eq!(display.unwrap().files, [PathBuf::from("/run/user/7/wayland-0")]);
}

#[test]
fn a_display_of_ssh_is_a_port() {
    let display = of(&[("DISPLAY", "localhost:10.0"), ("XAUTHORITY", "/a")], &["/a"]).unwrap();
    assert_eq!((display.tcp_port, display.files), (Some(6010), vec![PathBuf::from("/a")]));
}

#[test]
fn what_is_no_display_is_said() {
    for (name, files, part) in [
        ("", &[][..], "no display"),
        (":7", &[], "no /tmp/.X11-unix/X7"),
        ("x", &[], "DISPLAY is x"),
        (":x", &[], "no display has such a name"),
        ("host:65000", &[], "no display has such a name"),
        (":-1", &[], "no display has such a name"),
    ] {
        let error = of(&[("DISPLAY", name)], files).unwrap_err().to_string();
        assert!(error.contains(part), "{name}: {error}");
    }
}
