//! Other firewalls of this machine. A packet that one table accepts is still dropped by another, and theirs are not
//! for us to change; what they would drop is found out before a VM has a network that leads nowhere.

use serde_json::Value;

use super::ruleset::{PREFIX, TABLE};

#[cfg(test)]
mod tests;

/// The table of another that drops what is forwarded unless it knows it, and does not know our taps: its name.
pub fn blocks(ruleset: &[Value]) -> Option<String> {
    let chains = ruleset.iter().map(|entry| &entry["chain"]).filter(|chain| chain["hook"] == "forward");
    let others = chains.filter(|chain| chain["table"] != TABLE);
    let closed = others.filter(|chain| chain["policy"] == "drop" || ends_closed(ruleset, chain));
    let unknown = closed.filter(|chain| !knows_us(ruleset, chain));
    unknown.map(|chain| format!("{} {}", text(&chain["family"]), text(&chain["table"]))).next()
}

/// Its last rule refuses whatever comes to it, as firewalld's does.
fn ends_closed(ruleset: &[Value], chain: &Value) -> bool {
    let last = ruleset.iter().map(|entry| &entry["rule"]).rfind(|rule| {
        ["family", "table"].iter().all(|key| rule[key] == chain[key]) && rule["chain"] == chain["name"]
    });
    let expressions = last.and_then(|rule| rule["expr"].as_array());
    expressions.is_some_and(|expressions| {
        expressions.iter().all(|one| ["drop", "reject", "counter"].iter().any(|key| one.get(key).is_some()))
            && expressions.iter().any(|one| one.get("drop").is_some() || one.get("reject").is_some())
    })
}

/// The table speaks of our taps: whoever wrote that wants them.
fn knows_us(ruleset: &[Value], chain: &Value) -> bool {
    let rules = ruleset.iter().flat_map(|entry| [&entry["rule"], &entry["set"], &entry["map"]]);
    let table = rules.filter(|one| ["family", "table"].iter().all(|key| one[key] == chain[key]));
    table.into_iter().any(|one| one.to_string().contains(&format!("\"{PREFIX}")))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

/// What to do about it.
pub fn advice(table: &str) -> String {
    let how = match table {
        "inet firewalld" => format!(
            "'firewall-cmd --permanent --zone=trusted --add-interface={PREFIX}+' and 'firewall-cmd --reload' let it \
             pass"
        ),
        _ => format!(
            "'iptables -I FORWARD -i {PREFIX}+ -j ACCEPT' and 'iptables -I FORWARD -o {PREFIX}+ -j ACCEPT' (with \
             Docker in the chain DOCKER-USER, with ufw 'ufw route allow in on {PREFIX}+') let it pass"
        ),
    };
    format!(
        "the firewall of this machine (nftables table {table}) drops what a tap sends: {how}; or use --net passt"
    )
}
