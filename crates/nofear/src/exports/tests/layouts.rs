//! The allow-list against the layouts of distributions, each as a tree of the paths that matter.
//!
//! A fixture has what the distribution's packages install, in their own words: `path` a file, `path/` a
//! directory, `path -> target` a link. What must be reachable is followed as the guest does, link by link, and
//! every step must be granted.

use std::collections::BTreeSet;

use super::*;

struct Layout {
    name: &'static str,
    /// Where the fixture's content is from.
    source: &'static str,
    tree: &'static [&'static str],
    /// What a program must be able to open.
    reachable: &'static [&'static str],
    /// What the distribution has and no guest may see.
    hidden: &'static [&'static str],
}

const LAYOUTS: &[Layout] = &[
    Layout {
        name: "Debian 12 and 13, Ubuntu 22.04 and 24.04: merged /usr",
        source: "package contents of usrmerge/base-files, libc6, libc6-i386, libc6-x32, ca-certificates, tzdata, \
                 fontconfig-config, mawk, openjdk-17-jre-headless, ca-certificates-java, media-types, ncurses-base",
        tree: &[
            "bin -> usr/bin",
            "sbin -> usr/sbin",
            "lib -> usr/lib",
            "lib32 -> usr/lib32",
            "lib64 -> usr/lib64",
            "libx32 -> usr/libx32",
            "usr/bin/mawk",
            "usr/bin/awk -> /etc/alternatives/awk",
            "etc/alternatives/awk -> /usr/bin/mawk",
            "usr/sbin/mkfs.ext4",
            "usr/lib64/ld-linux-x86-64.so.2 -> ../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
            "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
            "usr/lib32/ld-linux.so.2",
            "usr/libx32/ld-linux-x32.so.2",
            "etc/ld.so.cache",
            "etc/ld.so.conf.d/x86_64-linux-gnu.conf",
            "etc/ssl/certs/ca-certificates.crt",
            "etc/ssl/certs/java/cacerts",
            "etc/ssl/private/ssl-cert-snakeoil.key",
            "etc/ssl/openssl.cnf",
            "usr/lib/ssl/certs -> /etc/ssl/certs",
            "usr/lib/ssl/openssl.cnf -> /etc/ssl/openssl.cnf",
            "etc/localtime -> /usr/share/zoneinfo/Europe/Berlin",
            "etc/timezone",
            "usr/share/zoneinfo/Europe/Berlin",
            "usr/share/zoneinfo/localtime -> /etc/localtime",
            "etc/fonts/fonts.conf",
            "etc/fonts/conf.d/10-hinting-slight.conf -> /usr/share/fontconfig/conf.avail/10-hinting-slight.conf",
            "usr/share/fontconfig/conf.avail/10-hinting-slight.conf",
            "var/cache/fontconfig/CACHEDIR.TAG",
            "usr/lib/locale/locale-archive",
            "usr/share/locale/locale.alias -> /etc/locale.alias",
            "etc/locale.alias",
            "etc/java-17-openjdk/security/java.security",
            "usr/lib/jvm/java-17-openjdk-amd64/conf/security -> /etc/java-17-openjdk/security",
            "usr/lib/jvm/java-17-openjdk-amd64/lib/security/cacerts -> /etc/ssl/certs/java/cacerts",
            "etc/python3/debian_config",
            "etc/python3.11/sitecustomize.py",
            "usr/lib/python3.11/sitecustomize.py -> /etc/python3.11/sitecustomize.py",
            "etc/terminfo/README",
            "usr/lib/terminfo/x/xterm",
            "etc/mime.types",
            "usr/share/mime/mime.cache",
            "etc/passwd",
            "etc/shadow",
            "etc/environment",
            "etc/default/locale",
            "home/ann/.ssh/id_ed25519",
            "var/lib/dpkg/status",
            "snap/bin/x",
        ],
        reachable: &[
            "/bin/awk",
            "/sbin/mkfs.ext4",
            "/lib64/ld-linux-x86-64.so.2",
            "/lib32/ld-linux.so.2",
            "/libx32/ld-linux-x32.so.2",
            "/etc/ld.so.cache",
            "/etc/ld.so.conf.d/x86_64-linux-gnu.conf",
            "/etc/ssl/certs/ca-certificates.crt",
            "/usr/lib/ssl/certs/ca-certificates.crt",
            "/usr/lib/ssl/openssl.cnf",
            "/etc/localtime",
            "/usr/share/zoneinfo/localtime",
            "/etc/timezone",
            "/etc/fonts/fonts.conf",
            "/etc/fonts/conf.d/10-hinting-slight.conf",
            "/var/cache/fontconfig/CACHEDIR.TAG",
            "/usr/lib/locale/locale-archive",
            "/usr/share/locale/locale.alias",
            "/usr/lib/jvm/java-17-openjdk-amd64/conf/security/java.security",
            "/usr/lib/jvm/java-17-openjdk-amd64/lib/security/cacerts",
            "/usr/lib/python3.11/sitecustomize.py",
            "/etc/python3/debian_config",
            "/etc/terminfo/README",
            "/lib/terminfo/x/xterm",
            "/etc/mime.types",
            "/usr/share/mime/mime.cache",
        ],
        hidden: &[
            "/etc/passwd",
            "/etc/shadow",
            "/etc/environment",
            "/etc/default/locale",
            "/etc/ssl/private/ssl-cert-snakeoil.key",
            "/home/ann/.ssh/id_ed25519",
            "/var/lib/dpkg/status",
            "/snap/bin/x",
        ],
    },
    Layout {
        name: "Debian before 12, Gentoo with split /usr: unmerged",
        source: "package contents of bash, coreutils, libc6 of Debian 10; Gentoo's baselayout with the split-usr flag, \
                 sys-libs/glibc, app-misc/ca-certificates, dev-lang/python-exec, sys-libs/timezone-data (which copies \
                 /etc/localtime), dev-java/java-config",
        tree: &[
            "bin/bash",
            "bin/sh -> bash",
            "sbin/mkfs.ext4 -> mke2fs",
            "sbin/mke2fs",
            "lib/x86_64-linux-gnu/libc.so.6",
            "lib64/ld-linux-x86-64.so.2 -> /lib/x86_64-linux-gnu/ld-2.28.so",
            "lib/x86_64-linux-gnu/ld-2.28.so",
            "lib/modules/6.1.0/modules.dep",
            "usr/bin/python3 -> ../lib/python-exec/python-exec2",
            "usr/lib/python-exec/python-exec2",
            "etc/python-exec/python-exec.conf",
            "etc/localtime",
            "etc/ssl/certs/ca-certificates.crt",
            "etc/ssl/openssl.cnf",
            "etc/java-config-2/current-system-vm -> ../../usr/lib64/jvm/openjdk-bin-17",
            "usr/lib64/jvm/openjdk-bin-17/bin/java",
            "etc/gentoo-release",
            "etc/terminfo/l/linux",
            "etc/ld.so.conf",
            "etc/portage/make.conf",
            "root/.bashrc",
        ],
        reachable: &[
            "/bin/sh",
            "/sbin/mkfs.ext4",
            "/lib64/ld-linux-x86-64.so.2",
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/usr/bin/python3",
            "/etc/python-exec/python-exec.conf",
            "/etc/localtime",
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/ssl/openssl.cnf",
            "/etc/java-config-2/current-system-vm/bin/java",
            "/etc/gentoo-release",
            "/etc/terminfo/l/linux",
            "/etc/ld.so.conf",
        ],
        hidden: &["/etc/portage/make.conf", "/root/.bashrc"],
    },
    Layout {
        name: "Fedora",
        source: "package contents of filesystem (41 and 42, where /usr/sbin is a link), ca-certificates, \
                 crypto-policies, tzdata, fontconfig, java-17-openjdk-headless, mailcap, alternatives",
        tree: &[
            "bin -> usr/bin",
            "sbin -> usr/sbin",
            "lib -> usr/lib",
            "lib64 -> usr/lib64",
            "usr/sbin -> bin",
            "usr/bin/bash",
            "usr/bin/mkfs.ext4",
            "usr/bin/java -> /etc/alternatives/java",
            "etc/alternatives/java -> /usr/lib/jvm/java-17-openjdk/bin/java",
            "usr/lib/jvm/java-17-openjdk/bin/java",
            "usr/lib/jvm/java-17-openjdk/conf -> /etc/java/java-17-openjdk/conf",
            "etc/java/java-17-openjdk/conf/net.properties",
            "usr/lib/jvm/java-17-openjdk/lib/security/cacerts -> ../../../../../../etc/pki/java/cacerts",
            "etc/pki/java/cacerts -> /etc/pki/ca-trust/extracted/java/cacerts",
            "etc/pki/ca-trust/extracted/java/cacerts",
            "usr/lib64/ld-linux-x86-64.so.2",
            "etc/pki/tls/certs/ca-bundle.crt -> /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
            "etc/pki/tls/cert.pem -> /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
            "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
            "etc/pki/ca-trust/source/anchors/company.pem",
            "etc/pki/tls/private/key.pem",
            "etc/ssl/certs -> ../pki/tls/certs",
            "etc/pki/tls/openssl.cnf",
            "etc/crypto-policies/back-ends/opensslcnf.config -> /usr/share/crypto-policies/DEFAULT/opensslcnf.txt",
            "usr/share/crypto-policies/DEFAULT/opensslcnf.txt",
            "etc/localtime -> ../usr/share/zoneinfo/Europe/Prague",
            "usr/share/zoneinfo/Europe/Prague",
            "etc/fonts/fonts.conf",
            "etc/mime.types",
            "etc/fedora-release -> ../usr/lib/fedora-release",
            "usr/lib/fedora-release",
            "etc/ld.so.cache",
            "etc/sysconfig/network",
            "var/lib/rpm -> ../../usr/lib/sysimage/rpm",
        ],
        reachable: &[
            "/bin/bash",
            "/sbin/mkfs.ext4",
            "/bin/java",
            "/usr/lib/jvm/java-17-openjdk/conf/net.properties",
            "/usr/lib/jvm/java-17-openjdk/lib/security/cacerts",
            "/lib64/ld-linux-x86-64.so.2",
            "/etc/pki/tls/certs/ca-bundle.crt",
            "/etc/pki/tls/cert.pem",
            "/etc/ssl/certs/ca-bundle.crt",
            "/etc/pki/tls/openssl.cnf",
            "/etc/crypto-policies/back-ends/opensslcnf.config",
            "/etc/localtime",
            "/etc/fonts/fonts.conf",
            "/etc/mime.types",
            "/etc/fedora-release",
            "/etc/ld.so.cache",
        ],
        hidden: &[
            "/etc/pki/tls/private/key.pem",
            "/etc/pki/ca-trust/source/anchors/company.pem",
            "/etc/sysconfig/network",
            "/var/lib/rpm",
        ],
    },
    Layout {
        name: "Arch",
        source: "package contents of filesystem, glibc, ca-certificates-utils, tzdata, mailcap, jre17-openjdk-headless",
        tree: &[
            "bin -> usr/bin",
            "sbin -> usr/bin",
            "lib -> usr/lib",
            "lib64 -> usr/lib",
            "usr/sbin -> bin",
            "usr/lib64 -> lib",
            "usr/bin/bash",
            "usr/bin/mkfs.ext4",
            "usr/lib/ld-linux-x86-64.so.2",
            "etc/ssl/certs/ca-certificates.crt -> ../../ca-certificates/extracted/tls-ca-bundle.pem",
            "etc/ssl/cert.pem -> ../ca-certificates/extracted/tls-ca-bundle.pem",
            "etc/ca-certificates/extracted/tls-ca-bundle.pem",
            "etc/ca-certificates/trust-source/anchors/company.pem",
            "etc/ssl/openssl.cnf",
            "etc/localtime -> /usr/share/zoneinfo/Europe/Oslo",
            "usr/share/zoneinfo/Europe/Oslo",
            "etc/java17-openjdk/net.properties",
            "usr/lib/jvm/java-17-openjdk/conf/net.properties -> /etc/java17-openjdk/net.properties",
            "etc/mime.types",
            "etc/fonts/fonts.conf",
            "etc/arch-release",
            "etc/pacman.d/gnupg/pubring.gpg",
        ],
        reachable: &[
            "/bin/bash",
            "/sbin/mkfs.ext4",
            "/lib64/ld-linux-x86-64.so.2",
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/ssl/cert.pem",
            "/etc/ssl/openssl.cnf",
            "/etc/localtime",
            "/usr/lib/jvm/java-17-openjdk/conf/net.properties",
            "/etc/mime.types",
            "/etc/fonts/fonts.conf",
            "/etc/arch-release",
        ],
        hidden: &["/etc/ca-certificates/trust-source/anchors/company.pem", "/etc/pacman.d/gnupg/pubring.gpg"],
    },
    Layout {
        name: "openSUSE",
        source: "package contents of filesystem, glibc, ca-certificates, timezone, update-alternatives, aaa_base, \
                 openssl-3 of Tumbleweed",
        tree: &[
            "bin -> usr/bin",
            "sbin -> usr/sbin",
            "lib -> usr/lib",
            "lib64 -> usr/lib64",
            "usr/bin/bash",
            "usr/sbin/mkfs.ext4",
            "usr/lib64/ld-linux-x86-64.so.2",
            "etc/ssl/certs -> ../../var/lib/ca-certificates/pem",
            "etc/ssl/ca-bundle.pem -> ../../var/lib/ca-certificates/ca-bundle.pem",
            "var/lib/ca-certificates/pem/002c0b4f.0",
            "var/lib/ca-certificates/ca-bundle.pem",
            "usr/lib64/jvm/java-17-openjdk-17/lib/security/cacerts -> /var/lib/ca-certificates/java-cacerts",
            "var/lib/ca-certificates/java-cacerts",
            "etc/alternatives/vim -> /usr/bin/vim-small",
            "usr/bin/vim -> /etc/alternatives/vim",
            "usr/bin/vim-small",
            "usr/etc/services",
            "etc/localtime -> /usr/share/zoneinfo/Europe/Vienna",
            "usr/share/zoneinfo/Europe/Vienna",
            "etc/fonts/fonts.conf",
            "etc/mime.types",
            "etc/zypp/credentials.d/SCC",
        ],
        reachable: &[
            "/bin/bash",
            "/sbin/mkfs.ext4",
            "/lib64/ld-linux-x86-64.so.2",
            "/etc/ssl/certs/002c0b4f.0",
            "/etc/ssl/ca-bundle.pem",
            "/usr/lib64/jvm/java-17-openjdk-17/lib/security/cacerts",
            "/usr/bin/vim",
            "/usr/etc/services",
            "/etc/localtime",
            "/etc/fonts/fonts.conf",
            "/etc/mime.types",
        ],
        hidden: &["/etc/zypp/credentials.d/SCC"],
    },
];

