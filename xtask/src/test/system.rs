//! The system tests: built here, run where `nofear` runs.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Selection, Tally, libtest_counts};
use crate::host::{self, Job, Machine};
use crate::run::{self, Product};
use crate::workspace::{self, cargo, output, root, step, target};
use crate::{dist, distributions, packages, stock};

/// Nothing may hang a build machine for ever: seconds for a test program.
const LIMIT_SECONDS: u64 = 900;

/// And for the emulated host around it.
const MORE_SECONDS: u64 = 100;

/// How many bytes the tests of transfers send each way, when not the few that they do by default.
const TRANSFER: &str = "NOFEAR_TRANSFER";

/// What an emulated machine is sure to transfer in a second, each way, by IPv4 and by IPv6 together.
const BYTES_A_SECOND: u64 = 100_000;

/// The limit of a program: it grows with what is to be transferred.
fn limit() -> Result<u64> {
    let Some(text) = std::env::var_os(TRANSFER) else { return Ok(LIMIT_SECONDS) };
    let bytes: Option<u64> = text.to_str().and_then(|text| text.parse().ok());
    let bytes = bytes.with_context(|| format!("{TRANSFER}={}: no number of bytes", text.display()))?;
    Ok(LIMIT_SECONDS + bytes / BYTES_A_SECOND)
}

/// Runs each test program in turn, a line of words each, and goes on after a failure; `libtest` says the counts.
const SCRIPT: &str = "failed=0; threads=$1; limit=$2; shift 2; \
    for line in \"$@\"; do \
        IFS=$'\\t' read -r -a words <<<\"$line\"; \
        if [ -n \"${folder-}\" ]; then own \"${words[0]}\"; fi; \
        timeout --kill-after=10 \"$limit\" \"${words[@]}\" --test-threads=\"$threads\"; code=$?; \
        if [ $code = 124 ]; then echo \"${words[0]}: ended after $limit s\" >&2; fi; \
        if [ $code != 0 ]; then failed=1; fi; \
        if [ -n \"${folder-}\" ]; then rm \"${words[0]}\"; fi; \
    done; exit $failed";

/// Before that, in the emulated host: the product and the tests lie in its memory. Tests whose
/// programs were paged in from outside, while VMs ran, came to hang there.
const COPY: &str = "folder=$(mktemp -d -p /dev/shm); \
    for name in NOFEAR NOFEAR_KERNEL NOFEAR_INITRAMFS NOFEAR_ARCHIVE NOFEAR_EXAMPLE_BOOT NOFEAR_EXAMPLE_DEVICE NOFEAR_EXAMPLE_FILES; do \
        if [ -n \"${!name-}\" ]; then \
            mkdir \"$folder/$name\"; cp \"${!name}\" \"$folder/$name/\"; \
            export $name=\"$folder/$name/${!name##*/}\"; \
        fi; \
    done; \
    own() { cp \"$1\" \"$folder/\"; words[0]=$folder/${1##*/}; }; ";

/// A test program, and which of its tests are wanted: all, or those whose names contain one of these.
struct Program {
    path: PathBuf,
    filters: Vec<String>,
}

impl Program {
    /// As cargo calls it: the source's name, and a hash.
    fn name(&self) -> Cow<'_, str> {
        self.path.file_name().unwrap_or_default().to_string_lossy()
    }

    fn is(&self, name: &str) -> bool {
        self.name().rsplit_once('-').is_some_and(|(start, _)| start == name)
    }
}

/// Programs that take minutes, the longest first, so that none is begun when all the others have ended.
const LONG: &[&str] = &[
    "network",
    "gui_beside",
    "setup",
    "gui_ends",
    "firewalls",
    "tap",
    "gui",
    "detached",
    "publish",
    "hostile",
    "ordinary",
    "control",
];

/// Each takes 4 GiB of memory.
const MOST_HOSTS: usize = 2;

/// The program whose tests need kernels of the distribution.
const STOCK: &str = "stock";

/// The program whose tests install the archive.
const ORDINARY: &str = "ordinary";

/// The program whose tests need trees of other distributions.
const DISTRIBUTIONS: &str = "distributions";

