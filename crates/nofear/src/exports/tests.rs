use std::fs;
use std::os::unix::fs::symlink;

use super::*;

mod layouts;

#[test]
fn nothing_of_the_user_or_the_machine_is_on_the_list() {
    let forbidden = [
        "/home",
        "/root",
        "/run",
        "/proc",
        "/sys",
        "/dev",
        "/tmp",
        "/var",
        "/etc",
        "/etc/passwd",
        "/etc/group",
        "/etc/shadow",
        "/etc/ssl",
        "/etc/ssl/private",
        "/etc/pki",
        "/etc/pki/tls/private",
        "/etc/hosts",
        "/etc/hostname",
        "/etc/machine-id",
        "/etc/resolv.conf",
        "/etc/profile",
        "/etc/environment",
    ];
    for Entry { path, reason } in ALLOWED {
        assert!(!reason.is_empty());
        assert!(path.starts_with('/') && !path.ends_with('/'), "{path}");
        // Neither a forbidden place itself, nor a directory that holds one.
        assert!(forbidden.iter().all(|one| !Path::new(one).starts_with(path)), "{path}");
    }
}

#[test]
fn no_entry_is_listed_twice_or_inside_another() {
    for (at, one) in ALLOWED.iter().enumerate() {
        for other in &ALLOWED[at + 1..] {
            let (a, b) = (Path::new(one.path), Path::new(other.path));
            assert!(!a.starts_with(b) && !b.starts_with(a), "{a:?} {b:?}");
        }
    }
}

#[test]
fn what_is_there_is_granted_as_what_it_is() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    for directory in ["usr/bin", "etc/python3.11", "etc/java-17-openjdk", "etc/ssl/private", "etc/pythonic"] {
        fs::create_dir_all(at(directory)).unwrap();
    }
    symlink("usr/bin", at("bin")).unwrap();
    symlink("/missing", at("etc/localtime")).unwrap();
    fs::write(at("etc/timezone"), "Etc/UTC").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("etc/services"), rustix::fs::Mode::RUSR).unwrap();
    let export = format!("{:?}", build(root.path()).unwrap());
    for there in
        ["\"/usr\"", "\"/bin\"", "\"/etc/localtime\"", "\"/etc/timezone\"", "\"/etc/python3.11\"", "java-17"]
    {
        assert!(export.contains(there), "{there}: {export}");
    }
    for absent in ["private", "pythonic", "services", "\"/opt\""] {
        assert!(!export.contains(absent), "{absent}: {export}");
    }
    build(root.path()).unwrap().open().unwrap();
}

#[test]
fn this_host_can_be_exported() {
    open().unwrap();
    assert!(holds_program(Path::new("/usr/bin/zsh")));
    assert!(!holds_program(Path::new("/home/x/zsh")) && !holds_program(Path::new("/binary")));
}
