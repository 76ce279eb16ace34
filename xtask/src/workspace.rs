//! Where the workspace is, and how its packages are built.

use std::env;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The root of the workspace.
pub fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The cargo that runs us, in the root of the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // Cargo describes *this* package to us in these; a build script must not take them for its own.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name.as_ref());
        }
    }
    command
}

/// Says what is being done and, when dropped, how long it took: for logs, in which nothing moves. A person at
/// a terminal sees the tools' own progress; and a script that reads our stderr wants the command's only.
pub fn step(what: &str) -> impl Drop {
    struct Step(Option<(String, Instant)>);
    impl Drop for Step {
        fn drop(&mut self) {
            if let Some((what, start)) = &self.0 {
                eprintln!("xtask: {what}: {:.1} s", start.elapsed().as_secs_f64());
            }
        }
    }
    let shown = env::var_os("CI").is_some() && !io::stderr().is_terminal();
    if shown {
        eprintln!("xtask: {what} ...");
    }
    Step(shown.then(|| (what.to_owned(), Instant::now())))
}

/// Runs cargo's `verb` with cargo's progress at a terminal, and with a line of ours in a log.
pub fn build(verb: &str, configure: impl FnOnce(&mut Command), purpose: &str) -> Result<()> {
    let _step = step(purpose);
    let mut command = cargo();
    command.arg(verb);
    if !io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    configure(&mut command);
    succeed(&mut command, purpose)
}

/// Runs `command` to its end; its failure is an error that says what it was for.
pub fn succeed(command: &mut Command, purpose: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("{purpose}: start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{purpose}: {:?} ended with {status}", command.get_program());
    }
    Ok(())
}

/// Runs `command` and returns what it printed.
pub fn output(command: &mut Command, purpose: &str) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{purpose}: start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{purpose}: {:?} ended with {}", command.get_program(), output.status);
    }
    Ok(output.stdout)
}

/// Builds the `nofear` command for use and returns its path.
pub fn build_command() -> Result<PathBuf> {
    let arguments = ["--release", "--package", "nofear", "--bin", "nofear"];
    build("build", |cargo| _ = cargo.args(arguments), "build nofear")?;
    Ok(target().join("release/nofear"))
}
