use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

/// A base directory of mode 0700.
fn base() -> (tempfile::TempDir, OwnedFd) {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let opened = openat(CWD, folder.path(), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    (folder, opened)
}

fn create(base: &(tempfile::TempDir, OwnedFd)) -> anyhow::Result<RuntimeDir> {
    RuntimeDir::create_in(&base.1, base.0.path(), None)
}

fn listing(base: &(tempfile::TempDir, OwnedFd)) -> Vec<String> {
    let entries = fs::read_dir(base.0.path().join(ALL)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_folder_is_its_users_alone_and_goes_with_the_vm() {
    let base = base();
    let vm = create(&base).unwrap();
    let listener = vm.listen_for_control().unwrap();
    assert_eq!(fs::metadata(&vm.path).unwrap().mode() & 0o777, 0o700);
    UnixStream::connect(vm.path.join(CONTROL_SOCKET)).unwrap();
    drop(listener);
    drop(vm);
    assert!(listing(&base).is_empty());
}

#[test]
fn a_dead_vms_folder_is_removed_and_a_living_ones_is_not() {
    let base = base();
    let living = create(&base).unwrap();
    let living_id = living.id.clone();
    // Killed: the lock goes with the descriptors, and nothing is removed.
    let dead = create(&base).unwrap();
    let _socket = dead.listen_for_control().unwrap();
    let dead = std::mem::ManuallyDrop::new(dead);
    flock(&dead.folder, FlockOperation::Unlock).unwrap();
    // Not a VM's.
    fs::create_dir(base.0.path().join(ALL).join("other")).unwrap();
    fs::write(base.0.path().join(ALL).join("other/file"), "").unwrap();
    symlink("/tmp", base.0.path().join(ALL).join("0123abcd")).unwrap();

    let new = create(&base).unwrap();
    let mut left = listing(&base);
    left.sort();
    let mut expected = vec!["0123abcd".to_owned(), "other".into(), living_id, new.id.clone()];
    expected.sort();
    assert_eq!(left, expected);
}

#[test]
fn a_link_or_a_folder_open_to_others_is_not_used() {
    let base = base();
    let elsewhere = tempfile::tempdir().unwrap();
    let all = base.0.path().join(ALL);
    symlink(elsewhere.path(), &all).unwrap();
    assert!(create(&base).is_err());
    fs::remove_file(&all).unwrap();
    fs::create_dir(&all).unwrap();
    fs::set_permissions(&all, fs::Permissions::from_mode(0o770)).unwrap();
    let error = format!("{:#}", create(&base).unwrap_err());
    assert!(error.contains("770"), "{error}");
}

#[test]
fn a_link_in_the_shared_directory_is_not_followed() {
    let shared = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let name = format!("nofear-{}", getuid().as_raw());
    symlink(elsewhere.path(), shared.path().join(&name)).unwrap();
    assert!(base_in(shared.path()).is_err());
    fs::remove_file(shared.path().join(&name)).unwrap();
    let (_, path) = base_in(shared.path()).unwrap();
    assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn vms_that_start_at_once_do_not_remove_one_another() {
    let base = base();
    let ids = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| create(&base).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(ids.iter().all(|vm| vm.path.is_dir()));
    drop(ids);
    assert!(listing(&base).is_empty());
}

#[test]
fn a_name_is_had_by_one_vm_at_a_time_and_free_when_that_was_killed() {
    let base = base();
    let create = |name| RuntimeDir::create_in(&base.1, base.0.path(), Some(&VmName::parse(name).unwrap()));
    let web = create("web").unwrap();
    assert!(format!("{:#}", create("web").unwrap_err()).contains("the name web runs already"));
    create("mail").unwrap();
    let _socket = web.listen_for_control().unwrap();
    let dead = std::mem::ManuallyDrop::new(web);
    flock(&dead.folder, FlockOperation::Unlock).unwrap();
    assert_eq!(create("web").unwrap().id(), "web");
    for name in ["", ".", "..", "a/b", "-a", "a b", &"x".repeat(41)] {
        assert!(VmName::parse(name).is_err(), "{name}");
    }
}