impl Layout {
    fn make(&self) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for line in self.tree {
            let (path, target) =
                line.split_once(" -> ").map_or((*line, None), |(path, target)| (path, Some(target)));
            let at = root.path().join(path);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            match target {
                Some(target) => symlink(target, at).unwrap(),
                None => fs::write(at, path).unwrap(),
            }
        }
        root
    }
}

/// What of a fixture is granted: the paths of the list that are there.
fn granted(root: &Path) -> BTreeSet<PathBuf> {
    let listed = ALLOWED.iter().map(|entry| PathBuf::from(entry.path));
    let versioned = versioned(root).into_iter().map(|(path, _)| path);
    listed.chain(versioned).filter(|path| in_tree(root, path).symlink_metadata().is_ok()).collect()
}

fn in_tree(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap())
}

/// Follows a path as a guest does. Every step must be a grant, in one, or on the way to one.
fn reach(root: &Path, granted: &BTreeSet<PathBuf>, path: &str) -> Result<(), String> {
    let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = todo.pop() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                at.pop();
                continue;
            }
            name => at.push(name),
        }
        let seen = granted.iter().any(|grant| at.starts_with(grant) || grant.starts_with(&at));
        let metadata = in_tree(root, &at).symlink_metadata();
        match metadata {
            Ok(metadata) if seen && metadata.is_symlink() => {
                links += 1;
                if links > 40 {
                    return Err(format!("{path}: links without end"));
                }
                let target = fs::read_link(in_tree(root, &at)).unwrap();
                at.pop();
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                todo.extend(target.to_str().unwrap().split('/').rev().map(str::to_owned));
            }
            Ok(_) if seen => {}
            Ok(_) => return Err(format!("{path}: {} is not granted", at.display())),
            Err(_) => return Err(format!("{path}: the fixture has no {}", at.display())),
        }
    }
    // A directory that is only on the way to a grant is no file of the host.
    match granted.iter().any(|grant| at.starts_with(grant)) {
        true => Ok(()),
        false => Err(format!("{path}: {} is not granted", at.display())),
    }
}

