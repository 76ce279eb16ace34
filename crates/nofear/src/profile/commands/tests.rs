use std::fs;

use super::*;

fn profiles() -> (tempfile::TempDir, Profiles) {
    let folder = tempfile::tempdir().unwrap();
    let profiles = Profiles::at(folder.path().join("profiles"));
    (folder, profiles)
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn new(profiles: &Profiles, text: &str) {
    let verb = Verb::New { name: name(text), disk_size: 64 << 20 };
    assert_eq!(act(profiles, verb).unwrap(), 0);
}

fn settings(profiles: &Profiles, settings: &[&str]) -> anyhow::Result<u8> {
    let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
    act(profiles, Verb::Set { name: name("a"), settings })
}

#[test]
fn a_list_has_sizes_and_last_use_and_says_who_is_at_work() {
    let (_folder, profiles) = profiles();
    assert_eq!(list(&profiles).unwrap(), "");
    new(&profiles, "a");
    new(&profiles, "b");
    let held = profiles.open(&name("b"), "VM 01234567").unwrap();
    let text = list(&profiles).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[1].starts_with("a ") && lines[1].ends_with("64.00 MiB  never"), "{text}");
    assert!(lines[2].contains("in use by VM 01234567"), "{text}");
    held.use_now().unwrap();
    drop(held);
    assert!(list(&profiles).unwrap().lines().nth(2).unwrap().contains("20"));
    // A damaged one does not hide the others.
    fs::remove_file(profiles.folder_of(&name("a")).join("disk.img")).unwrap();
    assert!(list(&profiles).unwrap().contains("damaged"));
}

#[test]
fn settings_are_fixed_and_taken_back() {
    let (_folder, profiles) = profiles();
    new(&profiles, "a");
    settings(&profiles, &["memory=1.5G", "cpus=2", "disk-size=128M", "border=#A0B1C2"]).unwrap();
    let text = show(&profiles, &name("a")).unwrap();
    for part in [
        "memory      1.5G",
        "cpus        2",
        "disk-size   128.00 MiB",
        "last use    never",
        "border      #a0b1c2",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let network =
        ["net=passt", "offline=yes", "allow=server.test:80,10.0.0.0/8", "publish=8080:80", "mtu=9000"];
    settings(&profiles, &network).unwrap();
    let text = show(&profiles, &name("a")).unwrap();
    for part in ["net         passt", "offline     yes", "allow       server.test:80,10.0.0.0/8"] {
        assert!(text.contains(part), "{text}");
    }
    settings(&profiles, &["net=", "offline=", "allow=", "publish=", "mtu="]).unwrap();
    assert!(!show(&profiles, &name("a")).unwrap().contains("offline"));
    settings(&profiles, &["cpus="]).unwrap();
    assert!(show(&profiles, &name("a")).unwrap().contains("cpus        default"));
}

#[test]
fn a_wrong_setting_changes_nothing() {
    let (_folder, profiles) = profiles();
    new(&profiles, "a");
    let before = show(&profiles, &name("a")).unwrap();
    for wrong in [
        "cpus=0",
        "cpus=33",
        "cpus=x",
        "memory=1M",
        "memory",
        "disk-size=",
        "disk-size=32M",
        "border=red",
        "net=bridge",
        "lan=1",
        "allow=a..b",
        "publish=80",
        "mtu=1",
        "x=1",
        "=",
    ] {
        let error = settings(&profiles, &["memory=4G", wrong]).unwrap_err();
        assert!(!format!("{error:#}").contains('\n'), "{error:#}");
        assert_eq!(show(&profiles, &name("a")).unwrap(), before, "{wrong}");
    }
}

#[test]
fn a_clone_is_another_machine_with_the_same_disk() {
    let (_folder, profiles) = profiles();
    new(&profiles, "a");
    settings(&profiles, &["cpus=2"]).unwrap();
    let disk = profiles.folder_of(&name("a")).join("disk.img");
    fs::write(&disk, "content").unwrap();
    act(&profiles, Verb::Clone { name: name("a"), to: name("b") }).unwrap();
    let (one, other) = (profiles.open(&name("a"), "x").unwrap(), profiles.open(&name("b"), "x").unwrap());
    assert_eq!(fs::read(other.disk()).unwrap(), b"content");
    assert_eq!(other.description.settings, one.description.settings);
    assert_ne!(other.description.machine_id, one.description.machine_id);
    assert_ne!(other.description.id, one.description.id);
    assert!(other.is_fresh());
}

#[test]
fn deleting_asks_and_refuses_while_in_use_and_takes_a_damaged_one() {
    let (_folder, profiles) = profiles();
    new(&profiles, "a");
    let delete = |yes| act(&profiles, Verb::Delete { name: name("a"), yes });
    if !io::stdin().is_terminal() {
        assert!(delete(false).unwrap_err().to_string().contains("--yes"));
    }
    let held = profiles.open(&name("a"), "VM 01234567").unwrap();
    assert!(delete(true).unwrap_err().to_string().contains("VM 01234567"));
    drop(held);
    fs::write(profiles.folder_of(&name("a")).join("profile.toml"), "x").unwrap();
    delete(true).unwrap();
    assert!(profiles.names().unwrap().is_empty());
    assert!(delete(true).unwrap_err().to_string().contains("no profile a"));
}

#[test]
fn a_profile_of_the_old_tool_is_taken_over_and_left_as_it_is() {
    let (folder, profiles) = profiles();
    let old = folder.path().join(".lkvm/web");
    fs::create_dir_all(old.join("virt")).unwrap();
    assert!(act(&profiles, Verb::Import { file: old.clone(), name: None }).is_err());
    let disk = old.join("virt/target.disk");
    image::create(&disk, 64 << 20).unwrap();
    act(&profiles, Verb::Import { file: old, name: None }).unwrap();
    let imported = profiles.open(&name("web"), "x").unwrap();
    assert!(!imported.is_fresh(), "nothing is made anew on it");
    assert_eq!(imported.disk().metadata().unwrap().len(), disk.metadata().unwrap().len());
}

#[test]
fn a_label_of_the_time_is_a_name() {
    let label = label_of_now().unwrap();
    assert!(label.as_str().len() == 15 && label.as_str().starts_with("20"), "{label}");
}
