//! `profile.toml`: what a profile is, and what its user fixed.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::gui::look;
use crate::memory;
use crate::network::options::NetworkArgs;
use crate::network::settings::NetworkSettings;

/// The file's name in a profile's folder.
pub const FILE: &str = "profile.toml";

/// The version of profiles that this program makes and understands.
const VERSION: i64 = 1;

/// The most bytes of a file that is one.
const MAX_BYTES: u64 = 64 << 10;

/// What a profile is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Description {
    version: i64,
    /// Random, and no other profile's.
    pub id: String,
    /// What `/etc/machine-id` holds in its VM.
    pub machine_id: String,
    /// When it was made.
    pub created: Timestamp,
    /// What its user fixed. Always there: without it the file was cut short.
    pub settings: Settings,
}

/// What the user of a profile fixed; an option of `nofear run` goes before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// Guest memory, as `--mem` takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Number of CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u8>,
    /// The colour of its windows' borders, as `#rrggbb`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub border: Option<String>,
    /// Its network.
    #[serde(skip_serializing_if = "NetworkSettings::is_empty", default)]
    pub network: NetworkSettings,
}

impl Settings {
    /// Guest memory in bytes.
    pub fn memory(&self) -> anyhow::Result<Option<u64>> {
        let parsed = self.memory.as_deref().map(memory::parse).transpose();
        parsed.map_err(|e| anyhow::anyhow!("the profile's memory: {e}"))
    }

    /// Number of CPUs.
    pub fn cpus(&self) -> anyhow::Result<Option<u8>> {
        if let Some(cpus) = self.cpus {
            ensure!(
                (1..=vmm::MAX_VCPUS).contains(&cpus),
                "the profile's cpus: {cpus} is not between 1 and {}",
                vmm::MAX_VCPUS
            );
        }
        Ok(self.cpus)
    }

    /// Options of its network.
    pub fn network(&self) -> anyhow::Result<NetworkArgs> {
        self.network.options().context("the profile's network")
    }

    /// The colour of its windows' borders.
    pub fn border(&self) -> anyhow::Result<Option<String>> {
        let parsed = self.border.as_deref().map(look::parse_colour).transpose();
        parsed.map_err(|e| anyhow::anyhow!("the profile's border: {e}"))
    }
}

impl Description {
    /// A new profile's.
    pub fn new() -> anyhow::Result<Self> {
        let [id, machine_id] = [crate::vm::random_id()?, crate::vm::random_id()?].map(hexadecimal);
        // Fractions of a second say nothing to people.
        let now = Timestamp::now();
        let now = now - SignedDuration::from_nanos(i64::from(now.subsec_nanosecond()));
        Ok(Self { version: VERSION, id, machine_id, created: now, settings: Settings::default() })
    }

    /// The machine's id as bytes.
    pub fn machine_id_bytes(&self) -> anyhow::Result<[u8; 16]> {
        let digits = (self.machine_id.len() == 32).then(|| u128::from_str_radix(&self.machine_id, 16).ok());
        let number = digits.flatten().context("the profile's machine-id is not 32 hexadecimal digits")?;
        Ok(number.to_be_bytes())
    }

    /// Reads a profile's.
    ///
    /// # Errors
    ///
    /// One line that names the file, for one that is missing, damaged, or of a newer version.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let shown = path.display();
        let length = path.metadata().with_context(|| format!("read {shown}"))?.len();
        ensure!(length <= MAX_BYTES, "{shown} is no description of a profile: it has {length} bytes");
        let text = fs::read_to_string(&path).with_context(|| format!("read {shown}"))?;
        Self::parse(&text).with_context(|| format!("{shown} is damaged, or was changed by hand"))
    }

    /// Reads the text of a description.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let line = |e: toml::de::Error| {
            let line = e.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            let message = e.message().replace('\n', " ");
            anyhow::anyhow!("line {}: {message}", line.unwrap_or(1))
        };
        let table: toml::Table = text.parse().map_err(line)?;
        match table.get("version").and_then(toml::Value::as_integer) {
            Some(VERSION) => {}
            Some(newer) if newer > VERSION => bail!(
                "the profile was made by a newer nofear (version {newer} of profiles, and this one knows {VERSION})"
            ),
            _ => bail!("it has no version"),
        }
        let description: Self = toml::from_str(text).map_err(line)?;
        description.machine_id_bytes()?;
        description.settings.memory()?;
        description.settings.cpus()?;
        description.settings.border()?;
        description.settings.network()?;
        Ok(description)
    }

    /// The text of the description.
    pub fn text(&self) -> anyhow::Result<String> {
        toml::to_string(self).context("write the description of a profile")
    }

    /// Writes the description, whole or not at all.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(FILE);
        let unfinished = folder.join("profile.toml.unfinished");
        let text = self.text()?;
        let written = || -> std::io::Result<()> {
            let mut file = File::create(&unfinished)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            File::open(folder)?.sync_all()
        };
        written().with_context(|| format!("write {}", path.display()))
    }
}

fn hexadecimal(bytes: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests;
