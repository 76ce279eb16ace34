use std::fs;

use super::*;

#[test]
fn the_environment_comes_before_the_users_and_that_before_the_installed_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        path
    };
    let named = at("named");
    let data = folder.path().join("share");
    let program = at("prefix/bin/nofear");
    let find = |named: Option<&Path>| {
        Image::Kernel
            .find_in(named.map(Into::into), Some(&data), Some(&program))
            .map_err(|e| format!("{e:#}"))
    };

    let error = find(None).unwrap_err();
    assert!(error.contains("share/nofear/vmlinux") && error.contains("prefix/lib/nofear/vmlinux"), "{error}");
    assert!(error.contains("cargo xtask kernel"), "{error}");
    let installed = at("prefix/lib/nofear/vmlinux");
    assert_eq!(find(None), Ok(installed));
    let own = at("share/nofear/vmlinux");
    assert_eq!(find(None), Ok(own));
    assert_eq!(find(Some(&named)), Ok(named));
    let missing = find(Some(&folder.path().join("missing"))).unwrap_err();
    assert!(missing.contains("NOFEAR_KERNEL=") && missing.contains("missing"), "{missing}");
}
