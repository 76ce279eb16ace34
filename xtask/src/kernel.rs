//! `cargo xtask kernel`: the guest's kernel, and the emulated host's.
//!
//! Made once from source, patches and configuration fragments, and kept in the cache under a hash of them.

mod compile;
mod config;
mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::cache::{self, Key, Lock};
use crate::{packages, workspace};
use config::Fragments;
use source::Source;

/// Changes when the way of building changes, so that no older result is taken.
const RECIPE: &str = "kernel 1";

/// How the name of a build in progress ends.
const UNFINISHED: &str = ".unfinished";

/// Build the guest's kernel, and print the paths of its bzImage and vmlinux.
#[derive(clap::Args)]
pub struct Arguments {
    /// Linux source, a tar archive or a folder, instead of Debian's linux-source-6.12 package
    #[arg(long, value_name = "TARBALL|DIR")]
    source: Option<PathBuf>,

    /// The emulated host's kernel instead of the guest's
    #[arg(long)]
    host: bool,
}

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// The guest's, in `kernel/fragments/`.
    Guest,
    /// The emulated host's, in `kernel/host/`.
    Host,
}

impl Flavour {
    fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Host => "host",
        }
    }

    /// Fragments and patches, in a stable order.
    fn files(self) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
        let kernel = workspace::root().join("kernel");
        let folder = match self {
            Self::Guest => kernel.join("fragments"),
            Self::Host => kernel.join("host"),
        };
        Ok((files_named(&folder, "config")?, files_named(&folder, "patch")?))
    }

    /// Lines that `make` prints for a build, before this machine has counted its own.
    fn expected_lines(self) -> u64 {
        match self {
            Self::Guest => 1_800,
            Self::Host => 2_300,
        }
    }
}

/// A kernel that is ready.
#[derive(Clone, Debug)]
pub struct Kernel {
    folder: PathBuf,
}

impl Kernel {
    /// The compressed image, with a boot header.
    pub fn bzimage(&self) -> PathBuf {
        self.folder.join("bzImage")
    }

    /// The ELF image that it was made of.
    pub fn vmlinux(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// Its whole configuration.
    pub fn config(&self) -> PathBuf {
        self.folder.join("config")
    }

    fn is_complete(&self) -> bool {
        self.bzimage().is_file() && self.vmlinux().is_file()
    }
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> Result<ExitCode> {
    let flavour = if arguments.host { Flavour::Host } else { Flavour::Guest };
    let kernel = build(flavour, arguments.source.as_deref())?;
    println!("{}\n{}", kernel.bzimage().display(), kernel.vmlinux().display());
    Ok(ExitCode::SUCCESS)
}

/// Takes the kernel from the cache, or builds it: minutes, with a progress bar.
pub fn build(flavour: Flavour, source: Option<&Path>) -> Result<Kernel> {
    let purpose = format!("build the {} kernel", flavour.name());
    let (fragments, patches) = flavour.files()?;
    let configuration = Fragments::read(&fragments)?;
    let source = Source::find(source, &purpose)?;
    packages::ensure(&purpose, packages::KERNEL)?;

    let mut key = Key::new(RECIPE).with(source.identity()?.as_bytes());
    for file in fragments.iter().chain(&patches) {
        key = key.with_file(file)?;
    }
    for tool in ["gcc", "ld"] {
        let version = workspace::output(Command::new(tool).arg("--version"), &purpose)?;
        key = key.with(&version);
    }
    let name = key.name();

    let all = cache::folder("kernel")?;
    let kernel = Kernel { folder: all.join(&name) };
    if kernel.is_complete() {
        return Ok(kernel);
    }
    let _lock = Lock::take(&all.join(format!("{}.lock", flavour.name())), "this kernel")?;
    if kernel.is_complete() {
        return Ok(kernel);
    }
    remove_unfinished(&all, flavour)?;
    let work = all.join(format!("{}-{name}{UNFINISHED}", flavour.name()));
    let build = compile::Build { flavour, source: &source, patches: &patches, fragments: &configuration };
    build.run(&work).with_context(|| purpose.clone())?;
    if kernel.folder.exists() {
        fs::remove_dir_all(&kernel.folder)
            .with_context(|| format!("remove the broken {}", kernel.folder.display()))?;
    }
    fs::rename(work.join("result"), &kernel.folder)
        .with_context(|| format!("publish {}", kernel.folder.display()))?;
    remove_unfinished(&all, flavour)?;
    Ok(kernel)
}

/// What a build that was killed left behind. The caller holds the flavour's lock, so nobody is at work in it.
fn remove_unfinished(all: &Path, flavour: Flavour) -> Result<()> {
    for entry in fs::read_dir(all).with_context(|| format!("read {}", all.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(flavour.name()) && name.ends_with(UNFINISHED) {
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn files_named(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|is| is == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
