use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use tempfile::TempDir;

use super::*;

/// A folder of modules like that of a distribution; `without` leaves one module out.
fn folder(without: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let release = folder.path().join("6.1.0-test");
    let dependencies = [
        ("kernel/virtio/virtio_mmio.ko", "kernel/virtio/virtio_ring.ko kernel/virtio/virtio.ko"),
        ("kernel/virtio/virtio.ko", ""),
        ("kernel/virtio/virtio_ring.ko", "kernel/virtio/virtio.ko"),
        ("kernel/fs/9p.ko.gz", "kernel/net/9pnet.ko kernel/fs/netfs.ko"),
        ("kernel/fs/netfs.ko", ""),
        ("kernel/net/9pnet.ko", ""),
        ("kernel/net/9pnet_virtio.ko", "kernel/net/9pnet.ko"),
        ("kernel/vsock/vmw_vsock_virtio_transport.ko", "kernel/vsock/vsock.ko"),
        ("kernel/vsock/vsock.ko", ""),
        ("kernel/char/virtio-rng.ko", ""),
    ];
    let mut list = String::new();
    for (file, needs) in dependencies {
        if file.contains(without) && !without.is_empty() {
            continue;
        }
        let path = release.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut code = format!("code of {file}").into_bytes();
        if file.ends_with(".gz") {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&code).unwrap();
            code = encoder.finish().unwrap();
        }
        fs::write(path, code).unwrap();
        list.push_str(&format!("{file}: {needs}\n"));
    }
    fs::write(release.join("modules.dep"), list).unwrap();
    fs::write(release.join("modules.builtin"), "kernel/fs/overlayfs/overlay.ko\n").unwrap();
    folder
}

fn order(folder: &TempDir) -> Result<Vec<Module>, StockError> {
    Modules::read(&folder.path().join("6.1.0-test"))?.order(&WANTED)
}

#[test]
fn modules_come_after_what_they_need_and_built_in_ones_not_at_all() {
    let order = order(&folder("")).unwrap();
    let names: Vec<_> = order.iter().map(|module| module.name.as_str()).collect();
    let expected = "virtio virtio_ring virtio_mmio netfs 9pnet 9p 9pnet_virtio vsock \
                    vmw_vsock_virtio_transport virtio_rng";
    assert_eq!(names.join(" "), expected);
}

#[test]
fn the_archive_holds_them_unpacked_with_their_order() {
    let archive = archive(&order(&folder("")).unwrap()).unwrap();
    let text = String::from_utf8_lossy(&archive);
    assert!(text.contains("modules/005-9p.ko\0"));
    assert!(text.contains("code of kernel/fs/9p.ko.gz"), "unpacked");
    assert!(text.contains("000-virtio.ko\n001-virtio_ring.ko\n002-virtio_mmio.ko\n"));
}

#[test]
fn a_needed_module_that_is_missing_is_named() {
    let folder = folder("9p.ko");
    let error = order(&folder).unwrap_err().to_string();
    assert!(error.ends_with("6.1.0-test has no 9p module, and it is not built in"), "{error}");
    let absent = tempfile::tempdir().unwrap();
    assert!(order(&absent).unwrap_err().to_string().contains("depmod"));
}

#[test]
fn a_list_that_leads_out_of_its_folder_is_refused() {
    let folder = folder("");
    fs::write(folder.path().join("6.1.0-test/modules.dep"), "../../etc/shadow.ko:\n").unwrap();
    assert!(matches!(order(&folder), Err(StockError::Outside { .. })));
}

#[test]
fn the_key_changes_with_a_module() {
    let folder = folder("");
    let order = order(&folder).unwrap();
    let first = key(&order).unwrap();
    assert_eq!(first, key(&order).unwrap());
    fs::write(&order[0].path, "other code").unwrap();
    assert_ne!(first, key(&order).unwrap());
}

/// By hand: `NOFEAR_STOCK=/boot/vmlinuz-X NOFEAR_MODULES=/lib/modules cargo test -p nofear-loader -- --ignored`.
#[test]
#[ignore = "wants a distribution's kernel"]
fn a_real_kernel_and_its_modules_are_loaded() {
    use vm_memory::{GuestAddress, GuestMemoryMmap};
    let variable =
        |name| PathBuf::from(std::env::var_os(name).expect("a path in NOFEAR_STOCK and NOFEAR_MODULES"));
    let (kernel, modules) = (variable("NOFEAR_STOCK"), variable("NOFEAR_MODULES"));
    let cache = std::env::var_os("NOFEAR_CACHE").map(PathBuf::from);
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 256 << 20)]).unwrap();
    let image = crate::KernelImage::open(&kernel, cache.as_deref()).unwrap();
    let loaded = image.load(&memory).unwrap();
    assert!(image.is_unpacked());
    println!("{}: entry {:#x} end {:#x}", kernel_release(&kernel).unwrap(), loaded.entry, loaded.end);
    let source = stock_initramfs(&kernel, &modules, cache.as_deref()).unwrap();
    let range = crate::load_initramfs(&memory, &loaded, vec![source]).unwrap();
    println!("initramfs {range:x?}");
}

#[test]
fn a_chain_of_modules_as_long_as_the_list_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let list: String = (0..200_000).map(|i| format!("m{i}.ko: m{}.ko\n", i + 1)).collect();
    fs::write(folder.path().join("modules.dep"), list).unwrap();
    fs::write(folder.path().join("modules.builtin"), "m200000.ko\n").unwrap();
    let order = Modules::read(folder.path()).unwrap().order(&[("m0", true)]).unwrap();
    assert_eq!((order.len(), order[0].name.as_str()), (200_000, "m199999"));
}
