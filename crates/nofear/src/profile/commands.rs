//! `nofear profile`: what each verb does.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use jiff::Timestamp;

use super::cli::Verb;
use super::description::Description;
use super::image::{self, human};
use super::lock::{self, Holder};
use super::name::Name;
use super::store::{self, Profile, Profiles};
use super::{archive, maintenance};
use crate::exit;
use crate::network::settings::KEYS;

/// Does what the user asks, and returns the exit status.
pub fn run(verb: Verb) -> u8 {
    Profiles::of_user().and_then(|profiles| act(&profiles, verb)).unwrap_or_else(|e| {
        log::error!("{e:#}");
        exit::FAILED
    })
}

fn act(profiles: &Profiles, verb: Verb) -> anyhow::Result<u8> {
    match verb {
        Verb::List => print(&list(profiles)?),
        Verb::New { name, disk_size } => {
            profiles.create(&name, disk_size, "nofear profile new")?;
        }
        Verb::Show { name } => print(&show(profiles, &name)?),
        Verb::Set { name, settings } => {
            set(&mut profiles.open(&name, "nofear profile set")?, &settings)?;
        }
        Verb::Delete { name, yes } => delete(profiles, &name, yes)?,
        Verb::Rename { name, to } => {
            profiles.open(&name, "nofear profile rename")?.rename(profiles, &to)?;
        }
        Verb::Clone { name, to } => {
            clone(profiles, &profiles.open(&name, "nofear profile clone")?, &to)?;
        }
        Verb::Export { name, file } => {
            let profile = profiles.open(&name, "nofear profile export")?;
            let file = file.unwrap_or_else(|| PathBuf::from(format!("{name}.nofear-profile")));
            archive::export(&profile, &file)?;
            print(&format!("{}\n", file.display()));
        }
        Verb::Import { file, name } => {
            let profile = match file.is_dir() {
                true => import_old(profiles, &file, name.as_ref())?,
                false => archive::import(profiles, &file, name.as_ref())?,
            };
            print(&format!("{}\n", profile.name));
        }
        Verb::Check { name, repair } => {
            let profile = profiles.open(&name, "nofear profile check")?;
            return maintenance::check(&profile, repair);
        }
        Verb::Diff { name } => {
            let profile = profiles.open(&name, "nofear profile diff")?;
            return maintenance::diff(&profile);
        }
        Verb::Snapshot { name, label } => {
            let profile = profiles.open(&name, "nofear profile snapshot")?;
            let label = label.map_or_else(label_of_now, Ok)?;
            profile.take_snapshot(&label)?;
            print(&format!("{label}\n"));
        }
        Verb::Rollback { name, label } => {
            profiles.open(&name, "nofear profile rollback")?.roll_back(&label)?;
        }
        Verb::Snapshots { name, delete: Some(label) } => {
            profiles.open(&name, "nofear profile snapshots")?.delete_snapshot(&label)?;
        }
        Verb::Snapshots { name, delete: None } => print(&snapshots(profiles, &name)?),
    }
    Ok(0)
}

/// Prints; nobody may be there to read it.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

fn list(profiles: &Profiles) -> anyhow::Result<String> {
    let names = profiles.names()?;
    if names.is_empty() {
        return Ok(String::new());
    }
    let mut text = format!("{:<20} {:>12} {:>12}  {:<20}\n", "NAME", "ON DISK", "DISK", "LAST USE");
    for name in names {
        let folder = profiles.folder_of(&name);
        let disk = store::disk_in(&folder);
        let size = |bytes: io::Result<u64>| bytes.map_or_else(|_| "damaged".into(), human);
        let last = match lock::held_by(&folder) {
            Some(Holder { pid, what }) => format!("in use by {what} (process {pid})"),
            None => store::last_used(&folder).map_or_else(|| "never".into(), time),
        };
        let on_disk = size(image::on_disk(&disk));
        let all = size(disk.metadata().map(|metadata| metadata.len()));
        text += &format!("{name:<20} {on_disk:>12} {all:>12}  {last}\n");
    }
    Ok(text)
}

fn show(profiles: &Profiles, name: &Name) -> anyhow::Result<String> {
    let folder = profiles.folder_of(name);
    ensure!(
        profiles.contains(name),
        "there is no profile {name}; 'nofear profile list' shows those there are"
    );
    let Description { id, machine_id, created, settings, .. } = Description::read(&folder)?;
    let disk = store::disk_in(&folder);
    let metadata = disk.metadata().with_context(|| format!("look at {}", disk.display()))?;
    let on_disk = image::on_disk(&disk).with_context(|| format!("look at {}", disk.display()))?;
    let mut text = String::new();
    let mut line = |what: &str, value: &str| text += &format!("{what:<12}{value}\n");
    line("name", name.as_str());
    line("folder", &folder.display().to_string());
    line("id", &id);
    line("machine-id", &machine_id);
    line("created", &created.to_string());
    line("last use", &store::last_used(&folder).map_or_else(|| "never".into(), time));
    line("disk-size", &human(metadata.len()));
    line("on disk", &human(on_disk));
    line("memory", settings.memory.as_deref().unwrap_or("default"));
    line("cpus", &settings.cpus.map_or_else(|| "default".into(), |cpus| cpus.to_string()));
    line("border", settings.border.as_deref().unwrap_or("default"));
    for (key, value) in settings.network.lines() {
        line(key, &value);
    }
    if let Some(Holder { pid, what }) = lock::held_by(&folder) {
        line("in use by", &format!("{what} (process {pid})"));
    }
    Ok(text)
}

