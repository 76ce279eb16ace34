//! Configuration fragments: what is asked, and whether the kernel's own rules let it through.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The options of all fragments, each asked once.
#[derive(Debug, Default)]
pub struct Fragments {
    /// Option, to what it is set to (`n` for "is not set") and where.
    options: BTreeMap<String, (String, String)>,
}

impl Fragments {
    /// Reads `files`; an option that two of them set is an error.
    pub fn read(files: &[PathBuf]) -> Result<Self> {
        let mut all = Self::default();
        for file in files {
            let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            all.add(&text, file)?;
        }
        Ok(all)
    }

    fn add(&mut self, text: &str, file: &Path) -> Result<()> {
        for (number, line) in text.lines().enumerate() {
            let Some((option, value)) = parse(line) else {
                if line.trim().is_empty() || line.starts_with('#') {
                    continue;
                }
                bail!("{}:{}: not an option: {line}", file.display(), number + 1);
            };
            let place = format!("{}:{}", file.display(), number + 1);
            if let Some((_, first)) =
                self.options.insert(option.to_owned(), (value.to_owned(), place.clone()))
            {
                bail!("{place}: {option} was set in {first}");
            }
        }
        Ok(())
    }

    /// One fragment of all, for `make KCONFIG_ALLCONFIG=`.
    pub fn merged(&self) -> String {
        let line = |(option, (value, _)): (&String, &(String, String))| match value.as_str() {
            "n" => format!("# {option} is not set\n"),
            value => format!("{option}={value}\n"),
        };
        self.options.iter().map(line).collect()
    }

    /// Compares with the `.config` that came out: an option that vanished is an error that names it, since a
    /// dependency of it is missing or it has another name in this source.
    pub fn check(&self, result: &str) -> Result<()> {
        let got: BTreeMap<&str, &str> = result.lines().filter_map(parse).collect();
        let mut lost = Vec::new();
        for (option, (asked, place)) in &self.options {
            let is = got.get(option.as_str()).copied().unwrap_or("n");
            if is != asked {
                lost.push(format!("{place}: {option}={asked} became {is}"));
            }
        }
        if !lost.is_empty() {
            bail!("options did not take effect (a dependency is missing?):\n{}", lost.join("\n"));
        }
        Ok(())
    }
}

/// An option and its value, if the line sets one.
fn parse(line: &str) -> Option<(&str, &str)> {
    if let Some(option) = line.strip_prefix("# ").and_then(|rest| rest.strip_suffix(" is not set")) {
        return option.starts_with("CONFIG_").then_some((option, "n"));
    }
    let (option, value) = line.split_once('=')?;
    option.starts_with("CONFIG_").then_some((option, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragments(text: &str) -> Result<Fragments> {
        let mut all = Fragments::default();
        all.add(text, Path::new("a.config"))?;
        Ok(all)
    }

    #[test]
    fn an_option_that_vanished_is_named_with_its_place() {
        let asked = fragments("# why\nCONFIG_A=y\nCONFIG_B=32\n# CONFIG_C is not set\n").unwrap();
        asked.check("CONFIG_A=y\nCONFIG_B=32\n").unwrap();
        let error = asked.check("CONFIG_B=31\nCONFIG_C=y\n").unwrap_err().to_string();
        assert!(error.contains("a.config:2: CONFIG_A=y became n"), "{error}");
        assert!(error.contains("a.config:3: CONFIG_B=32 became 31"), "{error}");
        assert!(error.contains("a.config:4: CONFIG_C=n became y"), "{error}");
    }

    #[test]
    fn an_option_set_twice_is_refused() {
        let error = fragments("CONFIG_A=y\n# CONFIG_A is not set\n").unwrap_err().to_string();
        assert!(error.contains("a.config:2: CONFIG_A was set in a.config:1"), "{error}");
    }

    #[test]
    fn a_line_that_sets_nothing_is_refused() {
        assert!(fragments("CONFIG_A\n").is_err());
        assert!(fragments("MENU=y\n").is_err());
    }

    #[test]
    fn the_fragments_of_both_kernels_are_well_formed() {
        for flavour in [super::super::Flavour::Guest, super::super::Flavour::Host] {
            let (files, _) = flavour.files().unwrap();
            assert!(!files.is_empty());
            let all = Fragments::read(&files).unwrap();
            all.check(&all.merged()).unwrap();
        }
    }
}
