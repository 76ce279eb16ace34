//! Other distributions' software, each a tree in the cache that debootstrap made: what `nofear` runs programs of in
//! the tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{self, Lock};
use crate::packages;
use crate::workspace::{output, step, succeed};

/// What is installed beside the minimum: what makes a profile, and what the tests run.
const PACKAGES: &str = "e2fsprogs,python3-minimal,ca-certificates,file,bc,gawk";

/// For one tree, in seconds.
const LIMIT_SECONDS: &str = "900";

/// A suite that a mirror serves.
struct Suite {
    name: &'static str,
    /// As its os-release has it.
    id: &'static str,
    mirror: &'static str,
    /// debootstrap's script, which older versions do not have for newer suites.
    script: &'static str,
    /// The package of the first suite that has the keys, and where; none: this machine has them.
    keys: Option<(&'static str, &'static str)>,
}

const DEBIAN: &str = "http://deb.debian.org/debian";
const UBUNTU: &str = "http://archive.ubuntu.com/ubuntu";

const UBUNTU_KEYS: (&str, &str) = ("ubuntu-keyring", "usr/share/keyrings/ubuntu-archive-keyring.gpg");

/// The first brings the keys of the others.
const SUITES: [Suite; 3] = [
    Suite { name: "trixie", id: "debian 13", mirror: DEBIAN, script: "sid", keys: None },
    Suite { name: "jammy", id: "ubuntu 22.04", mirror: UBUNTU, script: "gutsy", keys: Some(UBUNTU_KEYS) },
    Suite { name: "noble", id: "ubuntu 24.04", mirror: UBUNTU, script: "gutsy", keys: Some(UBUNTU_KEYS) },
];

/// A distribution's software.
pub struct Tree {
    /// Its name and version, `ubuntu 24.04`.
    pub id: &'static str,
    /// Its root.
    pub path: PathBuf,
}

/// All trees; those that are not there are made, which takes minutes and 300 MiB each. What a mirror does not serve
/// is said, and not there: the world outside is not what is tested.
pub fn fetch() -> Result<Vec<Tree>> {
    packages::ensure("make trees of distributions", packages::DISTRIBUTIONS)?;
    let all = cache::folder("distributions")?;
    let _lock = Lock::take(&all.join("lock"), "the distributions' trees")?;
    let mut trees = Vec::<Tree>::new();
    for suite in &SUITES {
        let path = all.join(suite.name);
        if !path.is_dir()
            && let Err(error) = suite.make(&all, &path, trees.first().map(|tree| tree.path.as_path()))
        {
            println!("SKIPPED: {} and what follows it: {error:#}", suite.id);
            break;
        }
        trees.push(Tree { id: suite.id, path });
    }
    Ok(trees)
}

impl Suite {
    /// Makes the tree at `path`, whole or not at all. `first`: the tree of the first suite.
    fn make(&self, all: &Path, path: &Path, first: Option<&Path>) -> Result<()> {
        let purpose = format!("make a tree of {}", self.id);
        let _step = step(&purpose);
        let work = tempfile::Builder::new()
            .prefix(".unfinished-")
            .tempdir_in(all)
            .with_context(|| format!("make a folder in {}", all.display()))?;
        let tree = work.path().join("tree");
        // It would try a mirror that does not answer for hours.
        let mut debootstrap = Command::new("timeout");
        debootstrap.args([LIMIT_SECONDS, "debootstrap", "--variant=minbase", "--include", PACKAGES]);
        if let (Some((package, file)), Some(first)) = (self.keys, first) {
            debootstrap.arg("--keyring").arg(keys(package, first, work.path())?.join(file));
        }
        debootstrap.arg(self.name).arg(&tree).args([self.mirror, self.script]);
        output(&mut debootstrap, &purpose)?;
        std::fs::rename(&tree, path).with_context(|| format!("publish {}", path.display()))
    }
}

/// The files of a package of the suite whose tree is `first`: its apt checks it with the keys that it has.
fn keys(package: &str, first: &Path, work: &Path) -> Result<PathBuf> {
    let purpose = format!("fetch {package}");
    let fetch = format!("cd /tmp && apt-get -qq update && apt-get -qq download {package} && apt-get clean");
    output(Command::new("chroot").arg(first).args(["sh", "-euc", &fetch]), &purpose)?;
    let unpack = format!(
        "for file in \"$1\"/tmp/{package}_*.deb; do dpkg-deb --extract \"$file\" \"$2\"; rm \"$file\"; done"
    );
    let keys = work.join("keys");
    succeed(Command::new("sh").args(["-euc", &unpack, "sh"]).arg(first).arg(&keys), &purpose)?;
    Ok(keys)
}
