//! The look of the host's desktop, for programs in the guest: the names of themes that the shared software has.
//!
//! By variables: a guest has neither the desktop's settings nor a service that tells them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What is passed on as it is, if it is set.
const PASSED: [&str; 9] = [
    "GTK_THEME",
    "XCURSOR_THEME",
    "XCURSOR_SIZE",
    "GDK_SCALE",
    "GDK_DPI_SCALE",
    "QT_SCALE_FACTOR",
    "QT_AUTO_SCREEN_SCALE_FACTOR",
    "QT_QPA_PLATFORMTHEME",
    "QT_STYLE_OVERRIDE",
];

/// GTK's settings of a user: a key, the variable that says the same, and where such themes are.
const SETTINGS: [(&str, &str, &str); 2] = [
    ("gtk-theme-name", "GTK_THEME", "/usr/share/themes"),
    ("gtk-cursor-theme-name", "XCURSOR_THEME", "/usr/share/icons"),
];

/// The longest value that is passed on.
const MAX_VALUE: usize = 200;

/// The most bytes of settings.
const MAX_SETTINGS: u64 = 64 << 10;

/// The variables of this process's user, as `NAME=value`.
pub fn variables() -> Vec<String> {
    let get = |name: &str| std::env::var_os(name);
    let config = get("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| get("HOME").map(|home| PathBuf::from(home).join(".config")));
    let settings = config.map(|folder| folder.join("gtk-3.0/settings.ini")).and_then(|path| {
        let fits = path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MAX_SETTINGS);
        fits.then(|| std::fs::read_to_string(path).ok()).flatten()
    });
    of(get, &settings.unwrap_or_default(), Path::exists)
}

fn of(get: impl Fn(&str) -> Option<OsString>, settings: &str, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut variables: Vec<(&str, String)> = PASSED
        .iter()
        .filter_map(|name| Some((*name, get(name)?.into_string().ok()?)))
        .filter(|(_, value)| is_plain(value))
        .collect();
    for (key, variable, folder) in SETTINGS {
        let value =
            settings.lines().filter_map(|line| line.split_once('=')).find(|(one, _)| one.trim() == key);
        let Some(value) = value.map(|(_, value)| value.trim().trim_matches('"')) else { continue };
        let is_set = variables.iter().any(|(name, _)| *name == variable);
        if !is_set && is_plain(value) && !value.contains(':') && exists(&Path::new(folder).join(value)) {
            variables.push((variable, value.into()));
        }
    }
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// A theme's name, a number, or GTK's `name:variant`.
fn is_plain(value: &str) -> bool {
    !value.is_empty()
        && value.len() <= MAX_VALUE
        && !value.starts_with('.')
        && value.chars().all(|c| c.is_alphanumeric() || " ._+-:".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Vec<String> {
        of(|_| None, text, |path| path.ends_with("themes/Adwaita-dark") || path.ends_with("DMZ-White"))
    }

    #[test]
    fn themes_of_the_shared_software_are_taken_over() {
        let text = "[Settings]\ngtk-theme-name=Adwaita-dark\ngtk-cursor-theme-name = \"DMZ-White\"\n";
        assert_eq!(settings(text), ["GTK_THEME=Adwaita-dark", "XCURSOR_THEME=DMZ-White"]);
        for elsewhere in
            ["gtk-theme-name=Mine\n", "gtk-theme-name=../x\n", "gtk-theme-name=\n", "gtk-theme-name"]
        {
            assert!(settings(elsewhere).is_empty(), "{elsewhere}");
        }
    }

    #[test]
    fn what_the_environment_says_comes_first() {
        let get = |name: &str| match name {
            "GTK_THEME" => Some("Adwaita:dark".into()),
            "XCURSOR_SIZE" => Some("48".into()),
            "QT_STYLE_OVERRIDE" => Some("/home/me/style".into()),
            "HOME" => Some("/home/me".into()),
            _ => None,
        };
        let variables = of(get, "gtk-theme-name=Adwaita\n", |_| true);
        assert_eq!(variables, ["GTK_THEME=Adwaita:dark", "XCURSOR_SIZE=48"]);
    }
}