#[test]
fn what_programs_need_is_reachable_in_every_layout_and_nothing_else() {
    for layout in LAYOUTS {
        assert!(!layout.source.is_empty());
        let root = layout.make();
        let granted = granted(root.path());
        for path in layout.reachable {
            reach(root.path(), &granted, path).unwrap_or_else(|e| panic!("{}: {e}", layout.name));
        }
        for path in layout.hidden {
            let refusal = reach(root.path(), &granted, path).expect_err(path);
            assert!(refusal.contains("not granted"), "{}: {refusal}", layout.name);
        }
        build(root.path()).unwrap().open().unwrap();
    }
}

#[test]
fn a_machine_without_programs_in_usr_is_told_what_to_share() {
    // As NixOS has it: /bin/sh and /usr/bin/env alone.
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    for folder in ["usr/bin", "bin", "nix/store/abc-coreutils-9.5/bin"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    symlink("/nix/store/abc-coreutils-9.5/bin/env", at("usr/bin/env")).unwrap();
    let advice = advice_for(root.path()).unwrap();
    assert!(advice.contains("--share /nix/store"), "{advice}");
    build(root.path()).unwrap().open().unwrap();
    fs::remove_dir_all(at("nix")).unwrap();
    assert!(advice_for(root.path()).unwrap().contains("--share FOLDER"));
    for number in 0..FEW_PROGRAMS {
        fs::write(at(&format!("usr/bin/{number}")), "").unwrap();
    }
    assert_eq!(advice_for(root.path()), None);
}

#[test]
fn a_machine_that_lacks_most_directories_is_exported_all_the_same() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("usr/bin")).unwrap();
    assert_eq!(granted(root.path()), BTreeSet::from([PathBuf::from("/usr")]));
    build(root.path()).unwrap().open().unwrap();
}
