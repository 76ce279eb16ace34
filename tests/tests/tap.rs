//! `--net tap`: what it reaches, and what not.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use nofear_tests::{World, reached};

/// What every test begins with.
const SET_UP: &str = "$NOFEAR setup --user 1000 --yes >/dev/null\n";

#[test]
fn tap_reaches_the_internet_by_name_and_refuses_the_rest_at_once() {
    let Some((world, ran)) = World::with_taps(&format!(
        r#"{SET_UP} as_user $NOFEAR run -t -v -c 2 --net tap --share "$SCRIPTS":/s -- bash /s/reach.sh $TRANSFER
        all_gone"#
    )) else {
        return;
    };
    reached(&world, &ran, &ran.text());
}

#[test]
fn tap_reaches_it_with_long_packets() {
    let Some((world, ran)) = World::with_taps(&format!(
        r#"{SET_UP} long
        as_user $NOFEAR run -t -v --net tap --mtu 9000 --share "$SCRIPTS":/s -- bash -c \
            'bash /s/reach.sh $0 && ping -c 1 -M do -s 8900 -W 30 203.0.113.5 | grep "1 received" >&2' $TRANSFER
        all_gone"#
    )) else {
        return;
    };
    reached(&world, &ran, &ran.text());
    assert!(ran.stderr.contains("1 received"), "{}", ran.stderr);
}

#[test]
fn tap_frames_of_a_hostile_guest_arrive_nowhere() {
    let Some((world, ran)) = World::with_taps(&format!(
        r#"{SET_UP} as_user $NOFEAR run -t -v --net tap --root --share "$SCRIPTS":/s -- python3 /s/hostile.py"#
    )) else {
        return;
    };
    assert_eq!((ran.status, ran.text().as_str()), (Some(0), "sent\n"), "{}", ran.stderr);
    let got = world.asked("internet");
    let marks: Vec<&str> = got.lines().filter_map(|line| line.splitn(3, ' ').nth(2)).collect();
    assert_eq!(marks, ["fine"], "{}", ran.stderr);
    assert_eq!((world.asked("host"), world.asked("lan")), (String::new(), String::new()));
}

#[test]
fn tap_rules_open_and_close_in_both_lines_of_defence() {
    let Some((world, ran)) = World::with_taps(&format!(
        r#"{SET_UP} try='for to in server.test 203.0.113.5 192.168.77.1 192.168.77.2 lan.test; do
            curl -gs -m 60 -o /dev/null http://$to/ && echo "$to"; done; exit 0'
        tap() {{ as_user $NOFEAR run -t -v --net tap "$@" -- bash -c "$try"; echo --; }}
        tap --offline --allow server.test:80
        tap --lan --deny 203.0.113.0/24
        tap --allow 192.168.77.0/24 --deny server.test"#
    )) else {
        return;
    };
    assert_eq!(
        ran.text(),
        "server.test\n203.0.113.5\n--\n192.168.77.1\nlan.test\n--\n203.0.113.5\n192.168.77.1\n192.168.77.2\nlan.test\n--\n",
        "{}",
        ran.stderr
    );
    assert_eq!(world.asked("host").lines().filter(|line| line.contains("GET")).count(), 1);
}
