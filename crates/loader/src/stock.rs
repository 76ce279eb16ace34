//! An initramfs with the modules that a distribution's kernel needs to start as our guest.
//!
//! Distributions ship 9p, overlayfs and most of virtio as modules. The archive holds them
//! unpacked as `modules/NNN-NAME.ko`, and `modules/order` names them one a line in the order in
//! which the guest's init loads them. It goes beside the archive that holds the init itself.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use self::modules::{Module, Modules};
use crate::{
    Error, InitramfsSource,
    cpio::{CpioError, Writer},
    decompress::{Format, MAGIC_SIZE},
    image::cache,
    kernel_release,
};

mod modules;

/// The most that a module may take, packed or unpacked.
const MODULE_MAX: u64 = 64 << 20;

/// Modules by name, and whether the guest is of no use without them. What they depend on comes
/// before them.
const WANTED: [(&str, bool); 11] = [
    ("virtio_mmio", true),
    ("9p", true),
    ("9pnet_virtio", true),
    ("overlay", true),
    ("vmw_vsock_virtio_transport", true),
    ("virtio_rng", false),
    ("virtio_net", false),
    ("virtio_blk", false),
    // ext4 asks for the algorithm at run time, not for the module.
    ("crc32c_generic", false),
    ("crc32c_intel", false),
    ("ext4", false),
];

/// An initramfs that could not be built.
#[derive(Debug, thiserror::Error)]
pub enum StockError {
    /// The kernel's release is not known.
    #[error("find out which modules belong to the kernel")]
    Release(#[source] Error),
    /// There is no folder for the kernel's release, or it has no list of modules.
    #[error("read {path}, the list of the kernel's modules (is its package installed, and did depmod run?)")]
    List {
        /// The list.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The list names a file outside of its folder.
    #[error("{path} names the file {file:?}, which is not below its folder")]
    Outside {
        /// The list.
        path: PathBuf,
        /// The file in question.
        file: String,
    },
    /// A module without which the guest is of no use is neither there nor built in.
    #[error("{folder} has no {module} module, and it is not built in")]
    Missing {
        /// The kernel's folder of modules.
        folder: PathBuf,
        /// The module's name.
        module: String,
    },
    /// A module could not be read or unpacked.
    #[error("read the module {path}")]
    Module {
        /// The module's file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The archive could not be written.
    #[error("write the archive of modules")]
    Archive(#[from] CpioError),
}

/// Builds the initramfs for the bzImage `kernel`, whose release is read from its header.
///
/// `modules` is the folder that has a folder for each release, `/lib/modules`. The archive is kept
/// in the folder `cache` under a hash of the list of modules and of each one's size and times; a
/// cache that can't be written only costs the time to build it again.
///
/// # Errors
///
/// When a module that the guest needs is missing or can't be read. The error names it.
pub fn stock_initramfs(
    kernel: &Path,
    modules: &Path,
    cache: Option<&Path>,
) -> Result<InitramfsSource, StockError> {
    let release = kernel_release(kernel).map_err(StockError::Release)?;
    let modules = Modules::read(&modules.join(release))?;
    let order = modules.order(&WANTED)?;
    let Some(cache) = cache else { return Ok(InitramfsSource::Bytes(archive(&order)?)) };
    let kept = cache.join(format!("stock-{}.cpio", key(&order)?));
    if let Ok(source) = InitramfsSource::open(&kept) {
        return Ok(source);
    }
    let bytes = archive(&order)?;
    if let Err(error) = cache::publish(&kept, &bytes) {
        log::warn!("keep the archive of modules in {}: {error}", cache.display());
    }
    Ok(InitramfsSource::Bytes(bytes))
}

/// A hash of everything that the archive is made of, without reading the modules.
fn key(order: &[Module]) -> Result<String, StockError> {
    let mut hash = Sha256::new();
    for module in order {
        let metadata = fs::metadata(&module.path)
            .map_err(|source| StockError::Module { path: module.path.clone(), source })?;
        let identity = format!(
            "{}\0{}\0{}.{}\0{}.{}\n",
            module.path.display(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        );
        hash.update(identity);
    }
    Ok(cache::hex(&hash.finalize()))
}

fn archive(order: &[Module]) -> Result<Vec<u8>, StockError> {
    let mut archive = Writer::new(Vec::new());
    archive.directory("modules", 0o755)?;
    let mut names = String::new();
    for (index, module) in order.iter().enumerate() {
        let code = read_module(&module.path)
            .map_err(|source| StockError::Module { path: module.path.clone(), source })?;
        let name = format!("{index:03}-{}.ko", module.name);
        archive.file(format!("modules/{name}"), 0o644, &code)?;
        names.push_str(&name);
        names.push('\n');
    }
    archive.file("modules/order", 0o644, names.as_bytes())?;
    Ok(archive.finish()?)
}

fn read_module(path: &Path) -> io::Result<Vec<u8>> {
    let mut packed = Vec::new();
    if File::open(path)?.take(MODULE_MAX + 1).read_to_end(&mut packed)? as u64 > MODULE_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has more than {MODULE_MAX} bytes"),
        ));
    }
    let Some(format) = Format::detect(&packed[..packed.len().min(MAGIC_SIZE)]) else { return Ok(packed) };
    let mut module = Vec::new();
    format.unpack(packed.as_slice(), &mut module, MODULE_MAX)?;
    Ok(module)
}

#[cfg(test)]
mod tests;
