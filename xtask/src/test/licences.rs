//! Every dependency is under a licence of `deny.toml`'s list.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Selection, Tally};
use crate::packages;
use crate::workspace::{cargo, output, root, succeed};

/// The suite: `cargo deny` where it is installed; otherwise the same question, asked by us.
pub fn check(_: &Selection) -> Result<Tally> {
    if packages::is_there("cargo-deny") {
        succeed(cargo().args(["deny", "check", "licenses", "bans", "sources"]), "check the licences")?;
        return Ok(Tally::ONE);
    }
    let path = root().join("deny.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let allowed = allowed(&text);
    if allowed.is_empty() {
        bail!("{}: no list of allowed licences", path.display());
    }
    let metadata = output(cargo().args(["metadata", "--format-version=1", "--locked"]), "list the packages")?;
    let metadata: Metadata = serde_json::from_slice(&metadata).context("read cargo's list of packages")?;
    let mut bad = Vec::new();
    for package in &metadata.packages {
        let licence = package.license.as_deref().unwrap_or_default();
        if !satisfied(licence, &allowed) {
            bad.push(format!("{} {}: {licence:?}", package.name, package.version));
        }
    }
    if !bad.is_empty() {
        bail!("licences that deny.toml does not allow:\n{}", bad.join("\n"));
    }
    Ok(Tally::ONE)
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
}

/// The strings of the list `allow = [...]`.
fn allowed(deny: &str) -> BTreeSet<&str> {
    let list = deny.split_once("\nallow = [").and_then(|(_, rest)| rest.split_once(']'));
    list.map(|(list, _)| list.split('"').skip(1).step_by(2).collect()).unwrap_or_default()
}

/// Whether an SPDX expression can be met with allowed licences: one side of each OR, both of each AND. AND
/// binds tighter (SPDX 2.3, annex D.4); a slash is an old OR.
fn satisfied(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any(&words, &mut at, allowed);
    met && at == words.len()
}

fn any(words: &[&str], at: &mut usize, allowed: &BTreeSet<&str>) -> bool {
    let mut met = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all(words, at, allowed);
    }
    met
}

fn all(words: &[&str], at: &mut usize, allowed: &BTreeSet<&str>) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<&str>) -> bool {
    let Some(&word) = words.get(*at) else { return false };
    *at += 1;
    if word == "(" {
        let met = any(words, at, allowed);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return met && closed;
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1).copied().unwrap_or_default();
        *at += 2;
        return allowed.contains(format!("{word} WITH {exception}").as_str());
    }
    allowed.contains(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_met_or_not() {
        let list = allowed("[licenses]\nallow = [\n \"MIT\", # why\n \"BSD-3-Clause\",\n]\n");
        assert_eq!(list.len(), 2);
        for good in ["MIT", "MIT OR GPL-3.0", "GPL-2.0/MIT", "MIT AND (GPL-2.0 OR BSD-3-Clause)"] {
            assert!(satisfied(good, &list), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-2.0", "MIT WITH X", "(MIT", "MIT MIT", "GPL OR", "MIT )"] {
            assert!(!satisfied(bad, &list), "{bad}");
        }
    }
}
