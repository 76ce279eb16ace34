use super::*;

fn folder_with(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(FILE), text).unwrap();
    folder
}

fn refusal(text: &str) -> String {
    let error = format!("{:#}", Description::read(folder_with(text).path()).unwrap_err());
    assert!(error.contains(FILE) && !error.contains('\n'), "{error}");
    error
}

#[test]
fn a_description_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut description = Description::new().unwrap();
    description.settings.memory = Some("1.5G".into());
    description.settings.cpus = Some(2);
    description.write(folder.path()).unwrap();
    assert_eq!(Description::read(folder.path()).unwrap(), description);
    assert_eq!(description.settings.memory().unwrap(), Some(1536 << 20));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn every_profile_is_another_machine() {
    let (one, other) = (Description::new().unwrap(), Description::new().unwrap());
    assert_ne!(one.id, other.id);
    assert_ne!(one.machine_id_bytes().unwrap(), other.machine_id_bytes().unwrap());
}

#[test]
fn a_truncated_description_is_one_clear_line() {
    let text = Description::new().unwrap().text().unwrap();
    for cut in 0..text.trim_end().len() {
        refusal(&text[..cut]);
    }
}

#[test]
fn a_profile_of_a_newer_version_says_so() {
    let text = Description::new().unwrap().text().unwrap();
    let newer = text.replace("version = 1", "version = 2\nnews = true");
    assert!(refusal(&newer).contains("newer nofear"));
}

#[test]
fn what_does_not_fit_is_refused_with_its_line() {
    let text = Description::new().unwrap().text().unwrap();
    let line = refusal(&format!("{text}\nunknown = 1\n"));
    assert!(line.contains("unknown") && line.contains("line "), "{line}");
    assert!(refusal(&text.replace("machine-id = \"", "machine-id = \"+")).contains("machine-id"));
    assert!(refusal("").contains("version"));
    for settings in ["cpus = 0", "cpus = 33", "memory = \"much\""] {
        refusal(&format!(
            "{}\n{settings}\n",
            text.trim_end().trim_end_matches("[settings]").to_owned() + "[settings]"
        ));
    }
}

#[test]
fn a_missing_description_is_an_error_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    assert!(format!("{:#}", Description::read(folder.path()).unwrap_err()).contains(FILE));
}
