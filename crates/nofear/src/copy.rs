//! `nofear cp`: files between this machine and a profile or a VM that runs.
//!
//! Both sides meet in a tar stream, through the streams of an ordinary `nofear run` of the profile, or of `nofear exec`
//! in the VM that has it, in which the guest's `tar` packs or unpacks. What comes out of it is the guest's, and
//! [`unpack`] takes it as such.

pub mod unpack;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::control::client::Vm;
use crate::exit;
use crate::profile::archive;
use crate::profile::name::Name;
use crate::profile::store::Profiles;

/// Unpacks into `$1` if that is a folder, and else gives the one thing that comes, `$2`, the name `$1`.
const UNPACK: &str = r#"
if [ -d "$1" ]; then exec tar -C "$1" -xf -; fi
new=$(mktemp -d -- "$(dirname -- "$1")/.nofear-XXXXXX") || exit
tar -C "$new" -xf - && mv -T -- "$new/$2" "$1"
status=$?
rm -rf -- "$new"
exit $status
"#;

/// Options of `cp`.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// What to copy: files or folders of this machine, or NAME:PATH
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<OsString>,

    /// Where to: a folder, or a new name; NAME:PATH, or a path of this machine
    #[arg(value_name = "TARGET")]
    target: OsString,
}

/// A place.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// On this machine.
    Here(PathBuf),
    /// In a profile; what is relative, below the home.
    Profile(Name, PathBuf),
}

/// Copies, and returns the exit status.
pub fn run(args: CopyArgs) -> u8 {
    match copy(args) {
        Ok(()) => 0,
        Err(e) => {
            log::error!("{e:#}");
            exit::FAILED
        }
    }
}

fn copy(args: CopyArgs) -> anyhow::Result<()> {
    let sources: Vec<Place> = args.sources.iter().map(|text| place(text)).collect();
    match place(&args.target) {
        Place::Profile(profile, target) => {
            let here = |source| match source {
                Place::Here(path) => Ok(path),
                Place::Profile(..) => bail!("both sides are profiles: copy to this machine first"),
            };
            let sources: Vec<PathBuf> = sources.into_iter().map(here).collect::<Result<_, _>>()?;
            copy_in(&profile, &sources, &target)
        }
        Place::Here(target) => {
            for source in sources {
                let Place::Profile(profile, path) = source else {
                    bail!("neither side is a profile: write PROFILE:PATH for one, or use cp");
                };
                copy_out(&profile, &path, &target)?;
            }
            Ok(())
        }
    }
}

/// `NAME:PATH`, unless something before the colon can't be a profile's name, as in `./a:b`.
fn place(text: &OsStr) -> Place {
    let bytes = text.as_bytes();
    let colon = bytes.iter().position(|&byte| byte == b':');
    let split = colon.and_then(|at| {
        let name = Name::parse(str::from_utf8(&bytes[..at]).ok()?).ok()?;
        Some((name, PathBuf::from(OsStr::from_bytes(&bytes[at + 1..]))))
    });
    match split {
        Some((name, path)) => Place::Profile(name, path),
        None => Place::Here(text.into()),
    }
}

/// The last component of a path and what is before it. A path without one names no file to copy.
fn parts(path: &Path) -> anyhow::Result<(&Path, &OsStr)> {
    let last = path.components().next_back();
    let Some(Component::Normal(name)) = last else { bail!("{} names no file or folder", path.display()) };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")), name))
}

/// Starts a program in the profile's VM, as its user, in the home.
fn start(profile: &Name, program: &[&OsStr], input: Stdio, output: Stdio) -> anyhow::Result<Child> {
    let running = Vm::find(profile.as_str())?;
    ensure!(
        running.is_some() || Profiles::of_user()?.contains(profile),
        "there is no profile {profile} and no such VM; 'nofear profile list' and 'nofear ps' show those there are"
    );
    let nofear = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(nofear);
    match &running {
        Some(vm) => command.args(["exec", &vm.id, "--"]),
        None => command.args(["run", "--profile", profile.as_str(), "--"]),
    };
    command.args(program).stdin(input).stdout(output).spawn().context("start nofear")
}

fn wait(mut child: Child, profile: &Name) -> anyhow::Result<()> {
    let status = child.wait().context("wait for nofear run")?;
    ensure!(status.success(), "tar in the VM of the profile {profile} failed ({status})");
    Ok(())
}

fn copy_in(profile: &Name, sources: &[PathBuf], target: &Path) -> anyhow::Result<()> {
    let (_, first) = parts(sources.first().context("nothing to copy")?)?;
    let mut bytes = 0;
    for source in sources {
        parts(source)?;
        bytes += size(source).with_context(|| format!("look at {}", source.display()))?;
    }
    // Several need a folder that is there: `.` in it is one, or an error.
    let target = if sources.len() > 1 { target.join(".") } else { target.to_owned() };
    let target = if target.as_os_str().is_empty() { OsStr::new(".") } else { target.as_os_str() };
    let program = [OsStr::new("sh"), "-c".as_ref(), UNPACK.as_ref(), "sh".as_ref(), target, first];
    let mut child = start(profile, &program, Stdio::piped(), Stdio::null())?;
    let input = child.stdin.take().context("write to nofear run")?;
    let bar = archive::progress(bytes, "copying");
    let packed = pack(sources, bar.wrap_write(input));
    bar.finish_and_clear();
    // Its end says more than that it took no more.
    wait(child, profile)?;
    packed
}

