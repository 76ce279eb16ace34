use super::*;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// A profile whose disk has a few bytes here and there.
fn profile(profiles: &Profiles) -> Profile {
    let profile = profiles.create(&name("a"), 64 << 20, "test").unwrap();
    let disk = File::options().write(true).open(profile.disk()).unwrap();
    for at in [0, 4096, (1 << 20) + 17, (64 << 20) - 5] {
        disk.write_all_at(b"bytes", at).unwrap();
    }
    profile
}

#[test]
fn what_is_exported_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let profiles = Profiles::at(folder.path().join("profiles"));
    let mut made = profile(&profiles);
    made.description.settings.cpus = Some(3);
    made.write_description().unwrap();
    made.use_now().unwrap().command_has_run();
    let file = folder.path().join("a.nofear-profile");
    export(&made, &file).unwrap();
    assert!(file.metadata().unwrap().len() < 64 << 10, "holes take no room");
    assert!(export(&made, &file).is_err(), "what is there is not overwritten");
    assert!(import(&profiles, &file, None).is_err(), "nor is a profile");

    let imported = import(&profiles, &file, Some(&name("b"))).unwrap();
    assert_eq!(imported.description, made.description);
    assert!(!imported.is_fresh());
    assert!(fs::read(imported.disk()).unwrap() == fs::read(made.disk()).unwrap());
    assert!(image::on_disk(&imported.disk()).unwrap() < 1 << 20);
    assert_eq!(profiles.names().unwrap(), [name("a"), name("b")]);
}

#[test]
fn a_damaged_or_short_archive_leaves_no_profile_behind() {
    let folder = tempfile::tempdir().unwrap();
    let profiles = Profiles::at(folder.path().join("profiles"));
    let file = folder.path().join("a.nofear-profile");
    export(&profile(&profiles), &file).unwrap();
    let whole = fs::read(&file).unwrap();
    let refused = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        let error = format!("{:#}", import(&profiles, &file, Some(&name("b"))).unwrap_err());
        assert!(error.contains("a.nofear-profile") && !error.contains('\n'), "{error}");
    };
    for cut in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
        refused(&whole[..cut]);
    }
    for at in (0..whole.len()).step_by(11) {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        fs::write(&file, changed).unwrap();
        // A changed bit may mean nothing, as in a header's padding; what is imported then is whole.
        if let Ok(imported) = import(&profiles, &file, Some(&name("b"))) {
            fs::remove_dir_all(imported.folder()).unwrap();
        }
    }
    refused(b"no archive");
    assert_eq!(profiles.names().unwrap(), [name("a")]);
    assert_eq!(fs::read_dir(folder.path().join("profiles")).unwrap().count(), 1);
}

#[test]
fn an_archive_of_other_files_is_none_of_a_profile() {
    let folder = tempfile::tempdir().unwrap();
    let profiles = Profiles::at(folder.path().join("profiles"));
    let file = folder.path().join("x");
    for entry in ["../profile.toml", "disk.img"] {
        let encoder = zstd::Encoder::new(File::create(&file).unwrap(), 1).unwrap();
        let mut tar = tar::Builder::new(encoder);
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.as_mut_bytes()[..entry.len()].copy_from_slice(entry.as_bytes());
        header.set_cksum();
        tar.append(&header, &b"x"[..]).unwrap();
        tar.into_inner().unwrap().finish().unwrap();
        assert!(format!("{:#}", import(&profiles, &file, None).unwrap_err()).contains("no archive"));
    }
    assert!(profiles.names().unwrap().is_empty());
}

#[test]
fn the_checksum_does_not_depend_on_the_holes() {
    let folder = tempfile::tempdir().unwrap();
    let profiles = Profiles::at(folder.path().join("profiles"));
    let profile = profile(&profiles);
    let full = folder.path().join("full");
    fs::write(&full, fs::read(profile.disk()).unwrap()).unwrap();
    let digest = |path: &Path| {
        let file = File::open(path).unwrap();
        digest_of_data(&file, &image::extents(&file).unwrap(), &ProgressBar::hidden()).unwrap()
    };
    assert_eq!(digest(&full), digest(&profile.disk()));
}
