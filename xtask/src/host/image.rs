//! What the emulated host starts from: an initramfs of busybox and `kernel/host/init.sh`, and a folder that
//! tells it what to do.

use std::env;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use loader::cpio::Writer;

use crate::workspace;

/// How the path of a dynamic program's loader begins: there is none in the initramfs.
const INTERPRETER: &[u8] = b"/lib64/ld-";

/// Writes the initramfs.
pub fn write_initramfs(path: &Path) -> Result<()> {
    let busybox = Path::new("/bin/busybox");
    let busybox = fs::read(busybox).with_context(|| format!("read {}", busybox.display()))?;
    if busybox.windows(INTERPRETER.len()).any(|bytes| bytes == INTERPRETER) {
        bail!("/bin/busybox is not static: install Debian's busybox-static, or another static build");
    }
    let init = workspace::root().join("kernel/host/init.sh");
    let init = fs::read(&init).with_context(|| format!("read {}", init.display()))?;
    let mut archive = Writer::new(Vec::new());
    for folder in ["bin", "dev", "proc", "sys", "layers", "root"] {
        archive.directory(folder, 0o755)?;
    }
    archive.character_device("dev/console", 0o600, 5, 1)?;
    archive.file("bin/busybox", 0o755, &busybox)?;
    archive.file("init", 0o755, &init)?;
    fs::write(path, archive.finish()?).with_context(|| format!("write {}", path.display()))
}

/// Fills the control folder: this very program as the relay, the current folder, what else is visible.
pub fn write_control(folder: &Path, cwd: &Path, visible: &[PathBuf]) -> Result<()> {
    fs::create_dir(folder).with_context(|| format!("make {}", folder.display()))?;
    let program = env::current_exe().context("find this program's file")?;
    fs::copy(&program, folder.join("xtask")).with_context(|| format!("copy {}", program.display()))?;
    let mut list = Vec::new();
    for path in visible {
        let path = fs::canonicalize(path).with_context(|| format!("find {}", path.display()))?;
        // The rest is visible anyway.
        if !path.starts_with("/tmp") && !path.starts_with("/run") || cwd.starts_with(&path) {
            continue;
        }
        if path.as_os_str().as_bytes().contains(&b'\n') {
            bail!("{}: a name with a line feed in it", path.display());
        }
        list.extend(path.as_os_str().as_bytes());
        list.push(b'\n');
    }
    fs::write(folder.join("visible"), list).context("write the list of visible folders")?;
    fs::write(folder.join("cwd"), cwd.as_os_str().as_bytes()).context("write the current folder's name")
}
