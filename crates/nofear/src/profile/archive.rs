//! A profile in one file: a tar archive, compressed by zstd, of `profile.toml` and the sparse `disk.img`.
//!
//! `profile.toml` has the disk's SHA-256 in it; zstd's own checksum covers every byte. An archive is data of
//! whoever made it: names and sizes in it are checked, and nothing is unpacked by a path of its own.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::description::Description;
use super::image;
use super::name::Name;
use super::store::{Profile, Profiles};

const MANIFEST: &str = "profile.toml";
const DISK: &str = "disk.img";

/// The version of archives that this program makes and reads.
const VERSION: u32 = 1;

/// The most bytes of a manifest.
const MAX_MANIFEST: u64 = 256 << 10;

/// A good ratio at a disk's speed.
const LEVEL: i32 = 3;

/// Images are read, hashed and written in blocks of this. One of zeros is a hole.
const BLOCK: usize = 64 << 10;

/// What an archive says of itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Manifest {
    archive_version: u32,
    name: String,
    fresh: bool,
    disk_size: u64,
    disk_sha256: String,
    /// The text of the profile's own description.
    description: String,
}

/// Writes a profile to a new file.
pub fn export(profile: &Profile, to: &Path) -> anyhow::Result<()> {
    ensure!(!to.exists(), "{} exists already", to.display());
    let name = to.file_name().with_context(|| format!("{} names no file", to.display()))?;
    let unfinished = to.with_file_name(format!(".{}.unfinished", name.display()));
    let file = File::create(&unfinished).with_context(|| format!("make {}", unfinished.display()))?;
    let written = write(profile, file)
        .and_then(|()| fs::rename(&unfinished, to).with_context(|| format!("make {}", to.display())));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written.with_context(|| format!("export the profile {} to {}", profile.name, to.display()))
}

fn write(profile: &Profile, to: File) -> anyhow::Result<()> {
    let mut disk = File::open(profile.disk()).context("open the disk")?;
    let extents = image::extents(&disk).context("find the disk's holes")?;
    let bytes: u64 = extents.iter().map(|extent| extent.end - extent.start).sum();
    // Read twice: a checksum that comes first can be checked while the disk is unpacked.
    let bar = progress(2 * bytes, "exporting");
    let manifest = Manifest {
        archive_version: VERSION,
        name: profile.name.to_string(),
        fresh: profile.is_fresh(),
        disk_size: disk.metadata().context("look at the disk")?.len(),
        disk_sha256: digest_of_data(&disk, &extents, &bar).context("read the disk")?,
        description: profile.description.text()?,
    };
    let text = toml::to_string(&manifest).context("describe the archive")?;
    let mut encoder = zstd::Encoder::new(BufWriter::new(to), LEVEL).context("start to compress")?;
    encoder.include_checksum(true).context("start to compress")?;
    let mut tar = tar::Builder::new(bar.wrap_write(&mut encoder));
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o600);
    tar.append_data(&mut header, MANIFEST, text.as_bytes()).context("write the description")?;
    tar.append_file(DISK, &mut disk).context("write the disk")?;
    tar.finish().context("write the archive")?;
    drop(tar);
    let file = encoder.finish().context("compress")?.into_inner().map_err(io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all()).context("write the archive to the disk")?;
    bar.finish_and_clear();
    Ok(())
}

/// Makes a profile of an archive, named as it says or as the user does.
pub fn import(profiles: &Profiles, from: &Path, name: Option<&Name>) -> anyhow::Result<Profile> {
    let shown = from.display();
    let file = File::open(from).with_context(|| format!("open {shown}"))?;
    let size = file.metadata().with_context(|| format!("look at {shown}"))?.len();
    let bar = progress(size, "importing");
    let imported = read(profiles, bar.wrap_read(file), name).with_context(|| format!("import {shown}"))?;
    bar.finish_and_clear();
    Ok(imported)
}

