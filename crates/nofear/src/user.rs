//! The guest's user: the host's by name and numbers, so that a shared folder's owners match.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use agent_proto::User;

use crate::exports;
use crate::sys::{self, Account};

/// For a user without a usable name.
const NAME: &str = "user";

/// For a user whose own shell the guest does not have.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

/// The user who runs this process.
pub fn current() -> User {
    let uid = rustix::process::getuid().as_raw();
    // The file first: the C library may load modules and ask a directory service.
    let account = fs::read("/etc/passwd").ok().and_then(|passwd| find(&passwd, uid));
    guest_user(uid, rustix::process::getgid().as_raw(), account.or_else(|| sys::account(uid)))
}

/// A user's number, by name or as it is written; the file of users alone is asked for names.
pub fn number(user: &str) -> Option<u32> {
    if let Ok(number) = user.parse() {
        return Some(number);
    }
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user)).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// A user's line in an `/etc/passwd` (passwd(5)).
fn find(passwd: &[u8], uid: u32) -> Option<Account> {
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let [name, _, number, _, _, _, shell] = fields[..] else { return None };
        let number: u32 = str::from_utf8(number).ok()?.parse().ok()?;
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        (number == uid).then(|| Account { name: text(name), shell: text(shell) })
    })
}

/// The user of the guest. The host's home directory isn't told: its path may say more than the name.
fn guest_user(uid: u32, gid: u32, account: Option<Account>) -> User {
    let account = account.unwrap_or_else(|| Account { name: NAME.into(), shell: OsString::new() });
    let name = if uid == 0 { "root" } else { usable_name(&account.name).unwrap_or(NAME) };
    let home = if uid == 0 { "/root".into() } else { format!("/home/{name}") };
    let own = account.shell.to_str().filter(|shell| is_usable_shell(shell));
    let other = || SHELLS.into_iter().find(|shell| Path::new(shell).exists());
    let shell = own.or_else(other).unwrap_or("/bin/sh").to_owned();
    User { name: name.to_owned(), uid, gid, home, shell }
}

/// A name that is one field of `/etc/passwd` and one name of a path.
fn usable_name(name: &OsStr) -> Option<&str> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-@$+".contains(byte) || !byte.is_ascii();
    let bytes = name.as_bytes();
    let usable = !bytes.is_empty() && bytes.len() <= 64 && bytes.iter().all(plain) && bytes[0] != b'.';
    // Root is number 0, whatever else the database says.
    name.to_str().filter(|name| usable && *name != "root")
}

/// Whether the guest has the shell, and it is one to work in.
fn is_usable_shell(shell: &str) -> bool {
    let path = Path::new(shell);
    let refuses = path.file_name().is_some_and(|name| name == "nologin" || name == "false");
    exports::holds_program(path) && !refuses && path.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str, shell: &str) -> Option<Account> {
        Some(Account { name: name.into(), shell: shell.into() })
    }

    #[test]
    fn the_line_of_a_user_is_found_by_number() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\n# comment\nbroken:x:1000\n\
            ann:x:1000:1000:Ann,,,:/home/a:/bin/sh\nbob:x:10000:1:::/bin/false";
        assert_eq!(find(passwd, 1000), account("ann", "/bin/sh"));
        assert_eq!(find(passwd, 10000), account("bob", "/bin/false"));
        assert_eq!(find(passwd, 5), None);
    }

    #[test]
    fn the_c_library_knows_root_and_not_everybody() {
        assert_eq!(sys::account(0).unwrap().name, "root");
        assert_eq!(sys::account(u32::MAX - 7), None);
    }

    #[test]
    fn the_guest_user_has_the_name_and_numbers_of_the_host_and_a_home_by_name() {
        let user = guest_user(1000, 100, account("ann", "/bin/sh"));
        assert_eq!((user.name.as_str(), user.uid, user.gid), ("ann", 1000, 100));
        assert_eq!((user.home.as_str(), user.shell.as_str()), ("/home/ann", "/bin/sh"));
        let root = guest_user(0, 0, account("toor", "/bin/sh"));
        assert_eq!((root.name.as_str(), root.home.as_str()), ("root", "/root"));
    }

    #[test]
    fn a_name_that_would_break_the_guests_files_is_replaced() {
        for name in ["", "a:b", "a\nb", "../x", "a/b", ".", "a b", "root", &"x".repeat(65)] {
            assert_eq!(guest_user(1000, 1, account(name, "/bin/sh")).name, "user", "{name}");
        }
        assert_eq!(guest_user(1000, 1, None).home, "/home/user");
    }

    #[test]
    fn a_shell_that_the_guest_does_not_have_or_that_refuses_is_replaced() {
        for shell in ["/home/ann/bin/zsh", "/usr/sbin/nologin", "/bin/false", "", "sh", "/usr/bin"] {
            let shell = guest_user(1000, 1, account("ann", shell)).shell;
            assert!(SHELLS.contains(&shell.as_str()), "{shell}");
        }
    }
}
