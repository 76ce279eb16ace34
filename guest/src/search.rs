//! Which files a command's name may mean.

use std::ffi::{CString, NulError};

/// The `PATH` of a command whose environment has none, and of a login shell.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The files to try to execute for `name`, in order: the name itself when it holds a slash, and otherwise
/// one for each directory in the `PATH` of `env`. An empty directory there means the working directory.
///
/// # Errors
///
/// For a NUL in the name or the path.
pub fn candidates(name: &[u8], env: &[Vec<u8>]) -> Result<Vec<CString>, NulError> {
    if name.is_empty() {
        return Ok(Vec::new());
    }
    if name.contains(&b'/') {
        return Ok(vec![CString::new(name)?]);
    }
    let path = env.iter().find_map(|variable| variable.strip_prefix(b"PATH="));
    let path = path.unwrap_or(DEFAULT_PATH.as_bytes());
    let directories = path.split(|&byte| byte == b':');
    directories
        .map(|directory| {
            let separator: &[u8] = if directory.is_empty() { b"./" } else { b"/" };
            CString::new([directory, separator, name].concat())
        })
        .collect()
}

#[cfg(test)]
mod tests;
