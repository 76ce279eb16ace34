//! `cargo xtask dist`: one archive to unpack under a prefix such as `/usr/local`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::run::Product;
use crate::workspace::{root, succeed, target};

/// Make an archive with the command, the guest's kernel and initramfs, manual pages, completions for shells, and the
/// licences.
#[derive(clap::Args)]
pub struct Arguments {}

/// Runs the verb.
pub fn main(_: &Arguments) -> Result<ExitCode> {
    println!("{}", pack(&Product::build(None)?)?.display());
    Ok(ExitCode::SUCCESS)
}

/// Makes the archive of what was built.
pub fn pack(product: &Product) -> Result<PathBuf> {
    let name = format!("nofear-{}-x86_64", env!("CARGO_PKG_VERSION"));
    let folder = target().join("dist");
    let tree = folder.join(&name);
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))?;
    }
    let licences = tree.join("share/doc/nofear");
    for (from, to) in [
        (product.nofear.as_path(), tree.join("bin/nofear")),
        (&product.kernel.vmlinux(), tree.join("lib/nofear/vmlinux")),
        (&product.initramfs, tree.join("lib/nofear/initramfs")),
        (&root().join("LICENSE-APACHE"), licences.join("LICENSE-APACHE")),
        (&root().join("LICENSE-MIT"), licences.join("LICENSE-MIT")),
        // The kernel is under the GPL: where its source is and how it was built goes with it.
        (&root().join("kernel/README.md"), licences.join("kernel/README.md")),
        (&product.kernel.config(), licences.join("kernel/config")),
    ] {
        copy(from, &to)?;
    }
    for file in ["bin/nofear", "lib/nofear/vmlinux"] {
        succeed(Command::new("strip").arg(tree.join(file)), "strip symbols")?;
    }
    succeed(
        Command::new(&product.nofear).arg("generate").arg(&tree),
        "write the manual pages and the completions for shells",
    )?;
    let archive = folder.join(format!("{name}.tar.gz"));
    succeed(
        Command::new("tar")
            .args([
                "--create",
                "--gzip",
                "--owner=0",
                "--group=0",
                "--numeric-owner",
                "--sort=name",
                "--file",
            ])
            .arg(&archive)
            .arg("--directory")
            .arg(&folder)
            .arg(&name),
        "pack the archive",
    )?;
    Ok(archive)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
