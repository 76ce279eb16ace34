//! Folders and files of the user that the VM may read, or change, because the user says so.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use etcetera::BaseStrategy;
use ninep::{Access, Caps, Export, ExportBuilder};

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
    /// Whether the VM may change it.
    pub writable: bool,
    /// How much it may add.
    pub caps: Caps,
}

impl ShareSpec {
    /// Reads `HOST[:GUEST][:rw[,bytes=N][,files=N]|:ro]`. What follows the last `:/` is the path in the guest, so that HOST may hold
    /// colons; a HOST that holds `:/` needs its GUEST written out, one that ends in `:rw` its mode.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        let (bytes, Mode { writable, caps }) = split_mode(text.as_bytes())?;
        let colon = bytes.windows(2).rposition(|two| two == b":/");
        let (host, guest) = match colon {
            Some(at) => (&bytes[..at], Some(guest_path(&bytes[at + 1..])?)),
            None => (bytes, None),
        };
        if host.is_empty() {
            return Err("the folder of the host is missing: write HOST or HOST:GUEST".into());
        }
        Ok(Self { host: PathBuf::from(OsStr::from_bytes(host)), guest, writable, caps })
    }

    /// Reads `DIR[:rw|:ro]`, a folder for [`SHARED_FOLDER`].
    pub fn parse_shared_folder(text: &OsStr) -> Result<Self, String> {
        let (host, Mode { writable, caps }) = split_mode(text.as_bytes())?;
        if host.is_empty() {
            return Err("the folder is missing".into());
        }
        let host = PathBuf::from(OsStr::from_bytes(host));
        Ok(Self { host, guest: Some(SHARED_FOLDER.into()), writable, caps })
    }
}

/// What the VM may do to a share.
#[derive(Default)]
struct Mode {
    writable: bool,
    caps: Caps,
}

/// Takes the mode off the end; without one a share is read-only.
fn split_mode(text: &[u8]) -> Result<(&[u8], Mode), String> {
    let last = text.iter().rposition(|byte| *byte == b':').map(|at| (&text[..at], &text[at + 1..]));
    let Some((rest, mode)) = last else { return Ok((text, Mode::default())) };
    let (word, options) = match mode.iter().position(|byte| *byte == b',') {
        Some(at) => (&mode[..at], Some(&mode[at + 1..])),
        None => (mode, None),
    };
    match (word, options) {
        (b"ro", None) => Ok((rest, Mode::default())),
        (b"rw", options) => {
            Ok((rest, Mode { writable: true, caps: options.map_or(Ok(Caps::NONE), parse_caps)? }))
        }
        _ => Ok((text, Mode::default())),
    }
}

/// Reads `bytes=N,files=N`, in any order. K, M and G multiply.
fn parse_caps(text: &[u8]) -> Result<Caps, String> {
    let text = String::from_utf8_lossy(text);
    let mut caps = Caps::NONE;
    for option in text.split(',') {
        let (place, number) = match option.split_once('=') {
            Some(("bytes", number)) => (&mut caps.bytes, number),
            Some(("files", number)) => (&mut caps.files, number),
            _ => return Err(format!("'{option}': after :rw, bytes=N and files=N are possible")),
        };
        let digits = number.trim_end_matches(['K', 'M', 'G']);
        let factor = match &number[digits.len()..] {
            "" => Some(1),
            "K" => Some(1 << 10),
            "M" => Some(1 << 20),
            "G" => Some(1 << 30),
            _ => None,
        };
        let value = digits.parse::<u64>().ok().and_then(|value| value.checked_mul(factor?));
        *place = Some(value.ok_or_else(|| format!("'{option}': a number as 500M or 20000 is needed"))?);
    }
    Ok(caps)
}

/// Checks a path in the guest, and makes it one without empty names and `.`.
fn guest_path(bytes: &[u8]) -> Result<PathBuf, String> {
    let shown = OsStr::from_bytes(bytes).display();
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
/// Names the share that is not there, is neither folder nor file, has another's place, or is writable and
/// holds what must not be.
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
    for (number, Found { host, guest, directory, access }) in found.into_iter().enumerate() {
        let name = number.to_string();
        let entry = Path::new("/").join(&name);
        export = if directory {
            export.directory_with(entry, host, access)?
        } else {
            export.file_with(entry, host, access)?
        };
        let writable = access.writable;
        shares.push(agent_proto::Share { name, at: guest.into_os_string().into_vec(), directory, writable });
    }
    Ok(Some((export.open().context("open the shares")?, shares)))
}

/// A share that is there.
struct Found {
    host: PathBuf,
    guest: PathBuf,
    directory: bool,
    access: Access,
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
        if spec.writable {
            check_writable(&host).map_err(|why| anyhow::anyhow!("share {shown}:rw: {why}"))?;
        }
        let access =
            if spec.writable { Access { caps: spec.caps, ..Access::READ_WRITE } } else { Access::READ_ONLY };
        Ok(Self { host, guest, directory: kind.is_dir(), access })
    }
}

/// What the VM may change must not hold what the host runs or trusts: a program in the VM would be as good as
/// out of it.
fn check_writable(host: &Path) -> Result<(), String> {
    if host == Path::new("/") {
        return Err("it is the whole machine".into());
    }
    let home = std::env::home_dir().and_then(|home| home.canonicalize().ok());
    if home.is_some_and(|home| home.starts_with(host)) {
        return Err("what starts with your sessions is in it; share a folder in it instead".into());
    }
    match own_places().into_iter().find(|place| place.starts_with(host) || host.starts_with(place)) {
        Some(place) => Err(format!("{} in it is nofear's own", place.display())),
        None => Ok(()),
    }
}

/// Where nofear keeps kernels, sockets and profiles of this user, as far as there are such.
fn own_places() -> Vec<PathBuf> {
    let Ok(base) = etcetera::choose_base_strategy() else { return Vec::new() };
    [Some(base.cache_dir()), Some(base.data_dir()), base.runtime_dir()]
        .into_iter()
        .flatten()
        .filter_map(|place| place.join("nofear").canonicalize().ok())
        .collect()
}