/// The suite `system`: all that needs nothing of others.
pub fn system(selection: &Selection) -> Result<Tally> {
    let programs = programs(&selection.filters, |name| ![STOCK, DISTRIBUTIONS].contains(&name))?;
    if programs.is_empty() {
        return Ok(Tally::default());
    }
    packages::ensure("run the system tests", packages::SYSTEM_TESTS)?;
    // Where services are started when they are installed, a firewall would be this machine's from then on.
    let starts_services = Path::new("/run/systemd/system").exists();
    if programs.iter().any(|program| program.is("firewalls")) && packages::can_install() && !starts_services {
        packages::ensure("run the tests beside other firewalls", packages::FIREWALLS)?;
    }
    if programs.iter().any(|program| program.is(ORDINARY) || program.name().starts_with("gui")) {
        packages::windows("run the tests of windows")?;
        packages::ensure("run the tests of sound", packages::SOUND)?;
        if packages::is_there("apt-get") {
            packages::ensure("run the tests of sound", packages::SOUND_ON_DEBIAN)?;
        }
    }
    let arguments = ["--package", "nofear-vmm", "--examples"];
    workspace::build("build", |cargo| _ = cargo.args(arguments), "build the examples of the VMM")?;
    let folder = target().join("debug/examples");
    let example = |variable: &str, name| (OsString::from(variable), folder.join(name).into());
    let examples = vec![
        example("NOFEAR_EXAMPLE_BOOT", "boot"),
        example("NOFEAR_EXAMPLE_DEVICE", "device"),
        example("NOFEAR_EXAMPLE_FILES", "files"),
    ];
    run(&programs, examples, vec![folder.clone()])
}

/// The suite `stock`: the distribution's own kernels.
pub fn stock(selection: &Selection) -> Result<Tally> {
    if !packages::is_there("apt-get") {
        println!("SKIPPED: the kernels that are tested are Debian's, and this machine has no apt-get");
        return Ok(Tally::default());
    }
    let programs = programs(&selection.filters, |name| name == STOCK)?;
    if programs.is_empty() {
        return Ok(Tally::default());
    }
    let kernels = stock::fetch()?;
    let lines = kernels.iter().map(|kernel| {
        format!("{}\t{}\t{}\n", kernel.release, kernel.image.display(), kernel.modules.display())
    });
    let visible = kernels.iter().flat_map(|kernel| [kernel.image.parent(), Some(&kernel.modules)]);
    let visible = visible.flatten().map(Path::to_path_buf).collect();
    run(&programs, vec![("NOFEAR_STOCK".into(), lines.collect::<String>().into())], visible)
}

/// The suite `distributions`: programs of other distributions.
pub fn distributions(selection: &Selection) -> Result<Tally> {
    if !(packages::is_there("apt-get") && packages::is_root()) {
        println!("SKIPPED: trees of other distributions are made by root of a Debian machine");
        return Ok(Tally::default());
    }
    let programs = programs(&selection.filters, |name| name == DISTRIBUTIONS)?;
    if programs.is_empty() {
        return Ok(Tally::default());
    }
    let trees = distributions::fetch()?;
    if trees.is_empty() {
        return Ok(Tally::default());
    }
    let lines = trees.iter().map(|tree| format!("{}\t{}\n", tree.id, tree.path.display()));
    let environment = vec![("NOFEAR_DISTRIBUTIONS".into(), lines.collect::<String>().into())];
    run(&programs, environment, trees.iter().map(|tree| tree.path.clone()).collect())
}

/// Runs test programs with `environment` and the product's, where `visible` and the product can be seen.
fn run(
    programs: &[Program],
    mut environment: Vec<(OsString, OsString)>,
    mut visible: Vec<PathBuf>,
) -> Result<Tally> {
    let product = Product::build(None)?;
    environment.extend(product.environment());
    if programs.iter().any(|program| program.is(ORDINARY)) {
        let archive = dist::pack(&product)?;
        visible.extend(archive.parent().map(Path::to_path_buf));
        environment.push(("NOFEAR_ARCHIVE".into(), archive.into()));
    }
    let _step = step("run the system tests");
    let (ok, printed) = match run::kvm_starts_linux() {
        true => here(programs, environment)?,
        false => {
            visible.extend(product.folders());
            visible.extend(programs.iter().filter_map(|program| program.path.parent()).map(PathBuf::from));
            emulated(programs, environment, visible)?
        }
    };
    let mut tally = libtest_counts(&printed);
    if !ok && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

/// The script with its arguments: how many tests run at a time, seconds for each program, and programs.
fn command<'a>(
    script: &str,
    threads: usize,
    limit: u64,
    programs: impl IntoIterator<Item = &'a Program>,
) -> Vec<OsString> {
    let mut command: Vec<OsString> = ["bash", "-c", script, "system"].map(Into::into).into();
    command.extend([threads.to_string().into(), limit.to_string().into()]);
    for Program { path, filters } in programs {
        let mut words = path.clone().into_os_string();
        for filter in filters {
            words.push("\t");
            words.push(filter);
        }
        command.push(words);
    }
    command
}

