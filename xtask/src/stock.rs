//! Debian's own kernels, fetched and unpacked into the cache: what `nofear run --kernel` is tested with.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{self, Lock};
use crate::packages;
use crate::workspace::{output, step, succeed};

/// The releases that must start: the oldest that Debian supports with all our drivers, and our own kernel's.
const SERIES: [&str; 2] = ["6.1", "6.12"];

/// A distribution's kernel, unpacked.
#[derive(Debug)]
pub struct Kernel {
    /// The compressed image.
    pub image: PathBuf,
    /// The folder that has its modules' folder in it, as `/lib/modules`.
    pub modules: PathBuf,
    /// What `uname -r` prints in it.
    pub release: String,
}

/// One kernel of each series that the machine's package lists know.
pub fn fetch() -> Result<Vec<Kernel>> {
    packages::ensure("unpack Debian's kernels", packages::STOCK)?;
    let all = cache::folder("stock")?;
    let _lock = Lock::take(&all.join("lock"), "the stock kernels")?;
    match fetch_into(&all) {
        Ok(kernels) if kernels.len() == SERIES.len() => Ok(kernels),
        // Lists of last week name versions that are gone; a new machine has none.
        _ if packages::can_install() => {
            packages::update();
            fetch_into(&all)
        }
        other => other,
    }
}

fn fetch_into(all: &Path) -> Result<Vec<Kernel>> {
    let packages = newest_of_each()?;
    let mut kernels = Vec::new();
    for package in &packages {
        let folder = all.join(package.folder());
        if !folder.is_dir() {
            package.unpack(all, &folder)?;
        }
        kernels.push(kernel_in(&folder)?);
    }
    remove_others(all, &packages)?;
    Ok(kernels)
}

/// A package, `linux-image-6.1.0-56-amd64` and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Package {
    name: String,
    version: String,
}

fn newest_of_each() -> Result<Vec<Package>> {
    let mut found = Vec::new();
    for series in SERIES {
        let pattern = format!(r"^linux-image-{}\.[^ ]*-amd64(-unsigned)?$", series.replace('.', r"\."));
        let purpose = format!("look for a Linux {series} package");
        let listed = output(Command::new("apt-cache").args(["search", "--names-only", &pattern]), &purpose)?;
        let listed = String::from_utf8_lossy(&listed);
        let names: Vec<&str> = listed
            .lines()
            .filter_map(|line| line.split(' ').next())
            // Other builds of the same source.
            .filter(|name| !name.contains("-cloud-") && !name.contains("-rt-"))
            .collect();
        if names.is_empty() {
            continue;
        }
        let policy = output(Command::new("apt-cache").arg("policy").args(names), &purpose)?;
        let candidates = candidates(&String::from_utf8_lossy(&policy));
        found.extend(candidates.into_iter().max_by(|a, b| {
            // Of two that are the same, the signed one: its name is shorter.
            natural(&a.version, &b.version).then(b.name.len().cmp(&a.name.len()))
        }));
    }
    Ok(found)
}

/// `apt-cache policy`: a name at the margin, then `  Candidate: VERSION`, or `(none)`.
fn candidates(policy: &str) -> Vec<Package> {
    let mut found = Vec::new();
    let mut name = "";
    for line in policy.lines() {
        if let Some(package) = line.strip_suffix(':').filter(|line| !line.starts_with(' ')) {
            name = package;
        } else if let Some(version) = line.trim_start().strip_prefix("Candidate: ")
            && version != "(none)"
        {
            found.push(Package { name: name.to_owned(), version: version.to_owned() });
        }
    }
    found
}

/// Numbers in a text as numbers. Enough for the versions of one kernel series.
fn natural(a: &str, b: &str) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(|char: char| !char.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
    };
    numbers(a).cmp(&numbers(b))
}

impl Package {
    fn folder(&self) -> String {
        format!("{}_{}", self.name, self.version)
    }

    /// Downloads and unpacks into `folder`, whole or not at all.
    fn unpack(&self, all: &Path, folder: &Path) -> Result<()> {
        let work = tempfile::Builder::new()
            .prefix(".unfinished-")
            .tempdir_in(all)
            .with_context(|| format!("make a folder in {}", all.display()))?;
        let purpose = format!("fetch {} {}", self.name, self.version);
        let _step = step(&purpose);
        let mut download = Command::new("apt-get");
        download.args(["-qq", "download", &format!("{}={}", self.name, self.version)]);
        // As root, apt wants to fetch as its own user, who can't write here; it warns and goes on.
        download.args(["-o", "APT::Sandbox::User=root"]).current_dir(work.path());
        output(&mut download, &purpose)?;
        let Some(archive) = files(work.path())?.into_iter().find(|path| path.extension().is_some()) else {
            bail!("{purpose}: apt-get left no package");
        };
        let tree = work.path().join("tree");
        succeed(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&tree), &purpose)?;
        let release = release_in(&tree)?;
        succeed(Command::new("depmod").arg("--basedir").arg(&tree).arg(&release), &purpose)?;
        fs::rename(&tree, folder).with_context(|| format!("publish {}", folder.display()))
    }
}

fn kernel_in(folder: &Path) -> Result<Kernel> {
    let release = release_in(folder)?;
    let image = folder.join(format!("boot/vmlinuz-{release}"));
    Ok(Kernel { image, modules: folder.join("lib/modules"), release })
}

fn release_in(tree: &Path) -> Result<String> {
    let modules = tree.join("lib/modules");
    let folders = files(&modules)?;
    let name = folders.first().and_then(|folder| folder.file_name()).and_then(|name| name.to_str());
    Ok(name.with_context(|| format!("{} has no release in it", modules.display()))?.to_owned())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(|| format!("read {}", folder.display()))
}

/// Hundreds of MiB each: kernels of last month, and what a killed process left.
fn remove_others(all: &Path, wanted: &[Package]) -> Result<()> {
    for path in files(all)?.into_iter().filter(|path| path.is_dir()) {
        if !wanted.iter().any(|package| path.ends_with(package.folder())) {
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_that_can_be_had_is_taken() {
        let policy = "linux-image-6.12.9+deb12-amd64:\n  Installed: (none)\n  Candidate: 6.12.9-1\n  \
                      Version table:\n     6.12.9-1 500\n        500 http://deb.debian.org x\n\
                      linux-image-6.12.117+deb12-amd64:\n  Installed: (none)\n  Candidate: (none)\n\
                      linux-image-6.12.100+deb12-amd64:\n  Installed: (none)\n  Candidate: 6.12.100-1\n";
        let found = candidates(policy);
        let versions: Vec<&str> = found.iter().map(|package| package.version.as_str()).collect();
        assert_eq!(versions, ["6.12.9-1", "6.12.100-1"]);
        assert_eq!(found[1].name, "linux-image-6.12.100+deb12-amd64");
        assert_eq!(natural("6.12.9-1", "6.12.100-1"), Ordering::Less);
        assert_eq!(natural("6.1.192-2", "6.1.192-2"), Ordering::Equal);
    }
}
