use std::io::Write;

use linux_loader::bootparam::setup_header;
use proptest::prelude::*;

use super::*;

const RAM: u64 = 8 << 20;

fn memory() -> GuestMemoryMmap<()> {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM as usize)]).unwrap()
}

fn kernel(end: u64, highest: Option<u32>) -> LoadedKernel {
    let setup_header = highest.map(|initrd_addr_max| setup_header { initrd_addr_max, ..Default::default() });
    LoadedKernel { entry: 0x10_0000, end, setup_header }
}

proptest! {
    #[test]
    fn it_is_page_aligned_below_the_limit_and_above_the_kernel(
        sizes in proptest::collection::vec(0usize..1 << 20, 0..4),
        end in (0x100u64..0x900).prop_map(|page| page << 12),
        highest in proptest::option::of(0u32..16 << 20),
    ) {
        let total: usize = sizes.iter().map(|size| size.next_multiple_of(4)).sum();
        let sources = sizes.iter().map(|size| InitramfsSource::Bytes(vec![7; *size])).collect();
        let top = RAM.min(highest.map_or(RAM, |highest| u64::from(highest) + 1));
        match load_initramfs(&memory(), &kernel(end, highest), sources) {
            Ok(None) => prop_assert_eq!(total, 0),
            Ok(Some(range)) => {
                prop_assert_eq!(range.size as usize, total);
                prop_assert_eq!(range.address % 4096, 0);
                prop_assert!(u64::from(range.address) >= end);
                prop_assert!(u64::from(range.address) + u64::from(range.size) <= top);
            }
            Err(Error::InitramfsRoom { .. }) => prop_assert!(end + total as u64 + 4095 > top),
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        }
    }
}

#[test]
fn files_and_bytes_follow_each_other_at_multiples_of_four() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"first").unwrap();
    let sources = vec![InitramfsSource::open(file.path()).unwrap(), InitramfsSource::Bytes(b"second".into())];
    let memory = memory();
    let range = load_initramfs(&memory, &kernel(0x20_0000, None), sources).unwrap().unwrap();
    assert_eq!((range.address, range.size), (RAM as u32 - 4096, 16));
    let mut read = [0; 16];
    memory.read_slice(&mut read, GuestAddress(range.address.into())).unwrap();
    assert_eq!(&read, b"first\0\0\0second\0\0");
}

#[test]
fn a_file_that_shrank_is_an_error_that_names_it() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"first").unwrap();
    let source = InitramfsSource::open(file.path()).unwrap();
    file.as_file().set_len(2).unwrap();
    let error = load_initramfs(&memory(), &kernel(0x20_0000, None), vec![source]).unwrap_err();
    assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
}

#[test]
fn a_folder_is_no_initramfs() {
    assert!(matches!(InitramfsSource::open(Path::new("/tmp")), Err(Error::Field { .. })));
}
