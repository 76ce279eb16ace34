use std::{fs, os::unix::fs::MetadataExt, thread, time::Duration};

use flate2::{Compression, write::GzEncoder};
use tempfile::TempDir;

use super::*;

const RAM: usize = 32 << 20;
const ADDRESS: u64 = 0x100_0000;
const CODE_AT: usize = 0x400;

fn memory() -> GuestMemoryMmap<()> {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap()
}

/// A vmlinux of one segment: 8 KiB of file, 16 KiB of memory.
fn vmlinux() -> Vec<u8> {
    let mut elf = vec![0u8; 64 + 56];
    elf[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    put(16, &2u16.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(24, &(ADDRESS + 16).to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &1u16.to_le_bytes());
    put(64, &1u32.to_le_bytes());
    put(72, &120u64.to_le_bytes());
    put(88, &ADDRESS.to_le_bytes());
    put(96, &0x2000u64.to_le_bytes());
    put(104, &0x4000u64.to_le_bytes());
    let mut state = 1u32;
    elf.extend((0..0x2000).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    }));
    elf
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut code = vec![0x90; 0x300];
    code.extend_from_slice(payload);
    code.resize(code.len().next_multiple_of(16), 0);
    let mut image = vec![0u8; CODE_AT];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1f4, &(code.len() as u32 / 16).to_le_bytes());
    put(0x1fe, &0xaa55u16.to_le_bytes());
    put(0x200, &[0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes());
    put(0x20e, &0x100u16.to_le_bytes());
    put(0x236, &1u16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x248, &0x300u32.to_le_bytes());
    put(0x24c, &(payload.len() as u32).to_le_bytes());
    put(0x258, &ADDRESS.to_le_bytes());
    put(0x260, &0x10_0000u32.to_le_bytes());
    put(0x300, b"6.1.0-56-amd64 (someone@somewhere) #1\0");
    image.extend(code);
    image
}

fn load(bytes: &[u8]) -> Result<(LoadedKernel, GuestMemoryMmap<()>), Error> {
    let memory = memory();
    let kernel = KernelImage::from_bytes("image", bytes)?.load(&memory)?;
    Ok((kernel, memory))
}

fn loaded(memory: &GuestMemoryMmap<()>, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    memory.read_slice(&mut bytes, GuestAddress(ADDRESS)).unwrap();
    bytes
}

