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

#[test]
fn a_kernel_that_tells_no_release_has_no_modules() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("vmlinux");
    fs::write(&kernel, b"\x7fELF").unwrap();
    assert!(modules_in(&kernel, folder.path()).unwrap().is_none());
    assert!(modules_in(&folder.path().join("missing"), folder.path()).unwrap().is_none());
}

/// A bzImage header (boot.rst) with the release in it, and no more.
fn bzimage(release: &str) -> Vec<u8> {
    let mut image = vec![0_u8; 0x1000];
    image[0x1f1] = 4;
    // One paragraph of code.
    image[0x1f4] = 1;
    // The jump over the header.
    image[0x200..0x202].copy_from_slice(&[0xeb, 0x6a]);
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[0x20e..0x210].copy_from_slice(&0x300_u16.to_le_bytes());
    let text = format!("{release} (someone@somewhere) #1\0");
    image[0x500..0x500 + text.len()].copy_from_slice(text.as_bytes());
    image
}

#[test]
fn a_distributions_kernel_needs_no_modules_but_those_it_has_must_be_whole() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("vmlinuz");
    fs::write(&kernel, bzimage("6.1.0-test")).unwrap();
    assert!(modules_in(&kernel, folder.path()).unwrap().is_none());
    fs::create_dir(folder.path().join("6.1.0-test")).unwrap();
    let error = modules_in(&kernel, folder.path()).unwrap_err();
    assert!(format!("{error:#}").contains("6.1.0-test"), "{error:#}");
}
