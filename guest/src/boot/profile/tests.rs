use super::*;

/// A superblock of a file system with blocks of 4 KiB.
fn superblock(blocks: u32, upper: u32, wide: bool) -> [u8; SUPERBLOCK] {
    let mut bytes = [0; SUPERBLOCK];
    bytes[0x04..0x08].copy_from_slice(&blocks.to_le_bytes());
    bytes[0x18..0x1c].copy_from_slice(&2_u32.to_le_bytes());
    bytes[0x60..0x64].copy_from_slice(&(if wide { 0x80_u32 } else { 0 }).to_le_bytes());
    bytes[0x150..0x154].copy_from_slice(&upper.to_le_bytes());
    bytes
}

#[test]
fn a_file_system_grows_when_its_disk_has_room_for_another_block() {
    let one_gib = superblock(1 << 18, 0, true);
    assert_eq!(wanted_blocks(&one_gib, 1 << 30), None);
    assert_eq!(wanted_blocks(&one_gib, (1 << 30) + 4095), None);
    assert_eq!(wanted_blocks(&one_gib, 2 << 30), Some(1 << 19));
    assert_eq!(wanted_blocks(&one_gib, 1 << 20), None, "a file system never shrinks");
}

#[test]
fn the_upper_half_of_the_count_is_only_there_in_wide_file_systems() {
    assert_eq!(wanted_blocks(&superblock(0, 1, true), 1 << 30), None);
    assert_eq!(wanted_blocks(&superblock(0, 1, false), 4096), Some(1));
}

#[test]
fn no_superblock_panics() {
    for byte in [0, 0xff] {
        wanted_blocks(&[byte; SUPERBLOCK], u64::MAX);
    }
}

#[test]
fn mke2fs_has_the_counts_where_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let argv = MKFS.iter().map(|argument| argument.to_str().unwrap());
    let mut mkfs = std::process::Command::new("sh");
    mkfs.args(["-c", "PATH=$PATH:/sbin:/usr/sbin exec \"$@\"", "sh"]).args(argv).arg(&image);
    assert!(mkfs.status().unwrap().success());
    let file = File::open(&image).unwrap();
    let mut superblock = [0; SUPERBLOCK];
    file.read_exact_at(&mut superblock, 1024).unwrap();
    assert_eq!(wanted_blocks(&superblock, 64 << 20), None);
    assert!(wanted_blocks(&superblock, 128 << 20).is_some());
}
