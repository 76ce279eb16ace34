use super::*;

#[test]
fn what_a_killed_process_was_writing_is_removed_by_a_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let old = SystemTime::now() - 2 * ABANDONED;
    for (name, time) in
        [(".abc.12.0", old), (".abc.12.1", SystemTime::now()), (".abc.x.0", old), ("abc.vmlinux", old)]
    {
        File::create(folder.path().join(name)).unwrap().set_modified(time).unwrap();
    }
    publish(&folder.path().join("new"), b"x").unwrap();
    let mut left: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, [".abc.12.1", ".abc.x.0", "abc.vmlinux", "new"]);
}
