//! Disk images: sparse files, copied without their holes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The size of a new profile's disk, in bytes.
pub const DEFAULT_SIZE: u64 = 1 << 30;

/// The least and the most that a disk may have.
const MIN_SIZE: u64 = 32 << 20;
const MAX_SIZE: u64 = 16 << 40;

/// Disks are a multiple of this.
const UNIT: u64 = 1 << 20;

/// Reads the size of a disk: as `--mem`, rounded up to 1 MiB.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bytes = crate::memory::bytes(text)?.next_multiple_of(UNIT);
    check_size(bytes).map(|()| bytes).map_err(|e| e.to_string())
}

/// Refuses what is no size for a disk.
pub fn check_size(bytes: u64) -> anyhow::Result<()> {
    let possible = (MIN_SIZE..=MAX_SIZE).contains(&bytes);
    anyhow::ensure!(possible, "a disk of {} is not possible: 32M to 16T are", human(bytes));
    Ok(())
}

/// Makes an image of zeros that takes no room.
pub fn create(path: &Path, size: u64) -> anyhow::Result<()> {
    let made = || -> io::Result<()> {
        let file = new_file(path)?;
        file.set_len(size)?;
        file.sync_all()
    };
    made().with_context(|| format!("make {}", path.display()))
}

/// A new file for this user alone.
pub fn new_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?))
}

/// Copies an image to a new file, and has it on the disk: by reference where the file system can, else without
/// the holes.
pub fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let copied = || -> io::Result<()> {
        let mut source = File::open(from)?;
        let mut target = new_file(to)?;
        // Shared until one of the two is written to. Refused for many reasons, and none matters here.
        if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
            copy_data(&mut source, &mut target)?;
        }
        target.sync_all()
    };
    let result = copied().with_context(|| format!("copy {} to {}", from.display(), to.display()));
    if result.is_err() {
        // Half a copy is of no use; what was there before is not touched, since the file is new.
        let _ = std::fs::remove_file(to);
    }
    result
}

/// Copies what is no hole.
fn copy_data(source: &mut File, target: &mut File) -> io::Result<()> {
    let size = source.metadata()?.len();
    target.set_len(size)?;
    for extent in extents(source)? {
        source.seek(SeekFrom::Start(extent.start))?;
        target.seek(SeekFrom::Start(extent.start))?;
        let length = extent.end - extent.start;
        // In the kernel where it can.
        if io::copy(&mut source.by_ref().take(length), target)? != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// The parts of a file that are no holes, in order.
pub fn extents(file: &File) -> io::Result<Vec<std::ops::Range<u64>>> {
    use rustix::fs::SeekFrom::{Data, Hole};
    let size = file.metadata()?.len();
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, Data(at)) {
            Ok(start) => start,
            // No data up to the end.
            Err(Errno::NXIO) => break,
            // A file system without holes.
            Err(Errno::INVAL) => at,
            Err(e) => return Err(e.into()),
        };
        let end = match rustix::fs::seek(file, Hole(start)) {
            Ok(end) => end.min(size),
            Err(Errno::INVAL) => size,
            Err(e) => return Err(e.into()),
        };
        extents.push(start..end);
        at = end;
    }
    Ok(extents)
}

/// What an image takes on the host's disk, in bytes.
pub fn on_disk(path: &Path) -> io::Result<u64> {
    // st_blocks counts 512 bytes each, whatever the file system's blocks are (stat(2)).
    Ok(path.metadata()?.blocks() * 512)
}

/// Lets a disk have more room. It never gets less: what is at its end may be in use.
pub fn grow(path: &Path, size: u64) -> anyhow::Result<()> {
    let file = File::options().write(true).open(path).with_context(|| format!("open {}", path.display()))?;
    let now = file.metadata().with_context(|| format!("look at {}", path.display()))?.len();
    anyhow::ensure!(
        size >= now,
        "the disk has {} and can't shrink: make a new profile of {} and copy what you need",
        human(now),
        human(size)
    );
    file.set_len(size)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("make {} larger", path.display()))
}

/// A number of bytes for people.
pub fn human(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn sizes_are_between_32_mib_and_16_tib_and_round_up() {
        assert_eq!(parse_size("1G"), Ok(1 << 30));
        assert_eq!(parse_size("100"), Ok(100 << 20));
        assert_eq!(parse_size("33000000K").map(|size| size % UNIT), Ok(0));
        for text in ["0", "31M", "17T", "x", "-1"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_new_image_takes_no_room_and_is_nobody_elses() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        create(&path, 1 << 30).unwrap();
        let metadata = path.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (1 << 30, 0o600));
        assert!(on_disk(&path).unwrap() < 1 << 20);
        assert!(create(&path, 1 << 20).is_err(), "what is there is not overwritten");
    }

    #[test]
    fn a_copy_has_the_same_bytes_and_the_same_holes() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        create(&from, 256 << 20).unwrap();
        let file = File::options().write(true).open(&from).unwrap();
        let places = [0, 5 << 20, (200 << 20) + 12345, (256 << 20) - 3];
        for at in places {
            file.write_all_at(b"abc", at).unwrap();
        }
        copy_data(&mut File::open(&from).unwrap(), &mut new_file(&to).unwrap()).unwrap();
        let copied = File::open(&to).unwrap();
        assert_eq!(copied.metadata().unwrap().len(), 256 << 20);
        for at in places {
            let mut bytes = [0; 3];
            copied.read_exact_at(&mut bytes, at).unwrap();
            assert_eq!(&bytes, b"abc");
        }
        assert!(on_disk(&to).unwrap() <= on_disk(&from).unwrap() + (1 << 20));
        assert!(copy(&from, &to).is_err(), "what is there is not overwritten");
    }

    #[test]
    fn an_image_grows_and_does_not_shrink() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        create(&path, 64 << 20).unwrap();
        grow(&path, 128 << 20).unwrap();
        assert_eq!(path.metadata().unwrap().len(), 128 << 20);
        assert!(grow(&path, 64 << 20).unwrap_err().to_string().contains("can't shrink"));
        assert_eq!(path.metadata().unwrap().len(), 128 << 20);
    }
}
