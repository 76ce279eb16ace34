//! What a profile fixes of its network, as text: what `profile set` takes and `profile.toml` holds.

use std::fmt::Display;
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use vmm::net::{MAX_MTU, MIN_MTU};

use super::options::{Mode, NetworkArgs, parse_switch};

#[cfg(test)]
mod tests;

/// The keys of `profile set`.
pub const KEYS: [&str; 7] = ["net", "lan", "offline", "allow", "deny", "publish", "mtu"];

/// What a profile fixes. Options of `nofear run` go before single values, and add to lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct NetworkSettings {
    /// As `--net` takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net: Option<String>,
    /// Local networks are open, or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lan: Option<bool>,
    /// Nothing is open but what is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offline: Option<bool>,
    /// Each as `--allow` takes it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Each as `--deny` takes it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// Each as `--publish` takes it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
    /// The link's longest packet in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

impl NetworkSettings {
    /// Whether nothing is fixed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Fixes one of [`KEYS`]; an empty value takes it back, commas stand between the values of a list.
    pub fn set(&mut self, key: &str, value: &str) -> anyhow::Result<()> {
        let given = (!value.is_empty()).then_some(value);
        let switch =
            || given.map(parse_switch).transpose().map_err(|e| anyhow::anyhow!("{key}={value}: {e}"));
        let list = || value.split(',').filter(|one| !one.is_empty()).map(ToOwned::to_owned).collect();
        match key {
            "net" => self.net = given.map(ToOwned::to_owned),
            "lan" => self.lan = switch()?,
            "offline" => self.offline = switch()?,
            "allow" => self.allow = list(),
            "deny" => self.deny = list(),
            "publish" => self.publish = list(),
            "mtu" => {
                let number = given.map(|text| text.parse().with_context(|| format!("mtu={value}")));
                self.mtu = number.transpose()?;
            }
            _ => bail!("'{key}' is no setting of a network"),
        }
        self.options().map(drop)
    }

    /// Each key that is fixed with its value, as [`set`](Self::set) takes them.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let switch = |on: bool| if on { "yes" } else { "no" }.to_owned();
        let list = |list: &[String]| (!list.is_empty()).then(|| list.join(","));
        let values = [
            self.net.clone(),
            self.lan.map(switch),
            self.offline.map(switch),
            list(&self.allow),
            list(&self.deny),
            list(&self.publish),
            self.mtu.map(|mtu| mtu.to_string()),
        ];
        KEYS.into_iter().zip(values).filter_map(|(key, value)| Some((key, value?))).collect()
    }

    /// What is fixed, as options.
    ///
    /// # Errors
    ///
    /// The first value that is none.
    pub fn options(&self) -> anyhow::Result<NetworkArgs> {
        let mode = |text: &String| {
            Mode::from_str(text, false)
                .map_err(|_| anyhow::anyhow!("net: {text:?} is none of auto, tap, passt and none"))
        };
        if let Some(mtu) = self.mtu
            && !(MIN_MTU..=MAX_MTU).contains(&mtu)
        {
            bail!("mtu: {mtu} is not between {MIN_MTU} and {MAX_MTU}");
        }
        Ok(NetworkArgs {
            net: self.net.as_ref().map(mode).transpose()?,
            lan: self.lan,
            offline: self.offline,
            allow: parsed("allow", &self.allow)?,
            deny: parsed("deny", &self.deny)?,
            publish: parsed("publish", &self.publish)?,
            mtu: self.mtu,
        })
    }

    /// Takes back what opens anything; returns the keys. Whoever wrote a profile that comes from elsewhere is not to
    /// say what it may reach here.
    pub fn close(&mut self) -> Vec<&'static str> {
        let mut closed = Vec::new();
        let mut take = |key, is: bool| closed.extend(is.then_some(key));
        take("lan", std::mem::take(&mut self.lan) == Some(true));
        take("allow", !std::mem::take(&mut self.allow).is_empty());
        take("publish", !std::mem::take(&mut self.publish).is_empty());
        closed
    }
}

fn parsed<T: FromStr<Err: Display>>(key: &str, list: &[String]) -> anyhow::Result<Vec<T>> {
    list.iter().map(|one| one.parse().map_err(|e| anyhow::anyhow!("{key}: {e}"))).collect()
}
