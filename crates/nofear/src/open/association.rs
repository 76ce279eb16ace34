//! Which program opens a kind of file: the user's and the machine's `mimeapps.list` (Association between MIME types
//! and applications 1.0.1), and what programs say of themselves.
//!
//! Only programs of the machine's own software count: a VM has no others. An entry of the user's that has the same
//! name as one of the machine's is not read.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::desktop::{SYSTEM, checked, entry_text};

/// The most bytes of a list.
const MAX_BYTES: u64 = 1 << 20;

/// An entry of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub path: PathBuf,
    /// Its command.
    pub exec: String,
    /// Whether it needs a terminal.
    pub terminal: bool,
    /// The kinds that it says it opens.
    kinds: Vec<String>,
}

/// The lists of a user, the most important first, and the folders of entries.
#[derive(Debug)]
pub struct Associations {
    lists: Vec<List>,
    folders: Vec<PathBuf>,
}

#[derive(Debug, Default)]
struct List {
    defaults: Vec<(String, Vec<String>)>,
    added: Vec<(String, Vec<String>)>,
    removed: Vec<(String, Vec<String>)>,
}

impl Associations {
    /// Those of this process's user.
    pub fn of_user() -> Self {
        let lists = places(|name| std::env::var_os(name));
        Self::of_files(&lists, SYSTEM.map(PathBuf::from).into())
    }

    fn of_files(lists: &[PathBuf], folders: Vec<PathBuf>) -> Self {
        let lists = lists.iter().filter_map(|path| {
            let fits =
                path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MAX_BYTES);
            fits.then(|| std::fs::read_to_string(path).ok()).flatten()
        });
        Self { lists: lists.map(|text| List::parse(&text)).collect(), folders }
    }

    /// The program for the first of these kinds that has one.
    pub fn of(&self, kinds: &[String]) -> Option<Entry> {
        kinds.iter().find_map(|kind| self.default_of(kind).or_else(|| self.any_of(kind)))
    }

    /// The entry of this name.
    pub fn entry(&self, app: &str) -> anyhow::Result<Entry> {
        let name = checked(app)?;
        self.find(&format!("{name}.desktop"))
            .with_context(|| format!("there is no program's {name}.desktop in {}", SYSTEM.join(" or ")))
    }

    /// What a list says, the most important list first; entries that are not there are passed over.
    fn default_of(&self, kind: &str) -> Option<Entry> {
        let named = self.lists.iter().flat_map(|list| values(&list.defaults, kind));
        named.filter_map(|id| self.find(id)).next()
    }

    /// What was added, and not removed by the same list or a more important one; then what says it opens the kind.
    fn any_of(&self, kind: &str) -> Option<Entry> {
        let mut removed: Vec<&String> = Vec::new();
        for list in &self.lists {
            removed.extend(values(&list.removed, kind));
            let mut added = values(&list.added, kind).filter(|id| !removed.contains(id));
            if let Some(entry) = added.find_map(|id| self.find(id)) {
                return Some(entry);
            }
        }
        let mut names: Vec<OsString> = self
            .folders
            .iter()
            .flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten())
            .map(|entry| entry.file_name())
            .collect();
        names.sort();
        names.dedup();
        let names = names.iter().filter_map(|name| name.to_str());
        names
            .filter(|name| !removed.iter().any(|id| id == name))
            .filter_map(|name| self.find(name))
            .find(|entry| entry.kinds.iter().any(|one| one == kind))
    }

    /// The entry with this file name, from the first folder that has it.
    fn find(&self, id: &str) -> Option<Entry> {
        let name = id.strip_suffix(".desktop")?;
        checked(name).ok()?;
        // A name with dashes may be one in a folder: vendors' do not use that any more.
        let path = self.folders.iter().map(|folder| folder.join(id)).find(|path| path.is_file())?;
        Entry::parse(&entry_text(&path).ok()?, path).ok()
    }
}

