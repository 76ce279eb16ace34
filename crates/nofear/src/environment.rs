//! The command's environment: little, and nothing of the host's but language, time zone and terminal.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use agent_proto::User;

#[cfg(test)]
mod tests;

/// Where the guest's programs are.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/games:/usr/games";

/// Passed on in every case: what the user reads and which time it is.
const PASSED: [&str; 3] = ["LANG", "LANGUAGE", "TZ"];

/// Passed on when the command has a terminal.
const PASSED_FOR_TERMINAL: [&str; 2] = ["TERM", "COLORTERM"];

/// `--env NAME[=VALUE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    name: OsString,
    /// None: the host's value, if it has one.
    value: Option<OsString>,
}

impl Variable {
    /// Reads `NAME=VALUE` or `NAME`.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) => (&bytes[..at], Some(OsStr::from_bytes(&bytes[at + 1..]).into())),
            None => (bytes, None),
        };
        if name.is_empty() {
            return Err(
                "the variable's name is missing: write NAME=VALUE, or NAME for the host's value".into()
            );
        }
        Ok(Self { name: OsStr::from_bytes(name).into(), value })
    }
}

/// Adds variables, each `NAME=value`, that are not there yet.
pub fn add(env: &mut Vec<Vec<u8>>, more: &[Vec<u8>]) {
    let name = |variable: &[u8]| variable.split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
    for variable in more {
        if env.iter().all(|one| name(one) != name(variable)) {
            env.push(variable.clone());
        }
    }
}

/// The whole environment, each `NAME=value`. `host` is this process's; `root`: the command runs as guest root.
pub fn environment(
    host: impl Iterator<Item = (OsString, OsString)>,
    user: &User,
    root: bool,
    terminal: bool,
    wanted: &[Variable],
) -> Vec<Vec<u8>> {
    let host: BTreeMap<OsString, OsString> = host.collect();
    let mut all = BTreeMap::<&OsStr, &OsStr>::new();
    let is = |name: &OsStr, list: &[&str]| list.iter().any(|one| name == *one);
    for (name, value) in &host {
        let passed = is(name, &PASSED)
            || name.as_bytes().starts_with(b"LC_")
            || (terminal && is(name, &PASSED_FOR_TERMINAL));
        if passed {
            all.insert(name, value);
        }
    }
    let (name, home) = if root { ("root", "/root") } else { (user.name.as_str(), user.home.as_str()) };
    for (variable, value) in
        [("PATH", PATH), ("HOME", home), ("USER", name), ("LOGNAME", name), ("SHELL", user.shell.as_str())]
    {
        all.insert(OsStr::new(variable), OsStr::new(value));
    }
    for Variable { name, value } in wanted {
        if let Some(value) = value.as_ref().or_else(|| host.get(name)) {
            all.insert(name, value);
        }
    }
    all.into_iter().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect()
}
