use super::*;

fn parse(text: &str) -> Result<(String, Option<String>), String> {
    let text_of = |path: PathBuf| path.into_os_string().into_string().unwrap();
    ShareSpec::parse(OsStr::new(text)).map(|spec| (text_of(spec.host), spec.guest.map(text_of)))
}

fn pair(host: &str, guest: Option<&str>) -> Result<(String, Option<String>), String> {
    Ok((host.into(), guest.map(Into::into)))
}

#[test]
fn the_last_colon_before_a_slash_parts_host_and_guest() {
    assert_eq!(parse("/a"), pair("/a", None));
    assert_eq!(parse("a/b"), pair("a/b", None));
    assert_eq!(parse("/a:/b"), pair("/a", Some("/b")));
    assert_eq!(parse("rel:/b"), pair("rel", Some("/b")));
    // Colons of the host's path.
    assert_eq!(parse("/a:b"), pair("/a:b", None));
    assert_eq!(parse("/a:b:/c"), pair("/a:b", Some("/c")));
    assert_eq!(parse("/a:/b:/c"), pair("/a:/b", Some("/c")));
}

#[test]
fn the_guest_path_is_made_plain() {
    assert_eq!(parse("/a://b//./c/"), pair("/a", Some("/b/c")));
}

#[test]
fn a_guest_path_that_leads_elsewhere_is_refused() {
    for text in ["/a:/", "/a:/.", "/a:/b/../c", "/a:/..", "/a:/proc", "/a:/dev/x", ":/b", ":rw", ""] {
        assert!(parse(text).is_err(), "{text}");
    }
    // Only a whole name is the kernel's.
    assert_eq!(parse("/a:/process"), pair("/a", Some("/process")));
}

#[test]
fn the_mode_is_the_last_word_and_read_only_unless_said() {
    for (text, host, guest, writable) in [
        ("/a", "/a", None, false),
        ("/a:rw", "/a", None, true),
        ("/a:ro", "/a", None, false),
        ("/a:/b:rw", "/a", Some("/b"), true),
        ("/a:/b:ro", "/a", Some("/b"), false),
        ("/a:rw:ro", "/a:rw", None, false),
        ("/a:rw:/b", "/a:rw", Some("/b"), false),
        ("/a:RW", "/a:RW", None, false),
    ] {
        let expected =
            ShareSpec { host: host.into(), guest: guest.map(Into::into), writable, caps: Caps::NONE };
        assert_eq!(ShareSpec::parse(OsStr::new(text)), Ok(expected), "{text}");
    }
    let folder = ShareSpec::parse_shared_folder(OsStr::new("dir:rw")).unwrap();
    assert_eq!((folder.host, folder.guest, folder.writable), ("dir".into(), Some("/shared".into()), true));
    assert!(ShareSpec::parse_shared_folder(OsStr::new(":rw")).is_err());
}

#[test]
fn what_may_be_added_can_be_capped() {
    let spec = ShareSpec::parse(OsStr::new("/a:/b:rw,bytes=2M,files=1000")).unwrap();
    assert_eq!(spec.caps, Caps { bytes: Some(2 << 20), files: Some(1000) });
    assert_eq!(ShareSpec::parse(OsStr::new("/a:rw,files=3K")).unwrap().caps.files, Some(3072));
    for text in [
        "/a:rw,",
        "/a:rw,bytes",
        "/a:rw,bytes=x",
        "/a:rw,size=1",
        "/a:rw,bytes=99999999999G",
        "/a:rw,bytes=1KK",
    ] {
        assert!(ShareSpec::parse(OsStr::new(text)).is_err(), "{text}");
    }
}

#[test]
fn what_the_host_itself_trusts_can_not_be_writable() {
    let home = std::env::home_dir().unwrap();
    let mut refused = vec![PathBuf::from("/"), home.clone(), home.parent().unwrap().into()];
    refused.extend(own_places());
    for host in refused {
        let spec =
            ShareSpec { host: host.clone(), guest: Some("/x".into()), writable: true, caps: Caps::NONE };
        let error = format!("{:#}", open(std::slice::from_ref(&spec)).unwrap_err());
        assert!(error.contains(":rw"), "{error}");
        assert!(open(&[ShareSpec { writable: false, ..spec }]).is_ok(), "{}", host.display());
    }
    let folder = tempfile::tempdir().unwrap();
    let spec =
        ShareSpec { host: folder.path().into(), guest: Some("/x".into()), writable: true, caps: Caps::NONE };
    let (export, shares) = open(&[spec]).unwrap().unwrap();
    assert!(export.is_writable() && shares[0].writable);
}

#[test]
fn names_are_bytes() {
    let spec = ShareSpec::parse(OsStr::from_bytes(b"/\xff:/\xfe")).unwrap();
    assert_eq!(spec.host.as_os_str().as_bytes(), b"/\xff");
    assert_eq!(spec.guest.unwrap().as_os_str().as_bytes(), b"/\xfe");
}

#[test]
fn shares_are_numbered_with_outer_ones_first() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f:x");
    std::fs::write(&file, "x").unwrap();
    let specs = [
        ShareSpec { host: file.clone(), guest: Some("/data/inner".into()), writable: true, caps: Caps::NONE },
        ShareSpec {
            host: folder.path().into(),
            guest: Some("/data".into()),
            writable: false,
            caps: Caps::NONE,
        },
        ShareSpec { host: folder.path().into(), guest: None, writable: false, caps: Caps::NONE },
    ];
    let (_, shares) = open(&specs).unwrap().unwrap();
    let of = |name: &str, at: &Path, directory, writable| agent_proto::Share {
        name: name.into(),
        at: at.as_os_str().as_bytes().into(),
        directory,
        writable,
    };
    let real = folder.path().canonicalize().unwrap();
    let expected = [
        of("0", Path::new("/data"), true, false),
        of("1", Path::new("/data/inner"), false, true),
        of("2", &real, true, false),
    ];
    assert_eq!(shares, expected);
    assert!(open(&[]).unwrap().is_none());
}

#[test]
fn a_share_that_cannot_be_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing =
        ShareSpec { host: folder.path().join("missing"), guest: None, writable: false, caps: Caps::NONE };
    assert!(format!("{:#}", open(&[missing]).unwrap_err()).contains("missing"));
    let device =
        ShareSpec { host: "/dev/null".into(), guest: Some("/x".into()), writable: false, caps: Caps::NONE };
    assert!(format!("{:#}", open(&[device]).unwrap_err()).contains("neither a folder nor a file"));
    let same = ShareSpec::parse_shared_folder(folder.path().as_os_str()).unwrap();
    assert!(format!("{:#}", open(&[same.clone(), same]).unwrap_err()).contains("/shared"));
    let root = ShareSpec { host: "/".into(), guest: None, writable: false, caps: Caps::NONE };
    assert!(format!("{:#}", open(&[root]).unwrap_err()).contains("/:GUEST"));
}
