//! The installed Xpra: where it is, and what it says that it knows.
//!
//! Asking costs the start of a Python program or two, so the answer is kept, with the identity of the file that
//! gave it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::advice;
use super::arguments::Known;
use crate::images;
use crate::text::printable;

/// The oldest version that the options were tried with.
const OLDEST: (u32, u32) = (3, 1);

/// What is kept, in the cache's folder.
const CACHE_FILE: &str = "xpra.toml";

/// An Xpra that can be used.
#[derive(Clone, Debug)]
pub struct Xpra {
    /// The program, the same on the host and in the guest.
    pub program: PathBuf,
    /// Its version, as it says it.
    pub version: String,
    /// The options that it knows.
    pub known: Known,
}

/// The answer of one file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    /// Its path, device, number, size, and times of change.
    identity: String,
    version: String,
    options: Vec<String>,
}

impl Xpra {
    /// Finds Xpra in the folders of programs, and learns what it knows.
    ///
    /// # Errors
    ///
    /// When it is missing, does not run, or is too old; each with what to install.
    pub fn find() -> anyhow::Result<Self> {
        let Some(program) = program("xpra") else { bail!("Xpra is not installed; {}", advice::install(&[])) };
        if self::program("Xvfb").is_none() {
            bail!("Xvfb, the X server that Xpra needs, is not installed; {}", advice::install(&[]));
        }
        let answer = match kept(&program) {
            Some(answer) => answer,
            None => {
                let answer = ask(&program)?;
                keep(&answer);
                answer
            }
        };
        let version = answer.version;
        if number(&version).is_none_or(|number| number < OLDEST) {
            let (major, minor) = OLDEST;
            bail!("Xpra is too old: {version}, and the oldest that can be used is {major}.{minor}");
        }
        log::info!("windows are shown by {version}");
        Ok(Self { program, version, known: answer.options.into_iter().collect() })
    }
}

/// A program of the host's software, which the guest has at the same path. A user's own is not among them: the guest
/// does not have it.
pub fn program(name: &str) -> Option<PathBuf> {
    ["/usr/local/bin", "/usr/bin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|file| file.is_file())
}

/// Major and minor number in what `xpra --version` says: `xpra v3.1.3`, `xpra v6.2-r0`.
fn number(version: &str) -> Option<(u32, u32)> {
    let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
    let mut numbers = digits.split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    Some((major, numbers.next().and_then(|text| text.parse().ok()).unwrap_or(0)))
}

fn ask(program: &Path) -> anyhow::Result<Answer> {
    let identity = identity(program).with_context(|| format!("look at {}", program.display()))?;
    let version = says(program, "--version")?;
    let version = version.lines().find(|line| number(line).is_some()).unwrap_or_default();
    let help = says(program, "--help")?;
    let options = Known::from_help(&help).names().map(Into::into).collect();
    Ok(Answer { identity, version: printable(version, 60), options })
}

/// What the program prints for one option.
fn says(program: &Path, option: &str) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.arg(option).stdin(Stdio::null()).env("LC_ALL", "C").env("COLUMNS", "100");
    let output = command.output().with_context(|| format!("start {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() || text.trim().is_empty() {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        let help = advice::for_words(&words).map(|advice| format!("; {advice}")).unwrap_or_default();
        bail!("'{} {option}' failed: {}{help}", program.display(), printable(last, 200));
    }
    Ok(text)
}

fn identity(program: &Path) -> std::io::Result<String> {
    let file = fs::metadata(program)?;
    let [device, number, size, seconds, nanoseconds] = [
        file.dev().into(),
        file.ino().into(),
        file.size().into(),
        i128::from(file.ctime()),
        file.ctime_nsec().into(),
    ];
    let path = program.display();
    // What is kept by another version of this program may have been read by other rules.
    let reader = env!("CARGO_PKG_VERSION");
    Ok(format!("{reader} {path} {device} {number} {size} {seconds}.{nanoseconds}"))
}

fn kept(program: &Path) -> Option<Answer> {
    let text = fs::read_to_string(images::cache()?.join(CACHE_FILE)).ok()?;
    let answer: Answer = toml::from_str(&text).ok()?;
    (answer.identity == identity(program).ok()?).then_some(answer)
}

/// An answer that can't be kept is asked for again.
fn keep(answer: &Answer) {
    let write = || -> anyhow::Result<()> {
        let folder = images::cache().context("no folder for caches")?;
        fs::create_dir_all(&folder)?;
        let new = folder.join(format!("{CACHE_FILE}.{}", std::process::id()));
        fs::write(&new, toml::to_string(answer)?)?;
        Ok(fs::rename(&new, folder.join(CACHE_FILE))?)
    };
    if let Err(e) = write() {
        log::debug!("what Xpra knows is not kept: {e:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_they_are_written() {
        for (text, expected) in [
            ("xpra v3.1.3", Some((3, 1))),
            ("xpra v4.4-r30300 (g1234) beta", Some((4, 4))),
            ("xpra v6", Some((6, 0))),
            ("xpra", None),
            ("", None),
            ("v99999999999.1", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
