use std::os::unix::fs::PermissionsExt;

use super::*;

const SIZE: u64 = 64 << 20;

fn profiles() -> (tempfile::TempDir, Profiles) {
    let folder = tempfile::tempdir().unwrap();
    let profiles = Profiles::at(folder.path().join("nofear/profiles"));
    (folder, profiles)
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn error<T: std::fmt::Debug>(result: anyhow::Result<T>) -> String {
    let text = format!("{:#}", result.unwrap_err());
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn a_profile_is_made_found_renamed_and_deleted() {
    let (_folder, profiles) = profiles();
    assert!(profiles.names().unwrap().is_empty());
    let made = profiles.create(&name("a"), SIZE, "test").unwrap();
    assert!(made.is_fresh() && made.disk().metadata().unwrap().len() == SIZE);
    assert_eq!(made.folder().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let id = made.description.id.clone();
    drop(made);
    profiles.create(&name("b"), SIZE, "test").unwrap();
    assert_eq!(profiles.names().unwrap(), [name("a"), name("b")]);
    let opened = profiles.open(&name("a"), "test").unwrap();
    assert_eq!(opened.description.id, id);
    opened.rename(&profiles, &name("c")).unwrap();
    assert_eq!(profiles.names().unwrap(), [name("b"), name("c")]);
    let renamed = profiles.open(&name("c"), "test").unwrap();
    assert_eq!(renamed.description.id, id);
    profiles.delete(&name("c"), renamed._lock).unwrap();
    assert_eq!(profiles.names().unwrap(), [name("b")]);
    assert_eq!(fs::read_dir(&profiles.folder).unwrap().count(), 1);
}

#[test]
fn a_profile_that_is_held_is_refused_to_others() {
    let (_folder, profiles) = profiles();
    let held = profiles.create(&name("a"), SIZE, "VM 01234567").unwrap();
    let refusal = error(profiles.open(&name("a"), "VM 76543210"));
    assert!(refusal.contains("VM 01234567") && refusal.contains("--temporary"), "{refusal}");
    drop(held);
    profiles.open(&name("a"), "VM 76543210").unwrap();
}

#[test]
fn a_name_that_is_taken_is_not_taken_again() {
    let (_folder, profiles) = profiles();
    let first = profiles.create(&name("a"), SIZE, "test").unwrap();
    let id = first.description.id.clone();
    drop(first);
    assert!(error(profiles.create(&name("a"), SIZE, "test")).contains("already"));
    let other = profiles.create(&name("b"), SIZE, "test").unwrap();
    assert!(error(other.rename(&profiles, &name("a"))).contains("already"));
    assert_eq!(profiles.open(&name("a"), "test").unwrap().description.id, id);
}

#[test]
fn what_was_not_finished_is_no_profile_and_is_removed() {
    let (_folder, profiles) = profiles();
    let unfinished = profiles.begin("test").unwrap();
    image::create(&unfinished.disk(), SIZE).unwrap();
    assert!(profiles.names().unwrap().is_empty());
    // While it is being made, another one leaves it alone.
    profiles.create(&name("a"), SIZE, "test").unwrap();
    assert!(unfinished.disk().exists());
    drop(unfinished);
    assert_eq!(fs::read_dir(&profiles.folder).unwrap().count(), 1);
    // Of a process that was killed, with and without its lock's file.
    for abandoned in [".new-1", ".deleted-2"] {
        fs::create_dir(profiles.folder.join(abandoned)).unwrap();
        fs::write(profiles.folder.join(abandoned).join(DISK), "x").unwrap();
    }
    profiles.create(&name("b"), SIZE, "test").unwrap();
    assert_eq!(fs::read_dir(&profiles.folder).unwrap().count(), 2);
}

#[test]
fn a_used_profile_is_not_fresh_and_knows_when() {
    let (_folder, profiles) = profiles();
    let profile = profiles.create(&name("a"), SIZE, "test").unwrap();
    assert_eq!(last_used(profile.folder()), None);
    let in_use = profile.use_now().unwrap();
    assert!(profile.is_fresh(), "the command has not run yet");
    in_use.command_has_run();
    in_use.command_has_run();
    assert!(!profile.is_fresh());
    assert!(last_used(profile.folder()).unwrap().elapsed().unwrap().as_secs() < 60);
}

#[test]
fn a_profile_that_is_missing_or_damaged_is_one_clear_line() {
    let (_folder, profiles) = profiles();
    assert!(error(profiles.open(&name("a"), "test")).contains("no profile a"));
    let folder = profiles.create(&name("a"), SIZE, "test").unwrap().folder().to_owned();
    let description = fs::read(folder.join("profile.toml")).unwrap();
    fs::write(folder.join("profile.toml"), &description[..20]).unwrap();
    assert!(error(profiles.open(&name("a"), "test")).contains("profile.toml"));
    fs::write(folder.join("profile.toml"), description).unwrap();
    fs::remove_file(folder.join(DISK)).unwrap();
    assert!(error(profiles.open(&name("a"), "test")).contains(DISK));
    assert!(folder.join("profile.toml").exists(), "nothing is lost");
}

#[test]
fn a_place_that_can_not_be_written_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    // A file in the place of the folder: also root, who may write anywhere, can't make anything there.
    fs::write(folder.path().join("nofear"), "").unwrap();
    let profiles = Profiles::at(folder.path().join("nofear/profiles"));
    assert!(error(profiles.create(&name("a"), SIZE, "test").map(drop)).contains("nofear/profiles"));
}
