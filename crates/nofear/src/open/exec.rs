//! The command of a desktop entry (Desktop Entry Specification 1.5, "The Exec key").

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{bail, ensure};

/// What is opened.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// A file of the guest's, absolute.
    File(&'a Path),
    /// An address.
    Url(&'a str),
}

impl What<'_> {
    fn path(&self) -> OsString {
        match self {
            Self::File(path) => path.as_os_str().to_owned(),
            Self::Url(url) => url.into(),
        }
    }

    fn url(&self) -> OsString {
        let Self::File(path) = self else { return self.path() };
        let mut url = String::from("file://");
        for &byte in path.as_os_str().as_bytes() {
            if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
                url.push(byte.into());
            } else {
                url.push_str(&format!("%{byte:02X}"));
            }
        }
        url.into()
    }
}

/// The words of the command.
///
/// # Errors
///
/// For a command that is not quoted as the specification has it, and one that opens nothing.
pub fn words(exec: &str, what: &What<'_>) -> anyhow::Result<Vec<OsString>> {
    let mut all = Vec::new();
    let mut opens = false;
    for word in split(exec)? {
        let is_code = |codes: &str| word.len() == 2 && word.starts_with('%') && codes.contains(&word[1..]);
        if is_code("fF") {
            all.push(what.path());
            opens = true;
        } else if is_code("uU") {
            all.push(what.url());
            opens = true;
        } else if !is_code("ickdDnNvm") {
            all.push(expanded(&word, what, &mut opens));
        }
    }
    ensure!(!all.is_empty(), "it starts no program");
    ensure!(opens, "its program takes no file or address");
    Ok(all)
}

/// A word with a code in it, as `--url=%u`.
fn expanded(word: &str, what: &What<'_>, opens: &mut bool) -> OsString {
    let mut text = OsString::new();
    let mut characters = word.chars();
    while let Some(c) = characters.next() {
        match c {
            '%' => match characters.next() {
                Some('%') => text.push("%"),
                Some('f' | 'F') => {
                    text.push(what.path());
                    *opens = true;
                }
                Some('u' | 'U') => {
                    text.push(what.url());
                    *opens = true;
                }
                _ => {}
            },
            c => text.push(c.encode_utf8(&mut [0; 4])),
        }
    }
    text
}

/// Undoes the entry's quoting of all strings, and then the command's own.
fn split(exec: &str) -> anyhow::Result<Vec<String>> {
    let mut characters = unescaped(exec).into_iter().peekable();
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    while let Some(c) = characters.next() {
        match c {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('"') => break,
                        Some('\\') if characters.peek().is_some_and(|next| "\"`$\\".contains(*next)) => {
                            word.extend(characters.next());
                        }
                        Some(c) => word.push(c),
                        None => bail!("a quotation in its command does not end"),
                    }
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn unescaped(text: &str) -> Vec<char> {
    let mut characters = text.chars();
    let mut clean = Vec::new();
    while let Some(c) = characters.next() {
        if c != '\\' {
            clean.push(c);
            continue;
        }
        match characters.next() {
            Some('s') => clean.push(' '),
            Some('n') => clean.push('\n'),
            Some('t') => clean.push('\t'),
            Some('r') => clean.push('\r'),
            Some('\\') | None => clean.push('\\'),
            Some(other) => clean.extend(['\\', other]),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(exec: &str) -> Vec<String> {
        let words = words(exec, &What::File(Path::new("/home/u/a b%.pdf"))).unwrap();
        words.into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn codes_stand_for_what_is_opened() {
        assert_eq!(file("view %f"), ["view", "/home/u/a b%.pdf"]);
        assert_eq!(
            file("view --icon %i --name %c -- %F"),
            ["view", "--icon", "--name", "--", "/home/u/a b%.pdf"]
        );
        assert_eq!(file("view %U"), ["view", "file:///home/u/a%20b%25.pdf"]);
        assert_eq!(file("view --url=%u 100%%"), ["view", "--url=file:///home/u/a%20b%25.pdf", "100%"]);
        let url = words("firefox %u", &What::Url("https://x.example/%f?a=b c")).unwrap();
        assert_eq!(url, ["firefox", "https://x.example/%f?a=b c"]);
    }

    #[test]
    fn quotations_are_undone_twice() {
        assert_eq!(file(r#""/opt/a b/run" "x\\$y" %f"#)[..2], ["/opt/a b/run", "x$y"]);
        assert_eq!(file(r#"sh -c "exec \\"\\$0\\"" %f"#)[..3], ["sh", "-c", "exec \"$0\""]);
    }

    #[test]
    fn what_opens_nothing_is_refused() {
        for wrong in ["", "view", "view %i", "\"view %f", "   "] {
            assert!(words(wrong, &What::Url("https://x.example")).is_err(), "{wrong}");
        }
    }
}
