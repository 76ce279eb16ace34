//! Manual pages and completions for shells, from the definition of the command line.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use crate::exit;

/// Options of `generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The prefix: files go below its folder 'share'
    #[arg(value_name = "DIR")]
    prefix: PathBuf,
}

/// Where each shell looks, below the prefix.
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "share/bash-completion/completions/nofear"),
    (Shell::Zsh, "share/zsh/site-functions/_nofear"),
    (Shell::Fish, "share/fish/vendor_completions.d/nofear.fish"),
];

/// Writes them, and returns the exit status.
pub fn run(args: &GenerateArgs) -> u8 {
    generate(&args.prefix).map_or_else(
        |e| {
            log::error!("{e:#}");
            exit::FAILED
        },
        |()| 0,
    )
}

fn generate(prefix: &Path) -> anyhow::Result<()> {
    let mut command = Cli::command();
    for (shell, file) in SHELLS {
        let path = prefix.join(file);
        fs::create_dir_all(path.parent().unwrap_or(prefix))
            .and_then(|()| File::create(&path))
            .map(|mut file| clap_complete::generate(shell, &mut command, "nofear", &mut file))
            .with_context(|| format!("write {}", path.display()))?;
    }
    let manual = prefix.join("share/man/man1");
    fs::create_dir_all(&manual)
        .and_then(|()| clap_mangen::generate_to(command, &manual))
        .with_context(|| format!("write manual pages to {}", manual.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verb_has_a_page_and_each_shell_a_file() {
        let folder = tempfile::tempdir().unwrap();
        generate(folder.path()).unwrap();
        let page = |name: &str| fs::read_to_string(folder.path().join("share/man/man1").join(name)).unwrap();
        assert!(page("nofear.1").contains("nofear"));
        for (name, part) in [("nofear-run.1", "memory"), ("nofear-profile-export.1", "profile")] {
            assert!(page(name).contains(part), "{name}");
        }
        // What is hidden stays so.
        assert!(!page("nofear.1").contains("generate"));
        for (_, file) in SHELLS {
            let text = fs::read_to_string(folder.path().join(file)).unwrap();
            assert!(text.contains("temporary") && text.contains("balloon"), "{file}");
        }
    }
}