fn read(profiles: &Profiles, from: impl Read, name: Option<&Name>) -> anyhow::Result<Profile> {
    let no_archive = "it is no archive of a profile";
    let decoder = zstd::Decoder::new(BufReader::new(from)).context(no_archive)?;
    let mut tar = tar::Archive::new(decoder);
    let mut entries = tar.entries().context(no_archive)?;
    let mut next = |wanted: &str| -> anyhow::Result<_> {
        let entry = entries.next().context("it ends early")?.context(no_archive)?;
        ensure!(*entry.path_bytes() == *wanted.as_bytes(), "{no_archive}: it has no {wanted}");
        Ok(entry)
    };
    let mut entry = next(MANIFEST)?;
    ensure!(entry.size() <= MAX_MANIFEST, "{no_archive}: its description has {} bytes", entry.size());
    let mut text = String::new();
    entry.read_to_string(&mut text).context("read its description")?;
    let manifest = parse_manifest(&text)?;
    let own = Name::parse(&manifest.name).map_err(anyhow::Error::msg).context("read its name")?;
    let name = name.unwrap_or(&own);
    profiles.refuse_existing(name)?;
    let mut description = Description::parse(&manifest.description).context("read its description")?;
    let closed = description.settings.network.close();
    if !closed.is_empty() {
        let keys = closed.join(", ");
        log::warn!(
            "what the file fixes as {keys} would open something here and is not taken over: 'nofear profile set {name} \
             KEY=VALUE' does that"
        );
    }

    let mut disk = next(DISK)?;
    ensure!(disk.size() == manifest.disk_size, "its disk has another size than it says");
    image::check_size(manifest.disk_size)?;
    let unfinished = profiles.begin(&format!("import of {name}"))?;
    let image = image::new_file(&unfinished.disk()).context("make the disk")?;
    image.set_len(manifest.disk_size).context("make the disk")?;
    let digest = unpack(&mut disk, &image, manifest.disk_size)?;
    ensure!(digest == manifest.disk_sha256, "it is damaged: its disk has another checksum than it says");
    // The end of the compressed stream has the checksum of the rest.
    drop(disk);
    ensure!(entries.next().is_none(), "{no_archive}: it has more than a disk");
    io::copy(&mut tar.into_inner(), &mut io::sink()).context("read its end")?;
    image.sync_all().context("write the disk")?;
    if manifest.fresh {
        unfinished.mark_fresh()?;
    }
    unfinished.finish(name, description)
}

fn parse_manifest(text: &str) -> anyhow::Result<Manifest> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Version {
        archive_version: u32,
    }
    let damaged = "its description is damaged";
    // The library's texts have several lines.
    let version: Version = toml::from_str(text).map_err(|_| anyhow::anyhow!(damaged))?;
    if version.archive_version > VERSION {
        bail!("it was made by a newer nofear (version {} of archives)", version.archive_version);
    }
    toml::from_str(text).map_err(|_| anyhow::anyhow!(damaged))
}

/// Writes what is not zero to the image, and returns the checksum.
fn unpack(from: &mut impl Read, image: &File, size: u64) -> anyhow::Result<String> {
    let mut digest = DiskDigest::default();
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    while at < size {
        let length = usize::try_from(size - at).unwrap_or(BLOCK).min(BLOCK);
        from.read_exact(&mut block[..length]).context("read its disk")?;
        if digest.add(at, &block[..length]) {
            image.write_all_at(&block[..length], at).context("write the disk")?;
        }
        at += length as u64;
    }
    Ok(digest.finish())
}

/// The checksum of an image, of whose holes nothing is read.
fn digest_of_data(file: &File, extents: &[std::ops::Range<u64>], bar: &ProgressBar) -> io::Result<String> {
    let size = file.metadata()?.len();
    let mut digest = DiskDigest::default();
    let mut block = vec![0; BLOCK];
    let mut done = 0;
    for extent in extents {
        // An extent may begin and end within a block, and two within the same.
        let mut at = (extent.start / BLOCK as u64 * BLOCK as u64).max(done);
        while at < extent.end {
            let length = usize::try_from(size - at).unwrap_or(BLOCK).min(BLOCK);
            file.read_exact_at(&mut block[..length], at)?;
            digest.add(at, &block[..length]);
            at += length as u64;
            bar.inc(length as u64);
        }
        done = at;
    }
    Ok(digest.finish())
}

/// SHA-256 over the blocks that are not zero, each after its place: the same for an image whatever its holes.
#[derive(Default)]
struct DiskDigest(Sha256);

impl DiskDigest {
    /// Takes a block; false for one of zeros.
    fn add(&mut self, at: u64, block: &[u8]) -> bool {
        if block.iter().all(|&byte| byte == 0) {
            return false;
        }
        self.0.update(at.to_le_bytes());
        self.0.update(block);
        true
    }

    fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A bar on the standard error, if that is a terminal.
pub fn progress(bytes: u64, what: &'static str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix} {bar:40} {binary_bytes} of {binary_total_bytes}, {eta} left");
    let bar = ProgressBar::new(bytes).with_prefix(what);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests;
