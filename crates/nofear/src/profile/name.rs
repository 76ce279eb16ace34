//! Names of profiles and of their snapshots.

use std::fmt;
use std::path::Path;

/// The longest name, in bytes.
const MAX: usize = 100;

/// The longest host name of Linux, in bytes.
const MAX_HOST_NAME: usize = 64;

/// A name that is one component of a path, no option and no hidden file: `[a-zA-Z0-9][a-zA-Z0-9-_.]*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// Reads a name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut bytes = text.bytes();
        let starts_well = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if starts_well && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            return match text.len() <= MAX {
                true => Ok(Self(text.into())),
                false => Err(format!("a name has at most {MAX} characters")),
            };
        }
        Err("a name begins with a letter or digit, and has letters, digits, '-', '_' and '.'".into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the VM of the profile is called inside.
    pub fn host_name(&self) -> String {
        let mut name = format!("nofear-{}", self.0);
        // All of it is ASCII.
        name.truncate(MAX_HOST_NAME);
        name
    }
}

impl AsRef<Path> for Name {
    fn as_ref(&self) -> &Path {
        self.0.as_ref()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_old_tool_are_names() {
        for name in ["default", "a", "0", "A-b_c.d", "web.2", "a--", &"x".repeat(MAX)] {
            assert_eq!(Name::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn what_could_be_a_path_an_option_or_a_hidden_file_is_no_name() {
        for name in
            ["", "../x", "..", ".", ".hidden", "a/b", "/a", "-x", "_x", "a b", "a\n", "a\0", "ä", "a:b", "~"]
        {
            assert!(Name::parse(name).is_err(), "{name:?}");
        }
        assert!(Name::parse(&"x".repeat(MAX + 1)).is_err());
    }

    #[test]
    fn a_host_name_is_one_that_linux_takes() {
        assert_eq!(Name::parse("a").unwrap().host_name(), "nofear-a");
        assert_eq!(Name::parse(&"x".repeat(MAX)).unwrap().host_name().len(), MAX_HOST_NAME);
    }
}
