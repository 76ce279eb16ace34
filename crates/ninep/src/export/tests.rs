use std::fs;

use super::*;

fn builder() -> ExportBuilder {
    ExportBuilder::new()
}

#[test]
fn a_guest_path_must_be_absolute_and_ordinary() {
    for path in ["", "usr", "./usr", "/usr/../etc", "/..", "/.", "/a/./b", "/a\0b"] {
        let error = builder().directory(path, "/usr").unwrap_err();
        assert!(matches!(error, ExportError::GuestPath { .. }), "{path:?}: {error}");
    }
    let long = format!("/{}", "x".repeat(256));
    assert!(matches!(builder().file(long, "/x"), Err(ExportError::GuestPath { .. })));
    assert!(builder().directory("//usr//lib/", "/usr/lib").is_ok());
}

#[test]
fn a_path_is_granted_once() {
    let twice = builder().directory("/usr", "/a").unwrap().directory("/usr/", "/b");
    assert!(matches!(twice, Err(ExportError::Duplicate { guest }) if guest == Path::new("/usr/")));
    let twice = builder().directory("/", "/a").unwrap().directory("/", "/b");
    assert!(matches!(twice, Err(ExportError::Duplicate { .. })));
    let twice = builder().file("/a/b", "/a").unwrap().symlink("/a/b", "x");
    assert!(matches!(twice, Err(ExportError::Duplicate { .. })));
}

#[test]
fn a_grant_below_a_file_or_link_is_refused_in_either_order() {
    let file = || builder().file("/a/b", "/x").unwrap();
    assert!(matches!(file().file("/a/b/c", "/y"), Err(ExportError::NotDirectory { .. })));
    assert!(matches!(file().file("/a", "/y"), Err(ExportError::NotDirectory { .. })));
    assert!(matches!(file().symlink("/a", "y"), Err(ExportError::NotDirectory { .. })));
    assert!(matches!(builder().file("/", "/y"), Err(ExportError::NotDirectory { .. })));
    assert!(file().directory("/a", "/y").is_ok());
}

#[test]
fn the_text_of_a_link_is_checked() {
    for target in ["", "a\0b"] {
        assert!(matches!(builder().symlink("/a", target), Err(ExportError::Target { .. })));
    }
    assert!(builder().symlink("/a", "x".repeat(4095)).is_ok());
    assert!(matches!(builder().symlink("/a", "x".repeat(4096)), Err(ExportError::Target { .. })));
}

#[test]
fn what_the_host_does_not_have_is_an_error_that_names_it() {
    let error = builder().directory("/usr", "/no/such/directory").unwrap().open().unwrap_err();
    assert_eq!(error.to_string(), "open /no/such/directory for the grant /usr");
    assert!(std::error::Error::source(&error).is_some());
    let error = builder().file("/usr", "/").unwrap().open().unwrap_err();
    assert_eq!(error.to_string(), "open / for the grant /usr: not a regular file");
    let error = builder().directory("/x", "/proc/self/exe").unwrap().open().unwrap_err();
    assert_eq!(error.to_string(), "open /proc/self/exe for the grant /x: not a directory");
}

#[test]
fn a_way_through_the_hosts_link_or_file_is_refused() {
    let host = tempfile::tempdir().unwrap();
    fs::create_dir(host.path().join("real")).unwrap();
    fs::write(host.path().join("file"), "").unwrap();
    std::os::unix::fs::symlink("real", host.path().join("link")).unwrap();
    for way in ["link", "file"] {
        let error = builder()
            .directory("/", host.path())
            .unwrap()
            .file(format!("/{way}/x"), host.path().join("file"))
            .unwrap()
            .open()
            .unwrap_err();
        assert!(matches!(error, ExportError::NotDirectory { .. }), "{way}: {error}");
    }
}

#[test]
fn the_order_of_grants_does_not_matter() {
    let host = tempfile::tempdir().unwrap();
    let path = host.path();
    let deep_first = builder().directory("/a/b", path).unwrap().directory("/a", path).unwrap();
    let deep_last = builder().directory("/a", path).unwrap().directory("/a/b", path).unwrap();
    for export in [deep_first.open().unwrap(), deep_last.open().unwrap()] {
        let a = export.get(GrantId::ROOT).children[&b"a"[..]];
        assert!(matches!(export.get(a).backing, Backing::Directory(_)));
        let b = export.get(a).children[&b"b"[..]];
        assert!(matches!(export.get(b).backing, Backing::Directory(_)));
    }
}