fn with(mut bytes: Vec<u8>, at: usize, value: &[u8]) -> Vec<u8> {
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

#[test]
fn an_elf_kernel_is_loaded_where_it_was_linked() {
    let elf = vmlinux();
    let (kernel, memory) = load(&elf).unwrap();
    assert_eq!((kernel.entry, kernel.end), (ADDRESS + 16, ADDRESS + 0x4000));
    assert!(kernel.setup_header.is_none());
    assert!(loaded(&memory, 0x2000) == elf[120..]);
}

#[test]
fn a_payload_is_unpacked_and_loaded() {
    let elf = vmlinux();
    let (kernel, memory) = load(&bzimage(&gzip(&elf))).unwrap();
    assert_eq!(kernel.entry, ADDRESS + 16);
    assert_eq!({ kernel.setup_header.unwrap().cmdline_size }, 2047);
    assert!(loaded(&memory, 0x2000) == elf[120..]);
}

#[test]
fn a_payload_that_is_not_understood_is_entered_by_the_plain_protocol() {
    let image = bzimage(b"LZO, or something newer than this code");
    let (kernel, memory) = load(&image).unwrap();
    assert_eq!((kernel.entry, kernel.end), (ADDRESS + 0x200, ADDRESS + 0x10_0000));
    assert!(loaded(&memory, image.len() - CODE_AT) == image[CODE_AT..]);
}

#[test]
fn a_lying_header_is_an_error_that_names_the_field() {
    let elf = vmlinux();
    let packed = bzimage(&gzip(&elf));
    let plain = bzimage(b"LZO, or something newer than this code");
    let last = 0x400 + 0x300 + gzip(&elf).len() - 4;
    let cases: [(&str, Vec<u8>); 19] = [
        ("header", b"MZ".to_vec()),
        ("e_ident[EI_CLASS]", with(elf.clone(), 4, &[1])),
        ("e_type", with(elf.clone(), 16, &[3])),
        ("e_machine", with(elf.clone(), 18, &[3])),
        ("e_entry", with(elf.clone(), 24, &[0; 8])),
        ("e_phoff", with(elf.clone(), 32, &[0xff; 8])),
        ("e_phentsize", with(elf.clone(), 54, &[0])),
        ("e_phnum", with(elf.clone(), 56, &[0xff, 0xff])),
        ("p_filesz", with(elf.clone(), 72, &[0xff; 8])),
        ("p_filesz", with(elf.clone(), 96, &[0xff, 0xff])),
        ("p_paddr", with(elf.clone(), 88, &0x9000u64.to_le_bytes())),
        ("p_memsz", with(elf.clone(), 104, &[0xff; 8])),
        ("p_paddr", with(elf.clone(), 104, &(RAM as u64).to_le_bytes())),
        ("boot_flag", with(packed.clone(), 0x1fe, &[0])),
        ("version", with(packed.clone(), 0x206, &[0, 2])),
        ("syssize", with(packed.clone(), 0x1f4, &[0xff; 4])),
        ("payload_length", with(packed.clone(), 0x24c, &[0xff; 4])),
        ("payload", with(packed.clone(), last, &[0xff; 4])),
        ("pref_address", with(plain, 0x258, &[0xff; 8])),
    ];
    for (name, bytes) in cases {
        match load(&bytes) {
            Err(Error::Field { field, path, .. }) => {
                assert_eq!((field, path.to_str()), (name, Some("image")))
            }
            Err(other) => panic!("{name}: {other:?}"),
            Ok(_) => panic!("{name} is not looked at"),
        }
    }
}

#[test]
fn a_damaged_payload_is_an_error_that_names_its_compression() {
    let mut image = bzimage(&gzip(&vmlinux()));
    image[0x400 + 0x300 + 1000] ^= 1;
    let error = load(&image).unwrap_err();
    assert_eq!(error.to_string(), "unpack the gzip data of image");
}

#[test]
fn a_cut_image_is_an_error_at_every_length() {
    for image in [vmlinux(), bzimage(&gzip(&vmlinux())), bzimage(b"unknown compression")] {
        // The last paragraph may be cut.
        for size in (0..image.len() - 16).step_by(61) {
            assert!(load(&image[..size]).is_err(), "{size}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_header_makes_it_panic(at in 0usize..0x600, bytes: [u8; 8], kind in 0usize..3) {
        let image = match kind {
            0 => vmlinux(),
            1 => bzimage(&gzip(&vmlinux())),
            _ => bzimage(b"unknown compression"),
        };
        let at = at % (image.len() - 8);
        let _ = load(&with(image, at, &bytes));
    }
}

struct Cached {
    folder: TempDir,
    image: PathBuf,
}

impl Cached {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("vmlinuz");
        fs::write(&image, bzimage(&gzip(&vmlinux()))).unwrap();
        // Until the image's times tell whether it changes.
        thread::sleep(Duration::from_millis(150));
        Cached { image, folder }
    }

    fn open(&self) -> KernelImage {
        let kernel = KernelImage::open(&self.image, Some(&self.folder.path().join("cache"))).unwrap();
        kernel.load(&memory()).unwrap();
        kernel
    }

    fn unpacked(&self) -> PathBuf {
        let mut entries = fs::read_dir(self.folder.path().join("cache")).unwrap().map(|e| e.unwrap().path());
        entries.find(|path| path.extension().is_some_and(|extension| extension == "vmlinux")).unwrap()
    }
}

#[test]
fn the_second_time_it_comes_from_the_cache_and_nothing_else_is_left_there() {
    let cached = Cached::new();
    cached.open();
    let first = fs::metadata(cached.unpacked()).unwrap().ino();
    let kernel = cached.open();
    assert_eq!(kernel.file.metadata().unwrap().ino(), first);
    let left = fs::read_dir(cached.folder.path().join("cache")).unwrap().count();
    assert_eq!(left, 2, "a kernel and an index");
}

#[test]
fn a_cached_kernel_that_was_damaged_is_made_anew() {
    for damage in [0, 200, 8000] {
        let cached = Cached::new();
        cached.open();
        let mut bytes = fs::read(cached.unpacked()).unwrap();
        bytes[damage] ^= 1;
        fs::write(cached.unpacked(), &bytes).unwrap();
        cached.open();
        bytes[damage] ^= 1;
        assert!(fs::read(cached.unpacked()).unwrap() == bytes);
        fs::write(cached.unpacked(), &bytes[..damage]).unwrap();
        cached.open();
        assert!(fs::read(cached.unpacked()).unwrap() == bytes);
    }
}

#[test]
fn an_image_that_was_replaced_is_unpacked_again() {
    let cached = Cached::new();
    cached.open();
    let mut elf = vmlinux();
    elf[24] += 8;
    fs::write(&cached.image, bzimage(&gzip(&elf))).unwrap();
    assert_eq!(cached.open().load(&memory()).unwrap().entry, ADDRESS + 24);
}

#[test]
fn a_cache_that_can_not_be_written_is_done_without() {
    let cached = Cached::new();
    fs::write(cached.folder.path().join("cache"), "a file, not a folder").unwrap();
    cached.open();
}

#[test]
fn the_release_is_that_of_the_setup_header() {
    let cached = Cached::new();
    assert_eq!(kernel_release(&cached.image).unwrap(), "6.1.0-56-amd64");
    for bad in [&b"../../etc \0"[..], b" \0", b"..\0"] {
        fs::write(&cached.image, with(bzimage(b"unknown compression"), 0x300, bad)).unwrap();
        assert!(matches!(kernel_release(&cached.image), Err(Error::Field { field: "kernel_version", .. })));
    }
}

#[test]
fn a_fifo_is_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert!(matches!(KernelImage::open(&fifo, None), Err(Error::Field { field: "file type", .. })));
    assert!(matches!(crate::InitramfsSource::open(&fifo), Err(Error::Field { field: "file type", .. })));
    assert!(kernel_release(&fifo).is_err());
}
