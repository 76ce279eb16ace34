use super::*;

fn refused(target: &Path) -> String {
    format!("{:#}", Target::of(target.as_os_str()).unwrap_err())
}

#[test]
fn one_regular_file_is_opened_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a\n-b.txt");
    std::fs::write(&path, "text").unwrap();
    let Target::File { path: found, kinds } = Target::of(path.as_os_str()).unwrap() else {
        panic!("no file")
    };
    assert_eq!(found, path);
    assert!(!kinds.is_empty());
    // By a link, too: the user names it.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    Target::of(link.as_os_str()).unwrap();

    let fifo = folder.path().join("fifo\u{1b}[2J");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    let said = refused(&fifo);
    assert!(said.contains("a pipe") && !said.contains('\u{1b}') && said.lines().count() == 1, "{said}");
    assert!(refused(folder.path()).contains("a folder"));
    assert!(refused(Path::new("/dev/null")).contains("a device"));
    assert!(refused(&folder.path().join("none")).contains("No such file"));
    let huge = folder.path().join("huge");
    File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    assert!(refused(&huge).contains("1048576 MiB"), "{}", refused(&huge));
    let text = Target::of(OsStr::new("file:///etc/passwd")).unwrap_err().to_string();
    assert!(text.contains("/etc/passwd") && text.contains("path"), "{text}");
    assert!(matches!(Target::of(OsStr::new("https://x.example/")), Ok(Target::Url(_))));
    assert!(Target::of(OsStr::new("ftp://x.example/")).is_err());
}

#[test]
fn a_file_keeps_its_name_but_for_what_makes_it_hard_to_use() {
    let inside = |name: &[u8]| name_inside(&Path::new("/x").join(OsStr::from_bytes(name))).into_vec();
    assert_eq!(inside(b"a b.pdf"), b"a b.pdf");
    assert_eq!(inside(b"-rf"), b"_rf");
    assert_eq!(inside(b".bashrc"), b"_bashrc");
    assert_eq!(inside(b"a\nb\x1b.pdf"), b"a_b_.pdf");
    assert_eq!(inside(b"\xff.pdf"), b"\xff.pdf");
    let long = [&[b'x'; 240][..], b".pdf"].concat();
    assert!(inside(&long).len() == MAX_NAME && inside(&long).ends_with(b".pdf"));
}
