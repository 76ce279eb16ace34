use serde_json::{Value, json};

use super::*;

fn chain(family: &str, table: &str, name: &str, policy: &str) -> Value {
    json!({"chain": {"family": family, "table": table, "name": name, "type": "filter", "hook": "forward", "prio": 0,
        "policy": policy}})
}

fn rule(family: &str, table: &str, chain: &str, expr: &Value) -> Value {
    json!({"rule": {"family": family, "table": table, "chain": chain, "handle": 4, "expr": expr}})
}

#[test]
fn a_forward_chain_that_drops_what_it_does_not_know_is_found() {
    let docker = [chain("ip", "filter", "FORWARD", "drop")];
    assert_eq!(blocks(&docker).as_deref(), Some("ip filter"));
    assert!(advice("ip filter").contains("DOCKER-USER"));
    assert_eq!(blocks(&[chain("ip", "filter", "FORWARD", "accept")]), None);
    // Ours is no other's.
    assert_eq!(blocks(&[chain("inet", "nofear", "forward", "drop")]), None);
    let input = json!({"chain": {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop"}});
    assert_eq!(blocks(&[input]), None);
}

#[test]
fn a_chain_that_ends_with_a_refusal_is_as_closed() {
    let base = chain("inet", "firewalld", "filter_FORWARD", "accept");
    let known = rule("inet", "firewalld", "filter_FORWARD", &json!([{"match": {}}, {"accept": null}]));
    let last = rule("inet", "firewalld", "filter_FORWARD", &json!([{"reject": {"type": "icmpx"}}]));
    assert_eq!(blocks(&[base.clone(), known.clone(), last.clone()]).as_deref(), Some("inet firewalld"));
    assert_eq!(blocks(&[base.clone(), last, known]), None);
    let some = rule("inet", "firewalld", "filter_FORWARD", &json!([{"match": {}}, {"drop": null}]));
    assert_eq!(blocks(&[base, some]), None);
}

#[test]
fn a_table_that_speaks_of_our_taps_lets_them_pass() {
    let expression = json!([{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "nofear*"}},
        {"accept": null}]);
    let open = rule("ip", "filter", "DOCKER-USER", &expression);
    let elsewhere = rule("ip", "other", "DOCKER-USER", &expression);
    let base = chain("ip", "filter", "FORWARD", "drop");
    assert_eq!(blocks(&[base.clone(), open]), None);
    assert_eq!(blocks(&[base, elsewhere]).as_deref(), Some("ip filter"));
}
