//! `nofear open`: one file, copied into a temporary VM, or one address, with the program that this machine opens its
//! kind with.

mod association;
mod exec;
mod kind;

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, Parser};

use crate::cli::{Action, Cli, RunArgs};
use crate::gui::opener;
use crate::gui::options::Clipboard;
use crate::text::escaped;
use crate::{exit, gui, memory, run, user};
pub use association::all_kinds;
use association::{Associations, Entry};
use exec::What;

/// Options of `open`.
#[derive(Args, Debug)]
pub struct OpenArgs {
    /// The file, or an address of http or https
    #[arg(value_name = "FILE|URL")]
    target: OsString,

    /// Open it with this program instead: its entry in /usr/share/applications, without .desktop
    #[arg(short, long, value_name = "APP")]
    with: Option<String>,

    /// Let the program reach the network also for a file; an address is opened with it
    #[arg(long)]
    net: bool,

    /// Which way what is copied goes, as for 'run'
    #[arg(long, value_name = "DIRECTION", value_enum, default_value_t)]
    clipboard: Clipboard,

    /// Play sound on this machine
    #[arg(short, long)]
    sound: bool,

    /// Say more about what is done; twice or three times for details
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Where the guest finds the file, to copy it.
const SHARED: &str = "/run/nofear-open";

/// Copies the file to where the program is to see it, and becomes the program. The arguments are the places and the
/// program's own words.
const COPY: &str = "cp -- \"$0\" \"$1\" && chmod u+w -- \"$1\" && shift && exec \"$@\"";

/// The longest name that a file keeps, in bytes.
const MAX_NAME: usize = 200;

/// Opens it, and returns the program's exit status.
pub fn run(args: &OpenArgs) -> u8 {
    match command(args) {
        Ok(args) => run::run(args),
        Err(e) => {
            log::error!("{e:#}");
            exit::FAILED
        }
    }
}

/// What `run` is to do.
fn command(args: &OpenArgs) -> anyhow::Result<RunArgs> {
    let associations = Associations::of_user();
    let with = |kinds: &[String], what: &str| match &args.with {
        Some(app) => associations.entry(app),
        None => associations.of(kinds).with_context(|| format!("nothing here opens {what}")),
    };
    let mut words: Vec<OsString> = ["nofear", "run", "--temporary", "--gui"].map(Into::into).into();
    if args.sound {
        words.push("--sound".into());
    }
    if let Some(direction) = clap::ValueEnum::to_possible_value(&args.clipboard) {
        words.push(format!("--clipboard={}", direction.get_name()).into());
    }
    match Target::of(&args.target)? {
        Target::Url(url) => {
            let scheme = url.split(':').next().unwrap_or_default().to_ascii_lowercase();
            let entry = with(&[format!("x-scheme-handler/{scheme}")], &format!("addresses of {scheme}"))?;
            words.push("--".into());
            words.extend(program(&entry, &What::Url(&url))?);
        }
        Target::File { path, kinds } => {
            let entry = with(&kinds, &format!("files of the kind {}", kinds.join(", ")))?;
            let user = user::current();
            let home = if user.uid == 0 { "/root" } else { &user.home };
            let inside = Path::new(home).join(name_inside(&path));
            let mut share = OsString::from("--share=");
            share.push(&path);
            share.push(format!(":{SHARED}"));
            words.push(share);
            if !args.net {
                words.push("--net=none".into());
            }
            words.extend(["--", "sh", "-c", COPY, SHARED].map(OsString::from));
            words.push(inside.clone().into());
            words.extend(program(&entry, &What::File(&inside))?);
        }
    }
    let cli = Cli::try_parse_from(words).context("make the command")?;
    match cli.action() {
        (_, Action::Run(run)) => Ok(*run),
        _ => bail!("what was made is no 'run'"),
    }
}

/// The program's words, in a terminal if it needs one.
fn program(entry: &Entry, what: &What<'_>) -> anyhow::Result<Vec<OsString>> {
    let words = exec::words(&entry.exec, what).with_context(|| format!("use {}", entry.path.display()))?;
    log::info!("it is opened with {}", entry.path.display());
    if !entry.terminal {
        return Ok(words);
    }
    Ok([gui::terminal::find()?.into_os_string(), "-e".into()].into_iter().chain(words).collect())
}

/// What is to be opened.
#[derive(Debug)]
enum Target {
    /// An address of the web.
    Url(String),
    /// A regular file, by its absolute path, and what it is: the most special kind first.
    File { path: PathBuf, kinds: Vec<String> },
}

impl Target {
    fn of(target: &OsStr) -> anyhow::Result<Self> {
        let shown = escaped(target.as_bytes());
        if let Some(text) = target.to_str().filter(|text| text.contains("://")) {
            if let Some(path) = text.strip_prefix("file://") {
                bail!("'{shown}' is a file's address: give its path, as {}", escaped(path.as_bytes()));
            }
            return Ok(Self::Url(opener::checked(text).context("open an address")?));
        }
        let path = std::path::absolute(target).with_context(|| format!("find '{shown}'"))?;
        // What is no file is never opened, however it came there: a pipe would wait for its writer.
        let metadata = path.metadata().with_context(|| format!("open '{shown}'"))?;
        check(&metadata).with_context(|| format!("open '{shown}'"))?;
        let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(&path);
        let file = file.with_context(|| format!("open '{shown}'"))?;
        check(&file.metadata().with_context(|| format!("open '{shown}'"))?)
            .with_context(|| format!("open '{shown}'"))?;
        let kinds = kind::of(&path, file).with_context(|| format!("read '{shown}'"))?;
        Ok(Self::File { path, kinds })
    }
}

/// A temporary VM keeps the file in its memory, half of which may be files.
fn check(metadata: &Metadata) -> anyhow::Result<()> {
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => None,
        () if kind.is_dir() => Some("a folder"),
        () if kind.is_fifo() => Some("a pipe"),
        () if kind.is_socket() => Some("a socket"),
        () => Some("a device"),
    };
    if let Some(what) = what {
        bail!("it is {what}, and one file is opened; 'nofear run --share' shows a folder to a program");
    }
    let most = memory::default() / 4;
    ensure!(
        metadata.len() <= most,
        "it has {} MiB, and a temporary VM takes {} MiB: 'nofear run --share' shows it to a program without a copy",
        metadata.len() >> 20,
        most >> 20
    );
    Ok(())
}

/// The name that the file has in the VM: its own, but for what makes names hard to use.
fn name_inside(path: &Path) -> OsString {
    let name = path.file_name().unwrap_or(OsStr::new("file")).as_bytes();
    // The end tells the kind.
    let name = &name[name.len().saturating_sub(MAX_NAME)..];
    let clean = |byte: u8| if byte.is_ascii_control() { b'_' } else { byte };
    let mut name: Vec<u8> = name.iter().map(|byte| clean(*byte)).collect();
    if name.starts_with(b"-") || name.starts_with(b".") {
        name[0] = b'_';
    }
    OsString::from_vec(name)
}

#[cfg(test)]
mod tests;