impl Entry {
    fn parse(text: &str, path: PathBuf) -> anyhow::Result<Self> {
        let own: Vec<(&str, &str)> = text
            .lines()
            .map(str::trim)
            .skip_while(|line| *line != "[Desktop Entry]")
            .skip(1)
            .take_while(|line| !line.starts_with('['))
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.trim(), value.trim()))
            .collect();
        let value = |key: &str| own.iter().find(|(one, _)| *one == key).map(|(_, value)| *value);
        ensure!(value("Hidden") != Some("true"), "it is removed");
        ensure!(value("Type").is_none_or(|kind| kind == "Application"), "it is no program's");
        let exec = value("Exec").context("it starts no program")?.to_owned();
        let kinds = value("MimeType").unwrap_or_default().split(';').filter(|kind| !kind.is_empty());
        let kinds = kinds.map(Into::into).collect();
        Ok(Self { path, exec, terminal: value("Terminal") == Some("true"), kinds })
    }
}

impl List {
    fn parse(text: &str) -> Self {
        let mut list = Self::default();
        let mut group = "";
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            if line.starts_with('[') {
                group = line;
                continue;
            }
            let Some((kind, ids)) = line.split_once('=') else { continue };
            let ids = ids.split(';').map(str::trim).filter(|id| !id.is_empty()).map(Into::into).collect();
            let entry = (kind.trim().to_owned(), ids);
            match group {
                "[Default Applications]" => list.defaults.push(entry),
                "[Added Associations]" => list.added.push(entry),
                "[Removed Associations]" => list.removed.push(entry),
                _ => {}
            }
        }
        list
    }
}

fn values<'a>(of: &'a [(String, Vec<String>)], kind: &str) -> impl Iterator<Item = &'a String> {
    let kind = kind.to_owned();
    of.iter().filter(move |(one, _)| *one == kind).flat_map(|(_, ids)| ids)
}

/// Where lists are, by the specification's order; `get` gives variables.
fn places(get: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let set = |name: &str| get(name).filter(|value| !value.is_empty());
    let home = PathBuf::from(set("HOME").unwrap_or_default());
    let own = |name: &str, default: &str| set(name).map_or_else(|| home.join(default), PathBuf::from);
    let all = |name: &str, default: &str| {
        let value = set(name).unwrap_or_else(|| default.into());
        std::env::split_paths(&value).collect::<Vec<_>>()
    };
    let config = [own("XDG_CONFIG_HOME", ".config")].into_iter().chain(all("XDG_CONFIG_DIRS", "/etc/xdg"));
    let data = [own("XDG_DATA_HOME", ".local/share")]
        .into_iter()
        .chain(all("XDG_DATA_DIRS", "/usr/local/share:/usr/share"))
        .map(|folder| folder.join("applications"));
    let desktops = set("XDG_CURRENT_DESKTOP").unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let names: Vec<String> = desktops
        .split(':')
        .filter(|name| !name.is_empty() && !name.contains('/'))
        .map(|name| format!("{name}-mimeapps.list"))
        .chain(["mimeapps.list".into()])
        .collect();
    let folders = config.chain(data).filter(|folder| folder.is_absolute());
    folders.flat_map(|folder| names.iter().map(|name| folder.join(name)).collect::<Vec<_>>()).collect()
}

