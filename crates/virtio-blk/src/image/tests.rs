use std::fs;

use super::*;

#[test]
fn an_image_has_one_writer_or_many_readers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    fs::write(&path, [0; 1024]).unwrap();
    let writer = Image::open(&path, false).unwrap();
    assert_eq!(writer.sectors(), 2);
    for read_only in [false, true] {
        assert!(matches!(Image::open(&path, read_only), Err(ImageError::InUse)));
    }
    drop(writer);
    let readers = [Image::open(&path, true).unwrap(), Image::open(&path, true).unwrap()];
    assert!(matches!(Image::open(&path, false), Err(ImageError::InUse)));
    drop(readers);
    Image::open(&path, false).unwrap();
}

#[test]
fn what_is_no_image_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for length in [0, 1, 511, 513] {
        let path = folder.path().join(format!("{length}"));
        fs::write(&path, vec![0; length]).unwrap();
        assert!(matches!(Image::open(&path, false), Err(ImageError::Length(l)) if l == length as u64));
    }
    assert!(matches!(Image::open(Path::new("/dev/null"), false), Err(ImageError::Kind)));
    assert!(matches!(Image::open(folder.path(), true), Err(ImageError::Kind)));
    assert!(matches!(Image::open(&folder.path().join("absent"), true), Err(ImageError::Open(_))));
}

#[test]
fn a_file_without_a_name_is_an_image() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(512).unwrap();
    let image = Image::from_file(file.try_clone().unwrap(), false).unwrap();
    assert!(matches!(Image::from_file(tempfile_again(&file), false), Err(ImageError::InUse)));
    drop(image);
}

/// The same file by another open file description.
fn tempfile_again(file: &File) -> File {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}
