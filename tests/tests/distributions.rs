//! Programs of other distributions run with nothing configured: `nofear` on a tree that debootstrap made, as on a
//! machine with that distribution.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::process::{Command, Stdio};

use nofear_tests::{may_mount, ours, output};

/// Runs `nofear` in the tree `$1`, for which kernel, initramfs and the program itself are elsewhere. All that is
/// written goes to a tmpfs, and all mounts go with the script.
const SCRIPT: &str = r#"
mount -t tmpfs none /mnt; mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir="$1",upperdir=/mnt/upper,workdir=/mnt/work none /mnt/root
cd /mnt/root
mount --rbind /dev dev; mount -t proc none proc; mount -t tmpfs none tmp
cp "$NOFEAR" tmp/nofear; cp "$NOFEAR_KERNEL" tmp/vmlinux; cp "$NOFEAR_INITRAMFS" tmp/initramfs
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root NOFEAR_KERNEL=/tmp/vmlinux NOFEAR_INITRAMFS=/tmp/initramfs \
    chroot . /tmp/nofear run -p first --disk-size 64M --cpus 1 --mem 256M -- sh -c "$2"
"#;

/// What runs in the VM: a line each. The profile's file system is made by the distribution's own mkfs.ext4.
const PROGRAMS: &str = r#"
cd; . /usr/lib/os-release; echo $ID $VERSION_ID
bash -c 'echo bash $((6 * 7))'
ls -d /usr/bin/env
echo x | sed s/x/sed/
echo grep | grep -o grep
awk 'BEGIN { print "awk", 6 * 7 }'
python3 -c 'print("python", 6 * 7)'
perl -e 'print "perl ", 6 * 7, "\n"'
mkdir t; echo tar > t/f; tar cz t | tar xzO t/f
find /usr/bin -name env
file -bL /usr/bin/env | cut -c 1-3
echo '6 * 7' | bc
openssl verify -CApath /etc/ssl/certs /etc/ssl/certs/ISRG_Root_X1.pem
ldconfig -p | grep -c -m 1 libc.so.6
date -u -d @0 +%Y
getent passwd root | cut -d : -f 1,3,4
df -h / >/dev/null; mount | grep -c ' / type overlay'
"#;

const SAID: &str = "bash 42\n/usr/bin/env\nsed\ngrep\nawk 42\npython 42\nperl 42\ntar\n/usr/bin/env\nELF\n42\n\
                    /etc/ssl/certs/ISRG_Root_X1.pem: OK\n1\n1970\nroot:0:0\n1\n";

#[test]
fn programs_of_each_distribution_run() {
    let (Some(_), Some(trees)) = (ours("NOFEAR"), ours("NOFEAR_DISTRIBUTIONS")) else { return };
    if !may_mount() {
        return;
    }
    let trees = trees.into_string().unwrap();
    assert_ne!(trees, "", "there is no tree");
    for line in trees.lines() {
        let (id, tree) = line.split_once('\t').unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-euc", SCRIPT, "sh", tree, PROGRAMS]).stdin(Stdio::null());
        let ran = output(command);
        let text = ran.text();
        assert_eq!(text, format!("{id}\n{SAID}"), "{id}: {}", ran.stderr);
        println!("{id}: all of its programs ran");
    }
}