fn pack(sources: &[PathBuf], to: impl io::Write) -> anyhow::Result<()> {
    let mut tar = tar::Builder::new(to);
    tar.follow_symlinks(false);
    for source in sources {
        let (_, name) = parts(source)?;
        let metadata = source.symlink_metadata().with_context(|| format!("look at {}", source.display()))?;
        match metadata.is_dir() {
            true => tar.append_dir_all(name, source),
            false => tar.append_path_with_name(source, name),
        }
        .with_context(|| format!("copy {}", source.display()))?;
    }
    tar.finish().context("write to the VM")
}

/// The bytes of the files in a folder, or of a file. Links are not followed.
fn size(path: &Path) -> io::Result<u64> {
    let metadata = path.symlink_metadata()?;
    if !metadata.is_dir() {
        return Ok(if metadata.is_file() { metadata.len() } else { 0 });
    }
    fs::read_dir(path)?.map(|entry| size(&entry?.path())).sum()
}

fn copy_out(profile: &Name, source: &Path, target: &Path) -> anyhow::Result<()> {
    let (parent, name) = parts(source)?;
    // Before a VM is started for nothing.
    let (folder, new_name) = match target.is_dir() {
        true => (target, name),
        false => parts(target)?,
    };
    let folder = File::open(folder).with_context(|| format!("open {}", folder.display()))?;
    let program: Vec<&OsStr> = ["tar", "-cf", "-", "-C"]
        .map(OsStr::new)
        .into_iter()
        .chain([parent.as_os_str(), "--".as_ref(), name])
        .collect();
    let mut child = start(profile, &program, Stdio::null(), Stdio::piped())?;
    let output = child.stdout.take().context("read from nofear run")?;
    let bar = ProgressBar::new_spinner().with_prefix("copying");
    if let Ok(style) = ProgressStyle::with_template("{prefix} {binary_bytes}") {
        bar.set_style(style);
    }
    let mut stream = bar.wrap_read(output);
    let unpacked = unpack::unpack(&mut stream, &folder, name, new_name);
    // A guest that sends on is cut off; one that is at the end of its archive pads it.
    let padding = io::copy(&mut stream.by_ref().take(1 << 20), &mut io::sink());
    drop(stream);
    bar.finish_and_clear();
    let ended = wait(child, profile);
    unpacked.with_context(|| {
        let path = String::from_utf8_lossy(&source.as_os_str().to_owned().into_vec()).into_owned();
        format!("copy {path} out of the profile {profile}")
    })?;
    padding.context("read from nofear run")?;
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_profile_has_a_name_and_a_colon() {
        let profile = |name: &str, path: &str| Place::Profile(Name::parse(name).unwrap(), path.into());
        assert_eq!(place("web:x/y".as_ref()), profile("web", "x/y"));
        assert_eq!(place("web:".as_ref()), profile("web", ""));
        assert_eq!(place("web:/etc/a:b".as_ref()), profile("web", "/etc/a:b"));
        for here in ["x", "./web:x", "/a:b", "../a:b", ":x"] {
            assert_eq!(place(here.as_ref()), Place::Here(here.into()));
        }
    }

    #[test]
    fn what_has_no_name_is_not_copied() {
        assert_eq!(parts(Path::new("a/b/")).unwrap(), (Path::new("a"), OsStr::new("b")));
        assert_eq!(parts(Path::new("-b")).unwrap(), (Path::new("."), OsStr::new("-b")));
        assert_eq!(parts(Path::new("/b")).unwrap(), (Path::new("/"), OsStr::new("b")));
        for path in ["/", "", "..", "a/..", "."] {
            assert!(parts(Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn what_is_packed_here_is_unpacked_there() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from");
        fs::create_dir_all(from.join("deep/er")).unwrap();
        fs::write(from.join("deep/er/file"), "text").unwrap();
        std::os::unix::fs::symlink("deep/er/file", from.join("link")).unwrap();
        let to = folder.path().join("to");
        fs::create_dir(&to).unwrap();
        for (target, made) in [(to.clone(), "from"), (to.join("new name"), "new name")] {
            let mut shell = Command::new("sh");
            shell.args(["-c", UNPACK, "sh"]).arg(&target).arg("from").stdin(Stdio::piped());
            let mut child = shell.spawn().unwrap();
            pack(std::slice::from_ref(&from), child.stdin.take().unwrap()).unwrap();
            assert!(child.wait().unwrap().success());
            assert_eq!(fs::read(to.join(made).join("deep/er/file")).unwrap(), b"text");
            assert_eq!(fs::read_link(to.join(made).join("link")).unwrap(), Path::new("deep/er/file"));
        }
        assert_eq!(fs::read_dir(&to).unwrap().count(), 2);
    }
}
