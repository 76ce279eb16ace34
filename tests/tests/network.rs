//! A program reaches the Internet, by name, and nothing that it should not: tests/network has the world around it.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use nofear_tests::{World, reached};

/// Reaches what may be reached, with these options of `run`.
fn reaches(options: &str) {
    let script = format!(
        r#"$NOFEAR run -t -v --net passt {options} --share "$SCRIPTS":/s -- bash /s/reach.sh $TRANSFER"#
    );
    if let Some((world, ran)) = World::run(&script) {
        reached(&world, &ran, &ran.text());
    }
}

#[test]
fn network_by_passt_reaches_the_internet_by_name_and_refuses_the_rest_at_once() {
    reaches("");
}

#[test]
fn network_by_passt_reaches_it_with_packets_of_an_ethernet() {
    reaches("--mtu 1500");
}

#[test]
fn network_by_passt_reaches_it_with_long_packets() {
    reaches("--mtu 9000");
}

#[test]
fn network_frames_of_a_hostile_guest_arrive_nowhere() {
    let Some((world, ran)) =
        World::run(r#"$NOFEAR run -t -v --net passt --root --share "$SCRIPTS":/s -- python3 /s/hostile.py"#)
    else {
        return;
    };
    assert_eq!((ran.status, ran.text().as_str()), (Some(0), "sent\n"), "{}", ran.stderr);
    let got = world.asked("internet");
    let marks: Vec<&str> = got.lines().filter_map(|line| line.splitn(3, ' ').nth(2)).collect();
    assert_eq!(marks, ["fine"], "{}", ran.stderr);
    assert_eq!((world.asked("host"), world.asked("lan")), (String::new(), String::new()));
    // Every reason was needed.
    let summary = ran.stderr.lines().find(|line| line.contains("frames refused")).unwrap();
    for reason in [
        "malformed",
        "Ethernet address",
        "neither IP nor ARP",
        "speaks for another",
        "not from the guest's address",
        "IPv4 options",
        "a fragment",
        "another protocol",
        "the host's loopback",
        "the host itself",
        "a local network",
        "a link-local address",
        "a carrier's range",
        "a multicast group",
        "in disguise",
        "a reserved range",
        "the gateway",
    ] {
        assert!(summary.contains(reason), "{reason}: {summary}");
    }
}

#[test]
fn network_rules_open_and_close() {
    let Some((world, ran)) = World::run(
        r#"try='for to in server.test 203.0.113.5 192.168.77.1 lan.test; do
            curl -gs -m 60 -o /dev/null http://$to/ && echo "$to"; done; exit 0'
        export XDG_DATA_HOME=$(mktemp -d); $NOFEAR profile new fixed --disk-size 64M
        $NOFEAR profile set fixed net=passt offline=yes allow=server.test:80
        $NOFEAR run -p fixed -v -- bash -c "$try"; echo --
        $NOFEAR run -t -v --net passt --lan --deny 203.0.113.0/24 -- bash -c "$try"; echo --
        $NOFEAR run -t -v --net passt --allow 192.168.77.1:80 --deny server.test -- bash -c "$try"; echo --
        $NOFEAR run -t -v --net none -- bash -c "ls /sys/class/net; $try""#,
    ) else {
        return;
    };
    // The address is open from the look-up on, for as long as its server said; the second try comes within.
    assert_eq!(
        ran.text(),
        "server.test\n203.0.113.5\n--\n192.168.77.1\nlan.test\n--\n203.0.113.5\n192.168.77.1\nlan.test\n--\nlo\n",
        "{}",
        ran.stderr
    );
    assert!(!world.asked("host").contains("GET"));
}

#[test]
fn network_publishes_a_port_on_loopback_and_four_machines_at_once_do_not_meet() {
    let Some((_, ran)) = World::run(
        r#"folder=$(mktemp -d); cd "$folder"
        $NOFEAR run -t --net passt --publish 8080:80 --root -- python3 -c '
import http.server
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"published\n")
    def log_message(self, *_): pass
s = http.server.HTTPServer(("", 80), H)
s.handle_request()' & 
        until curl -s -m 20 http://127.0.0.1:8080/ | grep published; do sleep 1; done
        curl -s -m 5 http://198.51.100.2:8080/ && echo "on every address"
        wait $!
        mkdir meet
        for i in 1 2 3 4; do
            $NOFEAR run -t -v -m 256M --net passt --share "$PWD/meet:/meet:rw" -- bash -c '
                hostname -I | cut -d " " -f 1 >/meet/'$i'.new; mv /meet/'$i'.new /meet/'$i'
                until [ -e /meet/1 -a -e /meet/2 -a -e /meet/3 -a -e /meet/4 ]; do sleep 2; done
                for other in $(cat /meet/[1-4]); do
                    [ $other = $(cat /meet/'$i') ] || ! curl -s -m 20 -o /dev/null http://$other/ || echo "met $other"
                done
                curl -s -m 100 http://server.test/' >"$i" 2>"$i.err" &
        done
        wait $(jobs -p | tail -4); cat 1 2 3 4; sort -u meet/[1-4] | wc -l
        cat *.err | grep -c "refused TCP to .* port 80: another virtual machine""#,
    ) else {
        return;
    };
    assert_eq!(
        ran.text(),
        "published\nhello from internet\nhello from internet\nhello from internet\nhello from internet\n4\n12\n",
        "{}",
        ran.stderr
    );
}

#[test]
fn network_leaves_nothing_behind_when_anything_is_killed() {
    let Some((_, ran)) = World::run(
        r#"count() { pgrep -c -x "passt|passt.avx2" || true; }
        start() { $NOFEAR run -t --net passt -- bash -c 'echo up
            until [ "$(cat /sys/class/net/eth0/carrier)" = 0 ]; do sleep 0.5; done; echo down; exec sleep 1000' >"$1" 2>"$1.err" & vm=$!
            until grep -q up "$1"; do sleep 0.5; done; }
        folder=$(mktemp -d); before=$(count)
        start "$folder/a"; kill -9 $vm; wait $vm 2>/dev/null
        for i in $(seq 100); do [ "$(count)" = "$before" ] && break; sleep 0.2; done
        echo "passts left: $(($(count) - before))"
        start "$folder/b"; kill -9 $(pgrep -n -x "passt|passt.avx2")
        for i in $(seq 100); do grep -q down "$folder/b" && break; sleep 0.2; done
        tail -n 1 "$folder/b"; grep -o "lost its network" "$folder/b.err"; wc -l <"$folder/b.err"; kill $vm; wait $vm; echo "status $?"
        $NOFEAR run -t --net passt -- curl -s -m 100 http://server.test/"#,
    ) else {
        return;
    };
    let text = ran.text();
    assert_eq!(
        text, "passts left: 0\ndown\nlost its network\n1\nstatus 143\nhello from internet\n",
        "{}",
        ran.stderr
    );
}
