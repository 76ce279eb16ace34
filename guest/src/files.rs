//! The files of the guest that are made for it: who its users are, what it is called, and the places that
//! programs expect to be there.

use std::path::{Path, PathBuf};

use agent_proto::{Configure, User};

use crate::search::DEFAULT_PATH;

/// The home of guest root.
pub const ROOT_HOME: &str = "/root";

/// The group that owns terminals.
pub const TTY_GROUP: u32 = 5;

/// A file to make, in a list where every folder comes before what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where, relative to the root.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// The owner, user and group.
    pub owner: (u32, u32),
    /// What it is.
    pub kind: Kind,
}

/// What an [`Entry`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder, one with the host's folder of that name if it is exported.
    Folder,
    /// A folder that hides the host's, so that nothing in it is looked for there.
    OwnFolder,
    /// A file that holds this.
    File(String),
    /// A symbolic link to this.
    Symlink(&'static str),
}

/// A user's or machine's name, or a path, that can't be written into the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {what} is empty, or holds a colon or a control character")]
pub struct Unusable {
    /// Which of the configuration's strings.
    pub what: &'static str,
}

/// All the files, in the order to make them in.
pub fn files(configure: &Configure) -> Result<Vec<Entry>, Unusable> {
    let user = &configure.user;
    for (what, text) in [
        ("host name", &configure.hostname),
        ("user's name", &user.name),
        ("user's home", &user.home),
        ("user's shell", &user.shell),
    ] {
        if text.is_empty() || text.chars().any(|c| c == ':' || c.is_control()) {
            return Err(Unusable { what });
        }
    }
    let mut files = List(Vec::with_capacity(48));
    for mount_point in ["proc", "sys", "dev", "run", "tmp", "home"] {
        files.folder(mount_point, 0o755, Kind::OwnFolder);
    }
    files.folder("root", 0o700, Kind::OwnFolder);
    etc(&mut files, configure);
    var(&mut files);
    home(&mut files, user);
    Ok(files.0)
}

fn etc(files: &mut List, configure: &Configure) {
    files.folder("etc", 0o755, Kind::Folder);
    files.file("etc/passwd", passwd(&configure.user));
    files.file("etc/group", group(&configure.user));
    files.0.extend(identity(configure));
    let host = &configure.hostname;
    files.file(
        "etc/hosts",
        format!("127.0.0.1\tlocalhost\n{}\n::1\tlocalhost ip6-localhost ip6-loopback\n", own_address(host)),
    );
    files.file(
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\n\
         services: files\nethers: files\nrpc: files\n"
            .into(),
    );
    files.file("etc/shells", "/bin/sh\n/bin/bash\n/usr/bin/sh\n/usr/bin/bash\n".into());
    files.file("etc/profile", profile());
    files.link("etc/mtab", "../proc/self/mounts");
}

/// The files that follow the configuration at every start, also in a profile that has them already.
pub fn identity(configure: &Configure) -> Vec<Entry> {
    let mut files = List(Vec::with_capacity(3));
    files.file("etc/hostname", format!("{}\n", configure.hostname));
    let id: String = configure.machine_id.iter().map(|byte| format!("{byte:02x}")).collect();
    files.file("etc/machine-id", format!("{id}\n"));
    files.file("etc/resolv.conf", resolv_conf(configure));
    files.0
}

/// The line of `/etc/hosts` for this machine's own name.
fn own_address(host: &str) -> String {
    format!("127.0.1.1\t{host}")
}

/// `/etc/hosts` of a profile that had another name before; none if there is nothing to change.
pub fn renamed_hosts(text: &str, before: &str, now: &str) -> Option<String> {
    let (before, now) = (own_address(before), own_address(now));
    let known = before != now && text.lines().any(|line| line == before);
    known
        .then(|| text.lines().map(|line| format!("{}\n", if line == before { &now } else { line })).collect())
}

/// The line that `/etc/passwd` of a profile lacks, if it was made for another user.
pub fn missing_user(passwd: &str, user: &User) -> Option<String> {
    missing(passwd, &self::passwd(user), user.uid)
}

/// The line that `/etc/group` of a profile lacks, if it was made for another user.
pub fn missing_group(group: &str, user: &User) -> Option<String> {
    missing(group, &self::group(user), user.gid)
}

/// The line of `ours` for a number that no line of `text` has.
fn missing(text: &str, ours: &str, number: u32) -> Option<String> {
    let number = number.to_string();
    let is_its = |line: &&str| line.split(':').nth(2) == Some(&number);
    if text.lines().any(|line| is_its(&line)) {
        return None;
    }
    ours.lines().find(is_its).map(|line| format!("{line}\n"))
}

