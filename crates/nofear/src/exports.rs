//! What every VM sees of the host: the allow-list, and nothing else.
//!
//! Software is there so that programs run, and the few files of `/etc` and `/var` because programs break
//! without them. Nothing on the list may say anything about the user. What is not there is made for the guest
//! (`/etc/passwd`, `/etc/hosts`, `/etc/machine-id`, ...) or does not exist in it.
//!
//! Left out on purpose: `/etc/profile.d`, `/etc/bash.bashrc` and `/etc/environment` (administrators put tokens
//! and proxies there), `/etc/gitconfig`, `/etc/ssh`, `/etc/ssl/private`, `/etc/ld.so.preload` (it would load
//! the host's monitors into the guest's programs), `/etc/networks`, `/etc/skel`, `/etc/default`.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use ninep::{Export, ExportBuilder};

#[cfg(test)]
mod tests;

/// A path of the host, and why the guest sees it.
struct Entry {
    path: &'static str,
    reason: &'static str,
}

const fn entry(path: &'static str, reason: &'static str) -> Entry {
    Entry { path, reason }
}

/// Shown where they exist, as the directory, file or symbolic link that they are.
const ALLOWED: &[Entry] = &[
    entry("/bin", "programs"),
    entry("/sbin", "programs"),
    entry("/lib", "libraries and the dynamic linker"),
    entry("/lib32", "32-bit libraries"),
    entry("/lib64", "the dynamic linker's fixed path"),
    entry("/libx32", "x32 libraries"),
    entry("/opt", "programs of other vendors"),
    entry("/usr", "programs, libraries and their data"),
    entry("/etc/alternatives", "Debian's and Fedora's links from /usr/bin to the chosen program"),
    entry("/etc/ld.so.cache", "where libraries are outside of the default directories"),
    entry("/etc/ld.so.conf", "the sources of that cache, for ldconfig in the guest"),
    entry("/etc/ld.so.conf.d", "likewise"),
    entry("/etc/fonts", "fontconfig finds no font without it"),
    entry("/var/cache/fontconfig", "or every program would index the fonts again"),
    entry("/etc/ssl/certs", "certificate authorities: Debian, Arch, Gentoo; a link on Fedora"),
    entry("/etc/ssl/cert.pem", "certificate authorities: Arch, Alpine"),
    entry("/etc/ssl/ca-bundle.pem", "certificate authorities: openSUSE"),
    entry("/var/lib/ca-certificates", "what openSUSE's links lead to"),
    entry("/etc/pki/tls/certs", "certificate authorities: Fedora"),
    entry("/etc/pki/tls/cert.pem", "certificate authorities: Fedora"),
    entry("/etc/pki/ca-trust/extracted", "what Fedora's links lead to"),
    entry("/etc/ca-certificates/extracted", "what Arch's links lead to"),
    entry("/etc/ssl/openssl.cnf", "OpenSSL's defaults: Debian, Arch, openSUSE"),
    entry("/etc/pki/tls/openssl.cnf", "OpenSSL's defaults: Fedora"),
    entry("/etc/crypto-policies", "Fedora's openssl.cnf and GnuTLS include it"),
    entry("/etc/localtime", "the time zone, a link into /usr"),
    entry("/etc/timezone", "the time zone's name, which Java and PHP read"),
    entry("/etc/terminfo", "terminals that /usr/share/terminfo does not have"),
    entry("/etc/inputrc", "readline's keys: Home, End, Delete"),
    entry("/etc/magic", "file's local types"),
    entry("/etc/mime.types", "types by file name, which Python and web servers read"),
    entry("/etc/services", "port numbers by name"),
    entry("/etc/protocols", "protocol numbers by name"),
    entry("/etc/rpc", "RPC numbers by name"),
    entry("/etc/locale.alias", "names of locales"),
    entry("/etc/os-release", "which distribution this is, a link into /usr"),
    entry("/etc/lsb-release", "likewise: Ubuntu"),
    entry("/etc/debian_version", "likewise: Debian"),
    entry("/etc/fedora-release", "likewise: Fedora"),
    entry("/etc/redhat-release", "likewise: Red Hat"),
    entry("/etc/system-release", "likewise: Red Hat"),
    entry("/etc/arch-release", "likewise: Arch"),
    entry("/etc/gentoo-release", "likewise: Gentoo"),
    entry("/etc/mke2fs.conf", "mkfs.ext4 refuses some options without it"),
    entry("/etc/perl", "what /usr/share/perl's links lead to"),
    entry("/etc/python3", "Debian's list of installed Pythons"),
    entry("/etc/python-exec", "Gentoo's choice of Pythons, which /usr/bin/python reads"),
    entry("/etc/pki/java", "certificate authorities for Java: Fedora"),
    entry("/etc/java", "Java's configuration, which the links in /usr/lib/jvm lead to"),
];

