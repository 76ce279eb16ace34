//! What a benchmark found: figures, as a table with the peers' beside them, or as JSON.

use anyhow::{Context, Result, bail};
use serde::Serialize;

/// One figure.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    what: String,
    subject: String,
    value: f64,
    unit: String,
}

/// The figures of one run.
#[derive(Serialize)]
pub struct Report {
    bench: &'static str,
    mode: &'static str,
    rows: Vec<Row>,
}

impl Report {
    /// Reads what a script of `tests/bench` printed: a line a figure.
    pub fn new(bench: &'static str, printed: &[u8]) -> Result<Self> {
        Ok(Self { bench, mode: "icount", rows: parse(&String::from_utf8_lossy(printed))? })
    }

    /// Prints them.
    pub fn print(&self, json: bool) -> Result<()> {
        if json {
            println!("{}", serde_json::to_string_pretty(self)?);
        } else {
            print!("{}", table(&self.rows));
        }
        Ok(())
    }
}

fn parse(printed: &str) -> Result<Vec<Row>> {
    let row = |line: &str| {
        let [subject, what, value, unit] = line.split('\t').collect::<Vec<_>>()[..] else {
            bail!("not a row of the benchmark: {line:?}");
        };
        let value = value.parse().with_context(|| format!("read the value in {line:?}"))?;
        Ok(Row { what: what.into(), subject: subject.into(), value, unit: unit.into() })
    };
    printed.lines().map(row).collect()
}

/// A line a figure, with each peer's beside it and the ratio to it.
fn table(rows: &[Row]) -> String {
    let mut peers: Vec<&str> = Vec::new();
    for row in rows.iter().filter(|row| !row.subject.starts_with("nofear")) {
        if !peers.contains(&row.subject.as_str()) {
            peers.push(&row.subject);
        }
    }
    let mut text = format!("{:<56}{:>12}", "", "nofear");
    for peer in &peers {
        text.push_str(&format!("{peer:>12}{:>8}", "ratio"));
    }
    text.push('\n');
    for row in rows.iter().filter(|row| row.subject == "nofear") {
        let what = format!("{}, {}", row.what, row.unit);
        text.push_str(&format!("{what:<56}{:>12.2}", row.value));
        for peer in &peers {
            let same =
                |other: &&Row| other.subject == *peer && other.what == row.what && other.unit == row.unit;
            match rows.iter().find(same) {
                Some(other) => {
                    text.push_str(&format!("{:>12.2}{:>8.2}", other.value, row.value / other.value))
                }
                None => text.push_str(&format!("{:>12}{:>8}", "-", "-")),
            }
        }
        text.push('\n');
    }
    for row in rows.iter().filter(|row| row.subject == "nofear run") {
        let what = format!("nofear run: {}, {}", row.what, row.unit);
        text.push_str(&format!("{what:<56}{:>12.2}\n", row.value));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_set_beside_their_peers() {
        let rows = parse(
            "nofear\tto init\t30.5\tms\nqemu\tto init\t9\texits\nqemu\tto init\t122\tms\nother\tto init\t61\tms\n",
        )
        .unwrap();
        assert_eq!(rows.len(), 4);
        let table = table(&rows);
        let line = table.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(line, ["to", "init,", "ms", "30.50", "122.00", "0.25", "61.00", "0.50"], "{table}");
        assert!(parse("nofear\tto init\n").is_err());
        assert!(parse("nofear\tto init\tx\tms\n").is_err());
    }
}
