//! Unpacked kernels, kept by the hash of the payload they came from.
//!
//! `HASH.vmlinux` is an unpacked kernel with a trailer: a mark, its length and its own hash. It
//! comes into being by a rename of a complete, synced file, so a half-written one can't be.
//! `kernel-DEV-INO-SIZE-MTIME-CTIME` is a symbolic link whose text names such a file and its
//! inode and change time: as long as both the image and the unpacked kernel are the files they
//! were, nothing need be read. A kernel that was touched in any way is verified in full.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};

const MARK: &[u8; 16] = b"nofear-vmlinux-1";
const HASH_SIZE: usize = 32;
const TRAILER_SIZE: u64 = (MARK.len() + 8 + HASH_SIZE) as u64;

/// A file system's clock moves in steps: an image younger than this may change once more
/// without its times telling.
const SETTLED: Duration = Duration::from_millis(100);

/// Nobody takes so long to write a file of this cache.
const ABANDONED: Duration = Duration::from_secs(3600);

/// An unpacked kernel, and its size without the trailer.
pub(super) struct Unpacked {
    pub file: File,
    pub size: u64,
}

/// The unpacked kernel of the image with this metadata, if the index knows it.
pub(super) fn by_image(folder: &Path, image: &Metadata) -> Option<Unpacked> {
    let text = fs::read_link(folder.join(index_name(image))).ok()?;
    let mut parts = text.to_str()?.split(':');
    let (name, ino, changed) = (parts.next()?, parts.next()?, parts.next()?);
    if name.len() != 2 * HASH_SIZE || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let file = File::open(kernel_path(folder, name)).ok()?;
    let metadata = file.metadata().ok()?;
    let same = metadata.ino().to_string() == ino && time(metadata.ctime(), metadata.ctime_nsec()) == changed;
    let size = metadata.len().checked_sub(TRAILER_SIZE)?;
    same.then_some(Unpacked { file, size })
}

/// The unpacked kernel of a payload with this hash, if there is one and it is whole.
pub(super) fn by_payload(folder: &Path, hash: &str) -> Option<Unpacked> {
    let file = File::open(kernel_path(folder, hash)).ok()?;
    match verify(&file) {
        Ok(Some(size)) => Some(Unpacked { file, size }),
        Ok(None) => {
            log::warn!("{} is damaged, and will be made anew", kernel_path(folder, hash).display());
            None
        }
        Err(_) => None,
    }
}

/// Has `unpack` write a kernel, and keeps it under the payload's hash.
pub(super) fn store(
    folder: &Path,
    hash: &str,
    unpack: impl FnOnce(&mut Hashed<BufWriter<&File>>) -> io::Result<()>,
) -> io::Result<Unpacked> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    sweep(folder);
    let temporary = temporary_path(folder, hash);
    fill(&temporary, unpack)
        .and_then(|unpacked| fs::rename(&temporary, kernel_path(folder, hash)).map(|()| unpacked))
        .inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })
}

/// Writes a whole file: others see all of it or nothing.
pub(crate) fn publish(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    sweep(folder);
    let temporary = temporary_path(folder, "file");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path))
        .inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })
}

/// Remembers that the image with this metadata unpacks to `kernel`.
pub(super) fn remember(folder: &Path, image: &Metadata, hash: &str, kernel: &File) -> io::Result<()> {
    let changed = Duration::new(image.ctime().try_into().unwrap_or(0), image.ctime_nsec() as u32);
    let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + changed);
    if age.is_ok_and(|age| age < SETTLED) {
        return Ok(());
    }
    let metadata = kernel.metadata()?;
    let text = format!("{hash}:{}:{}", metadata.ino(), time(metadata.ctime(), metadata.ctime_nsec()));
    let temporary = temporary_path(folder, hash);
    symlink(text, &temporary)?;
    fs::rename(&temporary, folder.join(index_name(image))).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// The hash of everything that `input` gives, in hexadecimal.
pub(super) fn hash(mut input: impl Read) -> io::Result<String> {
    let mut hashed = Hashed { out: io::sink(), hash: Sha256::new(), size: 0 };
    io::copy(&mut input, &mut hashed)?;
    Ok(hex(&hashed.hash.finalize()))
}

fn fill(
    path: &Path,
    unpack: impl FnOnce(&mut Hashed<BufWriter<&File>>) -> io::Result<()>,
) -> io::Result<Unpacked> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    let size = write_kernel(&file, unpack)?;
    file.sync_all()?;
    Ok(Unpacked { file, size })
}

/// Writes the kernel and its trailer, and returns the kernel's size.
fn write_kernel(
    file: &File,
    unpack: impl FnOnce(&mut Hashed<BufWriter<&File>>) -> io::Result<()>,
) -> io::Result<u64> {
    let out = BufWriter::with_capacity(1 << 18, file);
    let mut hashed = Hashed { out, hash: Sha256::new(), size: 0 };
    unpack(&mut hashed)?;
    let Hashed { mut out, hash, size } = hashed;
    out.write_all(MARK)?;
    out.write_all(&size.to_le_bytes())?;
    out.write_all(&hash.finalize())?;
    out.flush()?;
    Ok(size)
}

/// The size of the kernel in `file`, or `None` when it is not what was written.
fn verify(file: &File) -> io::Result<Option<u64>> {
    let Some(size) = file.metadata()?.len().checked_sub(TRAILER_SIZE) else { return Ok(None) };
    let mut input = BufReader::with_capacity(1 << 18, file);
    let mut hashed = Hashed { out: io::sink(), hash: Sha256::new(), size: 0 };
    io::copy(&mut input.by_ref().take(size), &mut hashed)?;
    let mut trailer = Vec::new();
    input.read_to_end(&mut trailer)?;
    let expected = [MARK.as_slice(), &size.to_le_bytes(), &hashed.hash.finalize()].concat();
    Ok((trailer == expected).then_some(size))
}

/// Hashes and counts what passes through.
pub(super) struct Hashed<W> {
    out: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn kernel_path(folder: &Path, hash: &str) -> PathBuf {
    folder.join(format!("{hash}.vmlinux"))
}

fn temporary_path(folder: &Path, hash: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    folder.join(format!(".{hash}.{}.{number}", process::id()))
}

/// Removes the temporary files of processes that were ended while they wrote.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let old = || Some(entry.metadata().ok()?.modified().ok()?.elapsed().ok()? > ABANDONED);
        if entry.file_name().to_str().is_some_and(is_temporary) && old() == Some(true) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_temporary(name: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let mut parts = name.split('.');
    let (first, stem, pid, count) = (parts.next(), parts.next(), parts.next(), parts.next());
    first == Some("")
        && stem.is_some_and(|stem| !stem.is_empty())
        && pid.is_some_and(number)
        && count.is_some_and(number)
        && parts.next().is_none()
}

fn index_name(image: &Metadata) -> String {
    let modified = time(image.mtime(), image.mtime_nsec());
    let changed = time(image.ctime(), image.ctime_nsec());
    format!("kernel-{:x}-{:x}-{:x}-{modified}-{changed}", image.dev(), image.ino(), image.len())
}

fn time(seconds: i64, nanoseconds: i64) -> String {
    format!("{seconds}.{nanoseconds:09}")
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