/// On this machine's KVM, whose CPUs the tests share. Whether all was well, and what was printed.
fn here(programs: &[Program], environment: Vec<(OsString, OsString)>) -> Result<(bool, String)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let command = command(SCRIPT, threads, limit()?, programs);
    let mut here = Command::new(&command[0]);
    here.args(&command[1..]).envs(environment).current_dir(root()).stdin(Stdio::null());
    let mut child = here.stdout(Stdio::piped()).spawn().context("start the system tests")?;
    let printed =
        child.stdout.take().map(|from| super::show(from, &mut std::io::stdout())).unwrap_or_default();
    Ok((child.wait().context("wait for the system tests")?.success(), printed))
}

/// In emulated hosts: one test at a time there, since a VM is slow to emulate, and as many hosts at a time as this
/// machine has CPUs for. Programs that take minutes have a host each; the others share some, as a boot takes as long as
/// they do. What is printed in a host is shown when it has ended.
fn emulated(
    programs: &[Program],
    environment: Vec<(OsString, OsString)>,
    visible: Vec<PathBuf>,
) -> Result<(bool, String)> {
    let limit = limit()?;
    let machine = Machine { visible, timeout: Some(limit + MORE_SECONDS), ..Machine::default() };
    // What a host needs is there before several ask for it.
    host::prepare()?;
    let script = format!("{COPY}{SCRIPT}");
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let hosts = cpus.min(MOST_HOSTS);
    let queue = Mutex::new(loads(programs, hosts).into_iter());
    let all = Mutex::new((true, String::new()));
    std::thread::scope(|scope| {
        for _ in 0..hosts {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(load) = next else { return };
                    let names = load.iter().map(|program| program.name()).collect::<Vec<_>>().join(", ");
                    eprintln!("xtask: {names} runs");
                    let command = command(&script, 1, limit, load);
                    let mut printed = Vec::new();
                    let job = Job { command, environment: environment.clone() };
                    // What had been printed by the end of a machine that died still counts.
                    let code = host::collect(&machine, job, &mut printed).unwrap_or_else(|error| {
                        eprintln!("xtask: {names}: {error:#}");
                        125
                    });
                    let text = String::from_utf8_lossy(&printed);
                    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                    println!("{names}: {}", text.trim_end());
                    all.0 &= code == 0;
                    all.1.push_str(&text);
                    all.1.push('\n');
                }
            });
        }
    });
    Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What each host gets to do, in the order in which they are begun; `hosts` work at the same time.
fn loads(programs: &[Program], hosts: usize) -> Vec<Vec<&Program>> {
    let place = |program: &Program| LONG.iter().position(|name| program.is(name));
    let (mut long, short): (Vec<_>, Vec<_>) = programs.iter().partition(|program| place(program).is_some());
    long.sort_by_key(|program| place(program));
    let each = short.len().div_ceil(hosts).max(1);
    long.into_iter().map(|program| vec![program]).chain(short.chunks(each).map(<[_]>::to_vec)).collect()
}

/// Builds the test programs of the package `nofear-tests`; returns those that are `wanted`. `filters` select a
/// program as a whole, by its name, or those of its tests whose names contain one of them.
fn programs(filters: &[String], wanted: impl Fn(&str) -> bool) -> Result<Vec<Program>> {
    let _step = step("build the system tests");
    let messages = output(
        cargo()
            .args(["test", "--quiet", "--no-run", "--package", "nofear-tests", "--tests"])
            .args(["--message-format=json"]),
        "build the system tests",
    )?;
    let mut programs = Vec::new();
    for line in messages.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"{")) {
        let message: Message = serde_json::from_slice(line).context("read what cargo built")?;
        if let (Some(path), Some(target)) = (message.executable, message.target)
            && target.kind.iter().any(|kind| kind == "test")
            && wanted(&target.name)
        {
            let whole = filters.iter().any(|filter| target.name.contains(filter.as_str()));
            let filters = if whole { Vec::new() } else { filters.to_vec() };
            if has_tests(&path, &filters)? {
                programs.push(Program { path, filters });
            }
        }
    }
    programs.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(programs)
}

/// Whether any test of a program is selected; without one there is no machine to start.
fn has_tests(program: &Path, filters: &[String]) -> Result<bool> {
    let listed = output(Command::new(program).arg("--list").args(filters), "list the system tests")?;
    Ok(String::from_utf8_lossy(&listed).lines().any(|line| line.ends_with(": test")))
}

#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}