fn var(files: &mut List) {
    for (path, mode) in
        [("var", 0o755), ("var/cache", 0o755), ("var/lib", 0o755), ("var/log", 0o755), ("var/tmp", 0o1777)]
    {
        files.folder(path, mode, Kind::Folder);
    }
    files.link("var/run", "/run");
    files.link("var/lock", "/run/lock");
}

fn home(files: &mut List, user: &User) {
    let Ok(home) = Path::new(home_of(user)).strip_prefix("/") else { return };
    // From the outermost folder inwards, without the root itself.
    let folders: Vec<&Path> = home.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
    for path in folders.into_iter().rev() {
        if files.0.iter().all(|entry| entry.path != path) {
            let (mode, owner) = if path == home { (0o700, (user.uid, user.gid)) } else { (0o755, (0, 0)) };
            files.0.push(Entry { path: path.into(), mode, owner, kind: Kind::Folder });
        }
    }
}

/// `/etc/resolv.conf`. Answers of over 512 bytes come in one datagram: the resolver has no TCP.
fn resolv_conf(configure: &Configure) -> String {
    let servers = configure.network.iter().flat_map(|network| &network.nameservers);
    let lines: String = servers.map(|server| format!("nameserver {server}\n")).collect();
    if lines.is_empty() { "# This machine has no name server.\n".into() } else { lines + "options edns0\n" }
}

/// Where the user lives: on a host whose user is root, that is guest root.
fn home_of(user: &User) -> &str {
    if user.uid == 0 { ROOT_HOME } else { &user.home }
}

/// `/etc/passwd`: the system's users without those whose name or number the user has, and the user.
fn passwd(user: &User) -> String {
    let system = [
        ("root", 0, ROOT_HOME, user.shell.as_str()),
        ("daemon", 1, "/usr/sbin", "/usr/sbin/nologin"),
        ("nobody", 65534, "/nonexistent", "/usr/sbin/nologin"),
    ];
    let mut text = String::new();
    let mut line = |name: &str, uid: u32, gid: u32, home: &str, shell: &str| {
        text.push_str(&format!("{name}:*:{uid}:{gid}:{name}:{home}:{shell}\n"));
    };
    for (name, id, home, shell) in system {
        if id == 0 || (name != user.name && id != user.uid) {
            line(name, id, id, home, shell);
        }
    }
    if user.uid != 0 {
        line(&user.name, user.uid, user.gid, &user.home, &user.shell);
    }
    text
}

/// `/etc/group`: the system's groups, and one for the user unless its number is one of theirs.
fn group(user: &User) -> String {
    let system = [
        ("root", 0),
        ("daemon", 1),
        ("tty", TTY_GROUP),
        ("audio", 29),
        ("video", 44),
        ("users", 100),
        ("input", 104),
        ("kvm", 105),
        ("render", 106),
        ("nogroup", 65534),
    ];
    let known = system.iter().any(|&(_, gid)| gid == user.gid);
    let mut text = String::new();
    for (name, gid) in system {
        if known || name != user.name {
            text.push_str(&format!("{name}:x:{gid}:\n"));
        }
    }
    if !known {
        text.push_str(&format!("{}:x:{}:\n", user.name, user.gid));
    }
    text
}

/// `/etc/profile`, for every Bourne-like login shell: a search path if there is none, and a prompt.
fn profile() -> String {
    format!(
        "export PATH=\"${{PATH:-{DEFAULT_PATH}}}\"\n\
         if [ -n \"$BASH_VERSION\" ]; then\n\
         \tPS1='\\u@\\h:\\w\\$ '\n\
         elif [ \"$(id -u)\" = 0 ]; then\n\
         \tPS1='# '\n\
         else\n\
         \tPS1='$ '\n\
         fi\n\
         umask 022\n"
    )
}

struct List(Vec<Entry>);

impl List {
    fn folder(&mut self, path: &str, mode: u32, kind: Kind) {
        self.0.push(Entry { path: path.into(), mode, owner: (0, 0), kind });
    }

    fn file(&mut self, path: &str, text: String) {
        self.0.push(Entry { path: path.into(), mode: 0o644, owner: (0, 0), kind: Kind::File(text) });
    }

    fn link(&mut self, path: &str, target: &'static str) {
        self.0.push(Entry { path: path.into(), mode: 0o777, owner: (0, 0), kind: Kind::Symlink(target) });
    }
}

#[cfg(test)]
mod tests;
