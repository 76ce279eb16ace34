use std::fs::File;
use std::os::unix::fs::{PermissionsExt, symlink};

use rustix::fs::{CWD, FileType as Kind, Mode, makedev, mknodat};

use super::*;

/// Two layers, and what the walk reports.
struct Layers(tempfile::TempDir);

impl Layers {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for layer in ["upper", "lower"] {
            fs::create_dir(folder.path().join(layer)).unwrap();
        }
        Self(folder)
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.0.path().join(path)
    }

    fn file(&self, path: &str, text: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), text).unwrap();
    }

    /// The same file in both layers, as the overlay copies it.
    fn copied(&self, path: &str) {
        self.file(&format!("lower/{path}"), "text");
        self.file(&format!("upper/{path}"), "text");
        let changed = self.at(&format!("lower/{path}")).metadata().unwrap().modified().unwrap();
        let upper = File::options().write(true).open(self.at(&format!("upper/{path}"))).unwrap();
        upper.set_modified(changed).unwrap();
    }

    fn whiteout(&self, path: &str) {
        mknodat(CWD, self.at(path), Kind::CharacterDevice, Mode::empty(), makedev(0, 0)).unwrap();
    }

    fn changes(&self) -> Vec<(ChangeKind, FileKind, u64, String)> {
        let mut found = Vec::new();
        walk(&self.at("upper"), &self.at("lower"), &mut |change| {
            found.push((change.kind, change.file, change.size, String::from_utf8(change.path).unwrap()));
            Ok(())
        })
        .unwrap();
        found
    }
}

#[test]
fn what_is_new_changed_and_hidden_is_told_with_its_size() {
    let layers = Layers::new();
    layers.copied("usr/bin/same");
    layers.copied("usr/bin/longer");
    layers.file("upper/usr/bin/longer", "longer text");
    layers.file("upper/usr/bin/zz", "");
    layers.file("lower/usr/bin/gone", "12345");
    layers.whiteout("upper/usr/bin/gone");
    layers.whiteout("upper/usr/bin/gone-below-as-well");
    layers.file("upper/home/ann/x", "hi\n");
    use ChangeKind::{Added, Changed, Deleted};
    use FileKind::{Directory, Regular};
    let expected = [
        (Added, Directory, 0, "/home"),
        (Added, Directory, 0, "/home/ann"),
        (Added, Regular, 3, "/home/ann/x"),
        (Deleted, Regular, 5, "/usr/bin/gone"),
        (Changed, Regular, 11, "/usr/bin/longer"),
        (Added, Regular, 0, "/usr/bin/zz"),
    ];
    assert_eq!(layers.changes(), expected.map(|(kind, file, size, path)| (kind, file, size, path.into())));
}

#[test]
fn other_permissions_another_target_and_another_kind_are_changes() {
    let layers = Layers::new();
    for name in ["mode", "same"] {
        layers.copied(name);
    }
    fs::set_permissions(layers.at("upper/mode"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("a", layers.at("lower/link")).unwrap();
    symlink("b", layers.at("upper/link")).unwrap();
    symlink("x", layers.at("lower/kept")).unwrap();
    symlink("x", layers.at("upper/kept")).unwrap();
    // A folder over a file: nothing in it is the host's.
    layers.file("lower/kind", "");
    layers.file("upper/kind/inside", "");
    let paths: Vec<_> = layers.changes().into_iter().map(|(kind, _, _, path)| (kind, path)).collect();
    use ChangeKind::{Added, Changed};
    let expected = [(Changed, "/kind"), (Added, "/kind/inside"), (Changed, "/link"), (Changed, "/mode")];
    assert_eq!(paths, expected.map(|(kind, path)| (kind, path.to_owned())));
}

#[test]
fn a_layer_that_is_not_there_is_an_error() {
    let layers = Layers::new();
    assert!(walk(&layers.at("nothing"), &layers.at("lower"), &mut |_| Ok(())).is_err());
}