fn set(profile: &mut Profile, settings: &[String]) -> anyhow::Result<()> {
    let mut description = profile.description.clone();
    let mut disk_size = None;
    for setting in settings {
        let (key, value) =
            setting.split_once('=').with_context(|| format!("'{setting}' is no setting: write KEY=VALUE"))?;
        let given = (!value.is_empty()).then(|| value.to_owned());
        let settings = &mut description.settings;
        match key {
            "memory" => settings.memory = given,
            "cpus" => {
                let number = given.map(|value| value.parse().with_context(|| format!("cpus={value}")));
                settings.cpus = number.transpose()?;
            }
            "disk-size" => disk_size = Some(image::parse_size(value).map_err(anyhow::Error::msg)?),
            "border" => settings.border = given,
            _ if KEYS.contains(&key) => settings.network.set(key, value)?,
            _ => bail!("'{key}' is no setting: memory, cpus, border, disk-size, {} are", KEYS.join(", ")),
        }
    }
    description.settings.memory()?;
    description.settings.cpus()?;
    description.settings.border = description.settings.border()?;
    if let Some(size) = disk_size {
        image::grow(&profile.disk(), size)?;
    }
    profile.description = description;
    profile.write_description()
}

fn delete(profiles: &Profiles, name: &Name, yes: bool) -> anyhow::Result<()> {
    let folder = profiles.folder_of(name);
    // Also one whose description is damaged.
    let Some(lock) = lock::lock_or_refuse(&folder, name.as_str(), "nofear profile delete")? else {
        bail!("there is no profile {name}; 'nofear profile list' shows those there are");
    };
    if !yes {
        ensure!(io::stdin().is_terminal(), "deleting {name} loses all that is in it: say --yes");
        let size = image::on_disk(&store::disk_in(&folder)).map(human).unwrap_or_default();
        let mut answer = String::new();
        eprint!("Delete the profile {name} and all that is in it ({size})? [y/N] ");
        io::stdin().lock().read_line(&mut answer).context("read your answer")?;
        ensure!(matches!(answer.trim(), "y" | "Y" | "yes"), "the profile {name} was not deleted");
    }
    profiles.delete(name, lock)
}

fn clone(profiles: &Profiles, profile: &Profile, to: &Name) -> anyhow::Result<()> {
    profiles.refuse_existing(to)?;
    let unfinished = profiles.begin("nofear profile clone")?;
    image::copy(&profile.disk(), &unfinished.disk())?;
    if profile.is_fresh() {
        unfinished.mark_fresh()?;
    }
    // Another machine, with the same settings.
    let mut description = Description::new()?;
    description.settings = profile.description.settings.clone();
    unfinished.finish(to, description)?;
    Ok(())
}

/// Takes over a profile of the tool before this one: a folder with `virt/target.disk`, an ext4 file system whose
/// files the guest moves to the upper layer at the first start.
fn import_old(profiles: &Profiles, folder: &Path, name: Option<&Name>) -> anyhow::Result<Profile> {
    let shown = folder.display();
    let disk = folder.join("virt/target.disk");
    let metadata = disk.metadata().with_context(|| format!("import {shown}: look at {}", disk.display()))?;
    ensure!(metadata.is_file(), "import {shown}: {} is no file", disk.display());
    image::check_size(metadata.len())?;
    let own = || {
        let folder = folder.canonicalize().with_context(|| format!("import {shown}"))?;
        let name = folder.file_name().and_then(|name| name.to_str()).context("it has no name")?;
        Name::parse(name).map_err(anyhow::Error::msg).with_context(|| format!("import {shown}: name it"))
    };
    let name = name.cloned().map_or_else(own, Ok)?;
    profiles.refuse_existing(&name)?;
    let unfinished = profiles.begin("nofear profile import")?;
    image::copy(&disk, &unfinished.disk())?;
    unfinished.finish(&name, Description::new()?)
}

fn snapshots(profiles: &Profiles, name: &Name) -> anyhow::Result<String> {
    let all = profiles.open(name, "nofear profile snapshots")?.snapshots()?;
    Ok(all
        .iter()
        .map(|one| format!("{:<24} {:>12}  {}\n", one.label, human(one.on_disk), time(one.taken)))
        .collect())
}

/// A label that sorts by time.
fn label_of_now() -> anyhow::Result<Name> {
    let digits: String = Timestamp::now().to_string().chars().filter(char::is_ascii_digit).take(14).collect();
    Name::parse(&format!("{}-{}", &digits[..8], &digits[8..])).map_err(anyhow::Error::msg)
}

/// A moment for people, in UTC.
fn time(time: SystemTime) -> String {
    let seconds = Timestamp::try_from(time).map(|time| time.as_second());
    let time = seconds.and_then(Timestamp::from_second);
    time.map_or_else(|_| "unknown".into(), |time| time.to_string())
}

#[cfg(test)]
mod tests;
