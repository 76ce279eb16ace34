//! `nofear desktop`: entries in the desktop's menus that start programs of this machine in VMs.

mod entry;

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use etcetera::BaseStrategy;
use etcetera::base_strategy::Xdg;

use crate::profile::name::Name;
use crate::{exit, open};

/// Where this machine's entries are. A user's own are not among them: their programs need not be in the VM.
pub const SYSTEM: [&str; 2] = ["/usr/local/share/applications", "/usr/share/applications"];

/// The name of the entry that opens files.
const OPEN_WITH: &str = "open-with";

/// The most bytes of an entry.
const MAX_BYTES: u64 = 256 << 10;

/// Options of `desktop`.
#[derive(Args, Debug)]
pub struct DesktopArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Add an entry to the menus that starts a program in a VM: "Firefox (nofear)"
    Install {
        /// The program's own entry: the name of a file in /usr/share/applications, without .desktop
        app: String,
        /// The profile [default: the entry's name, if it can be one]
        #[arg(short, long, value_parser = Name::parse)]
        profile: Option<Name>,
    },
    /// Add "Open with nofear" to the desktop's choices for files: 'nofear open' of them
    ///
    /// For the kinds of files that programs of this machine open now. No default is changed.
    OpenWith {
        /// Remove it
        #[arg(long)]
        remove: bool,
    },
    /// Remove such an entry; the profile stays
    Remove {
        /// What it was installed by
        app: String,
    },
}

/// Runs the verb, and returns the exit status.
pub fn run(args: DesktopArgs) -> u8 {
    act(args.verb).map_or_else(
        |e| {
            log::error!("{e:#}");
            exit::FAILED
        },
        |()| 0,
    )
}

fn act(verb: Verb) -> anyhow::Result<()> {
    let folder = Xdg::new().context("find your home")?.data_dir().join("applications");
    match verb {
        Verb::Install { app, profile } => {
            let program = std::env::current_exe().context("find this program")?;
            let program = program.to_str().context("this program's path is no text")?;
            let path = install(&SYSTEM.map(Path::new), &folder, &app, profile, program)?;
            // Fails only when there is nobody to read it.
            let _ = writeln!(std::io::stdout(), "{}", path.display());
            Ok(())
        }
        Verb::OpenWith { remove: true } => remove(&folder, OPEN_WITH),
        Verb::OpenWith { remove: false } => {
            let program = std::env::current_exe().context("find this program")?;
            let program = program.to_str().context("this program's path is no text")?;
            let kinds = open::all_kinds();
            ensure!(!kinds.is_empty(), "no program here says which kinds of files it opens");
            let path = write(&folder, OPEN_WITH, entry::open_with(&kinds, program))?;
            let _ = writeln!(std::io::stdout(), "{}", path.display());
            Ok(())
        }
        Verb::Remove { app } => remove(&folder, &app),
    }
}

fn install(
    system: &[&Path],
    folder: &Path,
    app: &str,
    profile: Option<Name>,
    program: &str,
) -> anyhow::Result<PathBuf> {
    let app = checked(app)?;
    let file = format!("{app}.desktop");
    let Some(source) = system.iter().map(|folder| folder.join(&file)).find(|path| path.is_file()) else {
        bail!(
            "there is no {file} in {}",
            system.iter().map(|one| one.display().to_string()).collect::<Vec<_>>().join(" or ")
        );
    };
    let profile = match profile {
        Some(profile) => profile,
        None => {
            Name::parse(app).map_err(|e| anyhow::anyhow!("{app} can't be a profile's name ({e}): give -p"))?
        }
    };
    let text = read(&source)?;
    let text = entry::made_of(&text, profile.as_str(), program)
        .with_context(|| format!("use {}", source.display()))?;
    write(folder, app, text)
}

/// Writes an entry, over none but one of nofear's.
fn write(folder: &Path, app: &str, text: String) -> anyhow::Result<PathBuf> {
    let path = ours(folder, app);
    ensure!(!path.exists() || is_ours(&path)?, "{} is there, and was not made by nofear", path.display());
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let unfinished = path.with_extension("desktop.unfinished");
    let written = fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, &path));
    written.with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn remove(folder: &Path, app: &str) -> anyhow::Result<()> {
    let path = ours(folder, checked(app)?);
    match is_ours(&path) {
        Ok(true) => fs::remove_file(&path).with_context(|| format!("remove {}", path.display())),
        Ok(false) => bail!("{} was not made by nofear", path.display()),
        Err(e) => Err(e),
    }
}

/// The name of an entry, as users write it.
pub fn checked(app: &str) -> anyhow::Result<&str> {
    let name = app.strip_suffix(".desktop").unwrap_or(app);
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+');
    ensure!(
        !name.is_empty() && !name.starts_with('.') && name.chars().all(is_name),
        "'{app}' is no entry's name"
    );
    Ok(name)
}

fn ours(folder: &Path, app: &str) -> PathBuf {
    folder.join(format!("nofear-{app}.desktop"))
}

fn is_ours(path: &Path) -> anyhow::Result<bool> {
    Ok(read(path)?.lines().any(|line| line == entry::MARK))
}

/// The text of an entry.
pub fn entry_text(path: &Path) -> anyhow::Result<String> {
    read(path)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    match path.metadata() {
        Ok(metadata) => ensure!(metadata.len() <= MAX_BYTES, "{shown} is no entry: it is too long"),
        Err(e) if e.kind() == ErrorKind::NotFound => bail!("there is no {shown}"),
        Err(e) => return Err(e).with_context(|| format!("read {shown}")),
    }
    fs::read_to_string(path).with_context(|| format!("read {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_that_opens_files_can_be_removed_again() {
        let folder = tempfile::tempdir().unwrap();
        let kinds = ["application/pdf".to_owned(), "image/png".to_owned()];
        let path = write(folder.path(), OPEN_WITH, entry::open_with(&kinds, "/usr/bin/no fear")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\nExec=\"/usr/bin/no fear\" open -- %f\n"), "{text}");
        assert!(text.contains("\nMimeType=application/pdf;image/png;\n"), "{text}");
        remove(folder.path(), OPEN_WITH).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_entry_is_made_of_the_systems_and_can_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (system, user) = (folder.path().join("system"), folder.path().join("user/applications"));
        fs::create_dir(&system).unwrap();
        fs::write(system.join("app.desktop"), "[Desktop Entry]\nType=Application\nName=App\nExec=app %U\n")
            .unwrap();
        let install = |app: &str, profile| install(&[&system], &user, app, profile, "/usr/bin/nofear");
        let path = install("app.desktop", None).unwrap();
        assert_eq!(path, user.join("nofear-app.desktop"));
        assert!(fs::read_to_string(&path).unwrap().contains("Name=App (nofear)"));
        // Again, with another profile.
        install("app", Some(Name::parse("other").unwrap())).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("-p other"));
        remove(&user, "app").unwrap();
        assert!(!path.exists());
        assert!(remove(&user, "app").unwrap_err().to_string().contains("there is no"));
        assert!(install("none", None).unwrap_err().to_string().contains("none.desktop"));
        for wrong in ["", "../app", "a/b", ".app", "a\nb"] {
            assert!(install(wrong, None).is_err(), "{wrong}");
        }
        // What a user has made is left alone.
        fs::write(&path, "[Desktop Entry]\nName=Mine\n").unwrap();
        assert!(install("app", None).is_err() && remove(&user, "app").is_err());
        assert!(fs::read_to_string(&path).unwrap().contains("Mine"));
    }
}
