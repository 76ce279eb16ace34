//! Nothing but the allow-list is visible, and read-only is read-only.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use nofear_tests::{output, run, script};

#[test]
fn nothing_of_the_hosts_own_files_is_there() {
    let secret = tempfile::Builder::new().prefix("secret").tempdir_in("/tmp").unwrap();
    fs::write(secret.path().join("canary"), "canary-of-the-host").unwrap();
    let path = secret.path().display();
    let Some(ran) = script(
        &["--root"],
        &format!(
            "ls /home /root; ls -d {path} /run/nofear/host/tmp /run/nofear/host/home /run/nofear/host/root; \
             cat /etc/shadow /run/nofear/host/etc/passwd /proc/1/root/host/etc/passwd; \
             ls -a /run/nofear/host /run/nofear/host/.. /run/nofear/host/etc/..; \
             grep -rl canary-of-the-host /tmp /home /root"
        ),
    ) else {
        return;
    };
    let text = ran.text();
    assert!(!text.contains("canary"), "{text}");
    let host_passwd = fs::read_to_string("/etc/passwd").unwrap();
    for line in host_passwd.lines().filter(|l| !l.starts_with("root:")) {
        assert!(!text.contains(line), "{line}");
    }
    for hidden in ["home", "root", "proc", "sys", "dev", "tmp"] {
        assert!(!text.lines().any(|l| l == hidden), "{hidden} is visible: {text}");
    }
}

/// A folder of the host's software that a guest can remove in no time.
fn small_folder() -> PathBuf {
    let is_small = |path: &PathBuf| {
        let entries: Vec<_> = fs::read_dir(path).into_iter().flatten().flatten().collect();
        (1..8).contains(&entries.len()) && entries.iter().all(|entry| entry.path().is_file())
    };
    fs::read_dir("/usr/share").unwrap().map(|entry| entry.unwrap().path()).find(is_small).unwrap()
}

#[test]
fn writes_stay_in_the_vm() {
    let small = small_folder();
    let Some(ran) = script(
        &["--root"],
        &format!(
            "echo changed > /usr/nofear-test-x && cat /usr/nofear-test-x; \
         echo changed >> /usr/bin/env && tail -c 8 /usr/bin/env; rm /usr/bin/true; ls /usr/bin/true; \
         mkdir /opt/nofear-test-y; rm -rf '{0}'; test -e '{0}' && echo there",
            small.display()
        ),
    ) else {
        return;
    };
    assert_eq!(ran.text(), "changed\nchanged\n", "{}", ran.stderr);
    assert!(!Path::new("/usr/nofear-test-x").exists());
    assert!(!Path::new("/opt/nofear-test-y").exists());
    assert!(Path::new("/usr/bin/true").exists());
    assert!(fs::read_dir(small).unwrap().next().is_some());
    assert!(!fs::read("/usr/bin/env").unwrap().ends_with(b"changed\n"));
}

#[test]
fn guest_root_can_not_write_to_the_host_by_any_mount() {
    let Some(ran) = script(
        &["--root"],
        "h=/run/nofear/host; \
         mount -o remount,rw $h; echo x > $h/usr/nofear-test-x; mkdir $h/usr/nofear-test-d; \
         rm -f $h/usr/bin/true; chmod 777 $h/usr/bin/env; ln $h/usr/bin/env $h/usr/bin/env2; \
         ln -s x $h/usr/l; mknod $h/usr/n c 1 3; touch $h/usr/bin/env; mv $h/usr/bin/env $h/usr/bin/env3; \
         truncate -s 0 $h/usr/bin/env; mkdir /m; \
         mount -t 9p -o trans=virtio,version=9p2000.L,rw nofear-root /m && echo x > /m/usr/nofear-test-z; \
         ls $h/usr/bin/true $h/usr/bin/env",
    ) else {
        return;
    };
    assert_eq!(ran.text(), "/run/nofear/host/usr/bin/env\n/run/nofear/host/usr/bin/true\n", "{}", ran.stderr);
    for made in ["nofear-test-x", "nofear-test-d", "nofear-test-z", "bin/env2", "bin/env3", "l", "n"] {
        assert!(!Path::new("/usr").join(made).exists(), "/usr/{made}");
    }
    assert!(fs::metadata("/usr/bin/env").unwrap().len() > 0);
}

#[test]
fn a_share_is_there_and_read_only_and_does_not_lead_out() {
    let share = tempfile::tempdir_in("/tmp").unwrap();
    fs::write(share.path().join("file"), "content\n").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", share.path().join("out")).unwrap();
    let single = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    fs::write(single.path(), "single\n").unwrap();
    let options = [
        "--root".to_string(),
        "--share".to_string(),
        format!("{}:/data/in", share.path().display()),
        "--share".to_string(),
        format!("{}:/etc/single", single.path().display()),
        "-f".to_string(),
        share.path().display().to_string(),
    ];
    let script = "cat /data/in/file /etc/single /shared/file; cat /data/in/out; hostname; \
                  echo x > /data/in/new || echo refused; echo x > /data/in/file || echo refused; \
                  mount -o remount,rw /data/in; echo x > /data/in/new || echo refused";
    let Some(command) = run(options.iter().map(String::as_str).chain(["--", "sh", "-c", script])) else {
        return;
    };
    let ran = output(command);
    let text = ran.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..3], ["content", "single", "content"], "{ran:?}");
    assert_eq!(lines[3], lines[4], "a link leads into the guest's own tree: {ran:?}");
    assert_eq!(lines[5..], ["refused"; 3], "{ran:?}");
    assert_eq!(fs::read_dir(share.path()).unwrap().count(), 2);
}
