//! One build: source and fragments in, `result/{bzImage,vmlinux,config,build.log}` out.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Flavour;
use super::config::Fragments;
use super::source::Source;
use crate::cache;

/// What to build.
pub struct Build<'a> {
    pub flavour: Flavour,
    pub source: &'a Source,
    pub patches: &'a [PathBuf],
    pub fragments: &'a Fragments,
}

impl Build<'_> {
    /// Builds in `work`, a folder that does not exist yet.
    pub fn run(&self, work: &Path) -> Result<()> {
        let start = Instant::now();
        let (objects, result) = (work.join("objects"), work.join("result"));
        for folder in [work, &objects, &result] {
            fs::create_dir(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let progress = Progress::new(self.flavour)?;
        progress.say("unpack");
        let source = self.source.prepare(&work.join("source"), self.patches)?;
        let log = result.join("build.log");
        let make = Make { source: &source, objects: &objects, log: &log, progress: &progress };
        let built = self.configure(&make).and_then(|()| {
            progress.say("compile");
            make.run(&["bzImage"], &[])
        });
        if let Err(error) = built {
            let kept = cache::folder("kernel")?.join(format!("{}-failed.log", self.flavour.name()));
            fs::copy(&log, &kept).with_context(|| format!("keep the log {}", log.display()))?;
            progress.clear();
            return Err(error.context(format!("{}\nthe whole log: {}", tail(&log)?, kept.display())));
        }
        for (from, to) in
            [("arch/x86/boot/bzImage", "bzImage"), ("vmlinux", "vmlinux"), (".config", "config")]
        {
            let (from, to) = (objects.join(from), result.join(to));
            fs::copy(&from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
        }
        progress.finish(start.elapsed(), fs::metadata(result.join("bzImage"))?.len())
    }

    /// Everything off but what the fragments ask and the kernel insists on: no default sneaks in.
    fn configure(&self, make: &Make) -> Result<()> {
        let merged = make.objects.join("nofear.config");
        fs::write(&merged, self.fragments.merged()).with_context(|| format!("write {}", merged.display()))?;
        make.run(&["allnoconfig"], &[("KCONFIG_ALLCONFIG", merged.into_os_string())])?;
        let path = make.objects.join(".config");
        let config = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        self.fragments.check(&config)
    }
}

struct Make<'a> {
    source: &'a Path,
    objects: &'a Path,
    log: &'a Path,
    progress: &'a Progress,
}

impl Make<'_> {
    fn run(&self, goals: &[&str], environment: &[(&str, OsString)]) -> Result<()> {
        let mut output = String::from("O=");
        output.push_str(self.objects.to_str().context("the cache folder's name is not UTF-8")?);
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        let (reader, writer) = io::pipe().context("make a pipe")?;
        let mut command = Command::new("make");
        command
            .arg("--directory")
            .arg(self.source)
            .args([&output, &format!("--jobs={jobs}"), "ARCH=x86_64"])
            .args(goals)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            // The same bytes whoever builds, and whenever.
            .envs([
                ("KBUILD_BUILD_TIMESTAMP", "@0"),
                ("KBUILD_BUILD_USER", "nofear"),
                ("KBUILD_BUILD_HOST", "nofear"),
            ])
            .env("LC_ALL", "C")
            // An outer make's job server is not ours.
            .env_remove("MAKEFLAGS")
            .env_remove("MFLAGS")
            .stdin(Stdio::null())
            .stderr(writer.try_clone().context("copy a pipe")?)
            .stdout(writer);
        let mut child = command.spawn().context("start make")?;
        // The command holds the pipe's writing ends: without them gone the reader would never see an end.
        drop(command);
        let mut log =
            File::options().create(true).append(true).open(self.log).context("open the build log")?;
        for line in BufReader::new(reader).split(b'\n') {
            let mut line = line.context("read what make prints")?;
            if line.starts_with(b"  ") {
                self.progress.step();
            }
            line.push(b'\n');
            log.write_all(&line).context("write the build log")?;
        }
        let status = child.wait().context("wait for make")?;
        if !status.success() {
            bail!("make {} ended with {status}", goals.join(" "));
        }
        Ok(())
    }
}

/// The last lines of a log.
fn tail(log: &Path) -> Result<String> {
    let text = fs::read(log).with_context(|| format!("read {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(20)..].join("\n"))
}

/// How far the build is, by the lines that make prints against those of the last build on this machine.
struct Progress {
    bar: ProgressBar,
    memory: PathBuf,
    what: &'static str,
}

impl Progress {
    fn new(flavour: Flavour) -> Result<Self> {
        let memory = cache::folder("kernel")?.join(format!("{}.lines", flavour.name()));
        let known = fs::read_to_string(&memory).ok().and_then(|text| text.trim().parse().ok());
        let bar = ProgressBar::with_draw_target(
            Some(known.unwrap_or(flavour.expected_lines())),
            ProgressDrawTarget::stderr_with_hz(4),
        );
        let style =
            ProgressStyle::with_template("{prefix} {bar:30} {percent:>3}% {elapsed} of ~{duration} {msg}");
        bar.set_style(style.context("the progress bar's template")?);
        bar.set_prefix(format!("{} kernel", flavour.name()));
        bar.enable_steady_tick(Duration::from_millis(500));
        Ok(Self { bar, memory, what: flavour.name() })
    }

    fn say(&self, stage: &'static str) {
        self.bar.set_message(stage);
        if self.bar.is_hidden() {
            eprintln!("xtask: {} kernel: {stage}", self.what);
        }
    }

    fn step(&self) {
        self.bar.inc(1);
        // Not a terminal: a line each tenth, so that a log shows life.
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(1).max(10));
        if self.bar.is_hidden() && done.is_multiple_of(all / 10) && done <= all {
            eprintln!("xtask: {} kernel: {} %", self.what, done * 100 / all);
        }
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn finish(&self, took: Duration, size: u64) -> Result<()> {
        self.bar.finish_and_clear();
        let kib = size / 1024;
        eprintln!("xtask: {} kernel: built in {} s, bzImage {kib} KiB", self.what, took.as_secs());
        fs::write(&self.memory, self.bar.position().to_string())
            .with_context(|| format!("write {}", self.memory.display()))
    }
}
