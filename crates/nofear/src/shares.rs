//! Folders and files of the user that the VM may read, because the user says so.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use ninep::{Export, ExportBuilder};

#[cfg(test)]
mod tests;

/// Where `--shared-folder` is in the guest.
pub const SHARED_FOLDER: &str = "/shared";

/// Where the guest's kernel has its own file systems, which nothing may hide.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// A share as the user writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareSpec {
    /// The path on the host.
    pub host: PathBuf,
    /// The path in the guest: absolute, of ordinary names. None: the one on the host.
    pub guest: Option<PathBuf>,
}

impl ShareSpec {
    /// Reads `HOST[:GUEST]`. What follows the last `:/` is the path in the guest, so that HOST may hold colons;
    /// a HOST that holds `:/` needs its GUEST written out.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let colon = bytes.windows(2).rposition(|two| two == b":/");
        let (host, guest) = match colon {
            Some(at) => (&bytes[..at], Some(guest_path(&bytes[at + 1..])?)),
            None => (bytes, None),
        };
        if host.is_empty() {
            return Err("the folder of the host is missing: write HOST or HOST:GUEST".into());
        }
        Ok(Self { host: PathBuf::from(OsStr::from_bytes(host)), guest })
    }

    /// A folder for [`SHARED_FOLDER`].
    pub fn shared_folder(host: &Path) -> Self {
        Self { host: host.into(), guest: Some(SHARED_FOLDER.into()) }
    }
}

/// Checks a path in the guest, and makes it one without empty names and `.`.
fn guest_path(bytes: &[u8]) -> Result<PathBuf, String> {
    let shown = OsStr::from_bytes(bytes).display();
    if bytes.ends_with(b":ro") || bytes.ends_with(b":rw") {
        return Err(format!("'{shown}': shares are read-only for now, without :ro or :rw"));
    }
    let mut path = OsString::new().into_vec();
    for name in bytes.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")) {
        if name == b".." {
            return Err(format!("'{shown}': a path in the VM has no '..'"));
        }
        path.push(b'/');
        path.extend_from_slice(name);
    }
    let path = PathBuf::from(OsString::from_vec(path));
    if path.as_os_str().is_empty() {
        return Err("a share can't take the place of the VM's root '/'".into());
    }
    if KERNEL.iter().any(|kernel| path.starts_with(kernel)) {
        return Err(format!("'{shown}': /proc, /sys and /dev are the VM's own"));
    }
    Ok(path)
}

/// The 9P tree of the shares, each a numbered entry of its root, and what to tell the agent of each.
/// `None`: there are no shares.
///
/// # Errors
///
/// Names the share that is not there, is neither folder nor file, or has another's place.
pub fn open(specs: &[ShareSpec]) -> anyhow::Result<Option<(Export, Vec<agent_proto::Share>)>> {
    if specs.is_empty() {
        return Ok(None);
    }
    ensure!(
        specs.len() <= agent_proto::MAX_SHARES,
        "at most {} shares are possible",
        agent_proto::MAX_SHARES
    );
    let mut found = specs.iter().map(Found::find).collect::<anyhow::Result<Vec<_>>>()?;
    // The agent mounts in this order: what is inside another share comes after it, and isn't hidden.
    found.sort_by(|a, b| a.guest.cmp(&b.guest));
    if let Some(pair) = found.windows(2).find(|pair| pair[0].guest == pair[1].guest) {
        bail!("two shares have the same place in the VM, {}", pair[0].guest.display());
    }
    let mut export = ExportBuilder::new();
    let mut shares = Vec::with_capacity(found.len());
    for (number, Found { host, guest, directory }) in found.into_iter().enumerate() {
        let name = number.to_string();
        let entry = Path::new("/").join(&name);
        export = if directory { export.directory(entry, host)? } else { export.file(entry, host)? };
        shares.push(agent_proto::Share { name, at: guest.into_os_string().into_vec(), directory });
    }
    Ok(Some((export.open().context("open the shares")?, shares)))
}

/// A share that is there.
struct Found {
    host: PathBuf,
    guest: PathBuf,
    directory: bool,
}

impl Found {
    fn find(spec: &ShareSpec) -> anyhow::Result<Self> {
        let shown = spec.host.display();
        let host = spec.host.canonicalize().with_context(|| format!("share {shown}"))?;
        let kind = host.metadata().with_context(|| format!("share {shown}"))?.file_type();
        ensure!(kind.is_dir() || kind.is_file(), "share {shown}: it is neither a folder nor a file");
        let guest = match &spec.guest {
            Some(guest) => guest.clone(),
            None => guest_path(host.as_os_str().as_bytes())
                .map_err(|e| anyhow::anyhow!("{e}; write {shown}:GUEST for another place"))?,
        };
        Ok(Self { host, guest, directory: kind.is_dir() })
    }
}
