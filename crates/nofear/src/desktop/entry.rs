//! The text of an entry (Desktop Entry Specification 1.5).

use anyhow::{Context, ensure};

/// The line that tells an entry of nofear's.
pub const MARK: &str = "X-Nofear=true";

/// What is taken over of a program's own entry, with translations. Not its actions, its types of files and its way to
/// be started over the session bus: those would start it outside.
const KEPT: [&str; 10] = [
    "Type",
    "Name",
    "GenericName",
    "Comment",
    "Keywords",
    "Icon",
    "Categories",
    "OnlyShowIn",
    "NotShowIn",
    "StartupNotify",
];

/// An entry that starts the program of `original` in a VM with this profile. `nofear` is the command's path.
///
/// # Errors
///
/// For what is no entry of a program.
pub fn made_of(original: &str, profile: &str, nofear: &str) -> anyhow::Result<String> {
    let mut lines = original.lines().map(str::trim);
    ensure!(lines.any(|line| line == "[Desktop Entry]"), "it has no [Desktop Entry]");
    let own: Vec<(&str, &str)> = lines
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim()))
        .collect();
    let value = |key: &str| own.iter().find(|(one, _)| *one == key).map(|(_, value)| *value);
    ensure!(value("Type").is_none_or(|kind| kind == "Application"), "it is no program's");
    let command = without_codes(value("Exec").context("it starts no program")?);
    ensure!(!command.trim().is_empty(), "it starts no program");
    let terminal = value("Terminal") == Some("true");
    let mut text = String::from("[Desktop Entry]\n");
    for (key, value) in &own {
        let (plain, suffix) = key.split_once('[').map_or((*key, false), |(plain, _)| (plain, true));
        if KEPT.contains(&plain) && (!suffix || key.ends_with(']')) {
            let mark = if plain == "Name" { " (nofear)" } else { "" };
            text.push_str(&format!("{key}={value}{mark}\n"));
        }
    }
    let windows = if terminal { "" } else { "-g " };
    text.push_str(&format!("Exec={} run -p {profile} {windows}-- {command}\n", quoted(nofear)));
    text.push_str(&format!("Terminal={terminal}\n{MARK}\n"));
    Ok(text)
}

/// An entry by which the desktop offers 'nofear open' for files of these kinds.
pub fn open_with(kinds: &[String], nofear: &str) -> String {
    format!(
        "[Desktop Entry]\nType=Application\nName=Open with nofear\nNoDisplay=true\nExec={} open -- %f\n\
         Terminal=false\nMimeType={};\n{MARK}\n",
        quoted(nofear),
        kinds.join(";")
    )
}

/// A command without what stands for files and addresses, which are not in the VM.
fn without_codes(command: &str) -> String {
    let mut text = String::with_capacity(command.len());
    let mut characters = command.chars();
    while let Some(c) = characters.next() {
        match c {
            '%' => {
                if characters.next() == Some('%') {
                    text.push_str("%%");
                }
            }
            c => text.push(c),
        }
    }
    text.trim_end().into()
}

/// A word of a command, with what means something quoted: once for the command, once for the entry.
fn quoted(word: &str) -> String {
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '`' | '$' => text.extend(["\\\\", &c.to_string()]),
            '\\' => text.push_str("\\\\\\\\"),
            '%' => text.push_str("%%"),
            c => text.push(c),
        }
    }
    text + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIREFOX: &str = "# A comment\n[Desktop Entry]\nVersion=1.0\nType=Application\nName=Firefox\nName[de]=Feuerfuchs\n\
        Exec=/usr/lib/firefox/firefox --name=\"a b\" %u\nTryExec=firefox\nIcon=firefox\nTerminal=false\n\
        MimeType=text/html;\nDBusActivatable=true\nActions=new;\n\n[Desktop Action new]\nName=New\nExec=firefox -new\n";

    #[test]
    fn a_programs_entry_becomes_one_that_starts_it_in_a_vm() {
        let text = made_of(FIREFOX, "web", "/usr/local/bin/nofear").unwrap();
        let expected = "[Desktop Entry]\nType=Application\nName=Firefox (nofear)\nName[de]=Feuerfuchs (nofear)\n\
            Icon=firefox\nExec=\"/usr/local/bin/nofear\" run -p web -g -- /usr/lib/firefox/firefox --name=\"a b\"\n\
            Terminal=false\nX-Nofear=true\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_program_for_a_terminal_stays_in_one() {
        let text = made_of("[Desktop Entry]\nName=Top\nExec=top\nTerminal=true\n", "top", "/n").unwrap();
        assert!(text.contains("Exec=\"/n\" run -p top -- top\nTerminal=true\n"), "{text}");
    }

    #[test]
    fn what_starts_no_program_is_refused() {
        for wrong in [
            "",
            "[Other]\nExec=x\n",
            "[Desktop Entry]\nName=x\n",
            "[Desktop Entry]\nType=Link\nExec=x\n",
            "[Desktop Entry]\nExec=%U\n",
        ] {
            assert!(made_of(wrong, "p", "/n").is_err(), "{wrong}");
        }
    }

    #[test]
    fn codes_go_and_paths_are_quoted() {
        assert_eq!(without_codes("a %f %F b 100%% %"), "a   b 100%%");
        assert_eq!(quoted("/a b/$x\"%"), r#""/a b/\\$x\\"%%""#);
    }
}