/// Directories of `/etc` whose names carry a version: what the name starts with.
const VERSIONED: &[Entry] = &[
    entry("python3.", "sitecustomize.py, which the link in /usr/lib/python3 leads to"),
    entry("java-", "Java's configuration, which the links in /usr/lib/jvm lead to; Gentoo's choice of one"),
    entry("java1", "likewise: Arch, as /etc/java17-openjdk"),
    entry("java2", "likewise"),
    entry("java8", "likewise"),
];

/// A machine with fewer programs in `/usr/bin` keeps them elsewhere.
const FEW_PROGRAMS: usize = 20;

/// Opens the software of this host.
///
/// # Errors
///
/// Names the path of the host that can't be opened.
pub fn open() -> anyhow::Result<Export> {
    build(Path::new("/")).context("collect the host's software")?.open().context("open the host's software")
}

/// What to tell the user of a machine whose programs are not in `/usr`, if this is one.
pub fn advice() -> Option<&'static str> {
    advice_for(Path::new("/"))
}

fn advice_for(root: &Path) -> Option<&'static str> {
    let programs =
        root.join("usr/bin").read_dir().map_or(0, |directory| directory.take(FEW_PROGRAMS).count());
    if programs >= FEW_PROGRAMS {
        return None;
    }
    Some(match root.join("nix/store").is_dir() {
        true => {
            "this machine keeps its programs outside of /usr: show them with --share /nix/store \
             --share /run/current-system/sw:/run/current-system/sw --env PATH=/run/current-system/sw/bin"
        }
        false => {
            "this machine has hardly any programs in /usr/bin: if they are elsewhere, show them with --share \
             FOLDER, and name them with --env PATH=FOLDER/bin"
        }
    })
}

/// Where programs are: the directories a login shell can be in.
pub fn holds_program(path: &Path) -> bool {
    ["/bin", "/sbin", "/usr", "/opt"].iter().any(|directory| path.starts_with(directory))
}

/// The export of what is there under `root`.
fn build(root: &Path) -> anyhow::Result<ExportBuilder> {
    let mut export = ExportBuilder::new();
    for Entry { path, reason } in ALLOWED {
        export = add(export, root, Path::new(path), reason)?;
    }
    for (path, reason) in versioned(root) {
        export = add(export, root, &path, reason)?;
    }
    Ok(export)
}

fn add(export: ExportBuilder, root: &Path, path: &Path, reason: &str) -> anyhow::Result<ExportBuilder> {
    let host = root.join(path.strip_prefix("/")?);
    let kind = match host.symlink_metadata() {
        Ok(metadata) => metadata.file_type(),
        // What this user may not even look at is as good as not there.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(export),
        Err(e) => {
            log::info!("the VM does not see {}: {e}", path.display());
            return Ok(export);
        }
    };
    log::trace!("the VM sees {}: {reason}", path.display());
    Ok(if kind.is_symlink() {
        export.symlink(path, host.read_link()?)?
    } else if kind.is_dir() {
        export.directory(path, host)?
    } else if kind.is_file() {
        export.file(path, host)?
    } else {
        export
    })
}

fn versioned(root: &Path) -> Vec<(PathBuf, &'static str)> {
    let Ok(directory) = root.join("etc").read_dir() else { return Vec::new() };
    let names = directory.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter_map(|name| {
            let Entry { reason, .. } = VERSIONED.iter().find(|entry| name.starts_with(entry.path))?;
            Some((Path::new("/etc").join(name), *reason))
        })
        .collect()
}
