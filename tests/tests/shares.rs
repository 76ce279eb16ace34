//! Writable shares, from the command to the host's files.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{fs, os::unix::fs::MetadataExt};

use nofear_tests::{output, run};

#[test]
fn what_the_program_changes_in_a_writable_share_is_changed_on_the_host() {
    let share = tempfile::tempdir_in("/tmp").unwrap();
    let read_only = tempfile::tempdir_in("/tmp").unwrap();
    let path = |name: &str| share.path().join(name);
    fs::write(path("old"), "old\n").unwrap();
    fs::write(path("gone"), "gone\n").unwrap();
    fs::write(read_only.path().join("file"), "kept\n").unwrap();
    fs::set_permissions(share.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let options = [
        "--root".to_string(),
        "--share".to_string(),
        format!("{}:/data:rw", share.path().display()),
        "--share".to_string(),
        format!("{}:/data/inner", read_only.path().display()),
        "-f".to_string(),
        format!("{}:rw", share.path().display()),
    ];
    let script = "set -e; cd /data; echo new > new; echo more >> old; cat old; mkdir -p d/e; mv old d/e/moved; rm gone; \
                  ln -s nowhere link; ln new hard; chmod 640 new; touch -d @1000000000.123456789 d; \
                  dd if=/dev/zero of=big bs=1M count=3 status=none; truncate -s 1G sparse; \
                  exec 3<>d/e/moved; rm d/e/moved; echo unlinked >&3; cat /proc/self/fd/3; exec 3>&-; \
                  (flock -n 4 && echo locked) 4>lock; rm lock; cat /shared/new; \
                  echo x > inner/file || echo refused; echo x > inner/new || echo refused; \
                  mount -o remount,rw inner; echo x > inner/file || echo refused; \
                  python3 -c 'import mmap,os; f=open(\"map\",\"wb+\"); f.truncate(8192); \
                  m=mmap.mmap(f.fileno(),8192); m[4096:4101]=b\"hello\"; m.close(); os.setxattr(\"map\",\"user.a\",b\"b\") \
                  ; print(os.listxattr(\"map\"))'; sync; ls";
    let Some(command) = run(options.iter().map(String::as_str).chain(["--", "sh", "-c", script])) else {
        return;
    };
    let ran = output(command);
    let expected = "old\nmore\nunlinked\nlocked\nnew\nrefused\nrefused\nrefused\n['user.a']\n\
                    big\nd\nhard\ninner\nlink\nmap\nnew\nsparse\n";
    assert_eq!(ran.text(), expected, "{ran:?}");
    assert_eq!(fs::read_to_string(path("new")).unwrap(), "new\n");
    assert_eq!(
        (path("new").metadata().unwrap().mode(), path("new").metadata().unwrap().nlink()),
        (0o100_640, 2)
    );
    assert_eq!(fs::read_link(path("link")).unwrap().to_str(), Some("nowhere"));
    let directory = path("d").metadata().unwrap();
    assert_eq!((directory.mtime(), directory.mtime_nsec()), (1_000_000_000, 123_456_789));
    assert_eq!(path("big").metadata().unwrap().len(), 3 << 20);
    assert!(path("sparse").metadata().unwrap().blocks() < 100);
    assert_eq!(&fs::read(path("map")).unwrap()[4096..4101], b"hello");
    assert_eq!(fs::read_dir(path("d/e")).unwrap().count(), 0);
    assert!(!path("gone").exists());
    assert_eq!(fs::read_to_string(read_only.path().join("file")).unwrap(), "kept\n");
    assert_eq!(fs::read_dir(read_only.path()).unwrap().count(), 1);
}