/// The kinds that a program of this machine opens.
pub fn all_kinds() -> Vec<String> {
    let folders = SYSTEM.map(Path::new);
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    let entries =
        entries.filter_map(|entry| Entry::parse(&entry_text(&entry.path()).ok()?, entry.path()).ok());
    let is_kind = |kind: &String| {
        kind.contains('/')
            && !kind.starts_with("x-scheme-handler/")
            && kind != "inode/directory"
            && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/.+-_".contains(&byte))
    };
    let mut kinds: Vec<String> = entries.flat_map(|entry| entry.kinds).filter(is_kind).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(lists: &[&str], entries: &[(&str, &str)]) -> (tempfile::TempDir, Associations) {
        let folder = tempfile::tempdir().unwrap();
        for (name, kinds) in entries {
            let text = format!(
                "[Desktop Entry]\nType=Application\nExec={name} %f\nMimeType={kinds}\n\n[Other]\nExec=no\n"
            );
            std::fs::write(folder.path().join(format!("{name}.desktop")), text).unwrap();
        }
        let paths: Vec<PathBuf> =
            (0..lists.len()).map(|at| folder.path().join(format!("{at}.list"))).collect();
        for (path, text) in paths.iter().zip(lists) {
            std::fs::write(path, text).unwrap();
        }
        let associations = Associations::of_files(&paths, vec![folder.path().to_owned()]);
        (folder, associations)
    }

    fn of(associations: &Associations, kinds: &[&str]) -> Option<String> {
        let kinds: Vec<String> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        associations.of(&kinds).map(|entry| entry.exec)
    }

    #[test]
    fn the_default_of_the_most_important_list_is_taken() {
        let user = "[Added Associations]\nimage/png=b.desktop;\n[Default Applications]\ntext/plain=gone.desktop;b.desktop\n";
        let machine = "[Default Applications]\ntext/plain=a.desktop\nimage/png=a.desktop\n";
        let (_folder, associations) = world(&[user, machine], &[("a", ""), ("b", "")]);
        assert_eq!(of(&associations, &["text/plain"]).unwrap(), "b %f");
        assert_eq!(of(&associations, &["image/png"]).unwrap(), "a %f");
        assert_eq!(of(&associations, &["image/gif"]), None);
        assert_eq!(of(&associations, &["text/x-c", "text/plain"]).unwrap(), "b %f");
    }

    #[test]
    fn without_a_default_it_is_what_was_added_and_then_who_says_so() {
        let list =
            "[Added Associations]\ntext/plain=c.desktop\n[Removed Associations]\nimage/png=a.desktop\n";
        let all = [("a", "image/png;text/plain;"), ("b", "image/png;"), ("c", "")];
        let (_folder, associations) = world(&[list], &all);
        assert_eq!(of(&associations, &["text/plain"]).unwrap(), "c %f");
        assert_eq!(of(&associations, &["image/png"]).unwrap(), "b %f");
        // Removed by a more important list than the one that adds it.
        let lists =
            ["[Removed Associations]\nx/y=c.desktop\n", "[Added Associations]\nx/y=c.desktop;a.desktop\n"];
        let (_folder, associations) = world(&lists, &all);
        assert_eq!(of(&associations, &["x/y"]).unwrap(), "a %f");
    }

    #[test]
    fn names_that_lead_elsewhere_are_none() {
        let list = "[Default Applications]\nx/y=../a.desktop;/etc/passwd;a;.desktop\n";
        let (_folder, associations) = world(&[list], &[("a", "")]);
        assert_eq!(of(&associations, &["x/y"]), None);
        assert!(associations.entry("../a").is_err() && associations.entry("a").is_ok());
    }

    #[test]
    fn lists_are_looked_for_in_the_specifications_order() {
        let get = |name: &str| match name {
            "HOME" => Some("/h".into()),
            "XDG_CURRENT_DESKTOP" => Some("GNOME:X/Y".into()),
            "XDG_DATA_DIRS" => Some("/d:relative".into()),
            _ => None,
        };
        let expected = [
            "/h/.config/gnome-mimeapps.list",
            "/h/.config/mimeapps.list",
            "/etc/xdg/gnome-mimeapps.list",
            "/etc/xdg/mimeapps.list",
            "/h/.local/share/applications/gnome-mimeapps.list",
            "/h/.local/share/applications/mimeapps.list",
            "/d/applications/gnome-mimeapps.list",
            "/d/applications/mimeapps.list",
        ];
        assert_eq!(places(get), expected.map(PathBuf::from));
    }
}
