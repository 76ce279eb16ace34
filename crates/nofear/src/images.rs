//! Where the kernel and the guest's initramfs are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use etcetera::BaseStrategy;
use etcetera::base_strategy::Xdg;
use loader::stock::stock_initramfs;
use vmm::Initramfs;

#[cfg(test)]
mod tests;

/// Where distributions keep their kernels' modules.
const MODULES: &str = "/lib/modules";

/// An image that a build of nofear brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// The guest's kernel, an ELF file: nothing to unpack.
    Kernel,
    /// The initramfs with the guest's one program.
    Initramfs,
}

impl Image {
    fn file_name(self) -> &'static str {
        match self {
            Self::Kernel => "vmlinux",
            Self::Initramfs => "initramfs",
        }
    }

    fn variable(self) -> &'static str {
        match self {
            Self::Kernel => "NOFEAR_KERNEL",
            Self::Initramfs => "NOFEAR_INITRAMFS",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Kernel => "build it with 'cargo xtask kernel', or name another one with --kernel",
            Self::Initramfs => "build it with 'cargo xtask guest'",
        }
    }

    /// The image that the environment names, or the user's own, or the one beside this program.
    ///
    /// # Errors
    ///
    /// Says where it was looked for and how to get one.
    pub fn find(self) -> anyhow::Result<PathBuf> {
        let named = std::env::var_os(self.variable()).filter(|path| !path.is_empty());
        let data = Xdg::new().ok().map(|xdg| xdg.data_dir());
        let program = std::env::current_exe().ok();
        self.find_in(named, data.as_deref(), program.as_deref())
    }

    fn find_in(
        self,
        named: Option<OsString>,
        data: Option<&Path>,
        program: Option<&Path>,
    ) -> anyhow::Result<PathBuf> {
        if let Some(named) = named {
            // Named and missing is an error; it is not looked for elsewhere.
            let path = PathBuf::from(named);
            path.metadata().with_context(|| format!("{}={}", self.variable(), path.display()))?;
            return Ok(path);
        }
        let prefix = program.and_then(|program| program.parent()?.parent());
        let beside = prefix.map(|prefix| prefix.join("lib"));
        let places: Vec<PathBuf> = [data, beside.as_deref()]
            .into_iter()
            .flatten()
            .map(|folder| folder.join("nofear").join(self.file_name()))
            .collect();
        match places.iter().find(|path| path.is_file()) {
            Some(path) => Ok(path.clone()),
            None => {
                let places: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
                let name = self.file_name();
                bail!("no {name} at {}; {}", places.join(" or "), self.remedy())
            }
        }
    }
}

/// Where unpacked kernels are kept from one run to the next; `None` without a home.
pub fn cache() -> Option<PathBuf> {
    Xdg::new().ok().map(|xdg| xdg.cache_dir().join("nofear"))
}

/// The archive of the modules of a distribution's kernel. `None` for a kernel that has no modules here, since
/// all that it needs is built in.
///
/// # Errors
///
/// Names the module that is missing or can't be read.
pub fn modules(kernel: &Path) -> anyhow::Result<Option<Initramfs>> {
    modules_in(kernel, Path::new(MODULES))
}

fn modules_in(kernel: &Path, modules: &Path) -> anyhow::Result<Option<Initramfs>> {
    let release = match loader::kernel_release(kernel) {
        Ok(release) => release,
        // An ELF kernel does not tell its release, and what is no kernel is refused when it is opened.
        Err(e) => {
            log::debug!("{}: {e}", kernel.display());
            return Ok(None);
        }
    };
    if !modules.join(&release).is_dir() {
        log::info!("there are no modules of Linux {release}: what it needs must be built in");
        return Ok(None);
    }
    let source =
        stock_initramfs(kernel, modules, cache().as_deref()).context("collect the kernel's modules")?;
    Ok(Some(Initramfs::Source(source)))
}
