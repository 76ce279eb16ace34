//! Taps beside the other firewalls of a machine, which run here as they are installed: theirs stays untouched, and
//! what they drop is said in one line.
//!
//! firewalld, ufw and Docker are not installed for this on a machine that runs them itself then: without them a test
//! is skipped, and says so.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::path::Path;

use nofear_tests::World;

/// What every test begins with. `beside COMMAND...` shows what happens before and after COMMAND lets taps pass: to a
/// virtual machine that is killed, and to a script that has a tap, as the VMM has it, and ends in order.
const SET_UP: &str = r#"$NOFEAR setup --user 1000 --yes >/dev/null
mkfifo $FOLDER/hold; chmod 666 $FOLDER/hold
hold() { as_user python3 $SCRIPTS/ask.py talk <$FOLDER/hold >$FOLDER/tap & exec 9>$FOLDER/hold
    for i in $(seq 300); do [ $(wc -l <$FOLDER/tap) = 2 ] && break; sleep 0.2; done; cat $FOLDER/tap; }
let_go() { exec 9>&-; wait $!; all_gone; rm $FOLDER/tap; }
machine() { as_user $NOFEAR run -t --net tap -- bash -c \
        'curl -s -m 100 http://server.test/; curl -s -m 100 http://six.test/; echo up; exec sleep 10000' >$FOLDER/vm & vm=$!
    for i in $(seq 600); do grep -q up $FOLDER/vm && break; sleep 0.2; done; cat $FOLDER/vm; }
others() { nft list tables | grep -v " nofear$" | while read -r _ family name; do
    nft --stateless list table $family $name; done; }
untouched() { others | diff $FOLDER/theirs - && echo "untouched"; }
meanwhile() { :; }
same() { state | diff $FOLDER/first - && echo "as it was"; }
beside() {
    state >$FOLDER/first
    as_user $NOFEAR run -t --net tap -- true; echo "closed: $?"; all_gone; same
    "$@" >/dev/null
    state >$FOLDER/first; others >$FOLDER/theirs
    machine; untouched; meanwhile; kill -9 $(pgrep -o -f "^$NOFEAR run"); wait $vm; all_gone; same
    hold; untouched; let_go; same
}
"#;

const HELLO: &str = "hello from internet\n";

/// What `beside` says, with what `meanwhile` does.
fn beside(meanwhile: &str) -> String {
    let machine = format!("{HELLO}{HELLO}up\nuntouched\n{meanwhile}as it was\n");
    format!("closed: 125\nas it was\n{machine}nofear0\ndatagram\nuntouched\nas it was\n")
}

/// Whether a firewall is installed here.
fn is_there(program: &str) -> bool {
    let there =
        ["/usr/sbin", "/usr/bin", "/sbin"].iter().any(|folder| Path::new(folder).join(program).is_file());
    if !there {
        eprintln!(
            "SKIPPED: {program} is not installed, and is not installed for a test where it would then run"
        );
    }
    there
}

#[test]
fn firewalls_of_firewalld_stay_as_they_are_and_its_zone_lets_taps_pass() {
    if !is_there("firewalld") {
        return;
    }
    let Some((_, ran)) = World::with_taps(&format!(
        r#"{SET_UP} mkdir -p /run/dbus; dbus-daemon --system --fork --print-pid=3 3>$FOLDER/bus
        firewalld --nofork --nopid >$FOLDER/firewalld 2>&1 & firewalld=$!
        for i in $(seq 300); do firewall-cmd --state >/dev/null 2>&1 && break; sleep 1; done
        firewall-cmd --get-default-zone
        beside firewall-cmd --zone=trusted --add-interface=nofear+
        kill $firewalld $(<$FOLDER/bus)"#
    )) else {
        return;
    };
    assert_eq!(ran.text(), format!("public\n{}", beside("")), "{}", ran.stderr);
    let line = ran.stderr.lines().find(|line| line.contains("nftables table inet firewalld")).unwrap();
    assert!(line.contains("'firewall-cmd --permanent --zone=trusted --add-interface=nofear+'"), "{line}");
}

#[test]
fn firewalls_of_ufw_stay_as_they_are_and_a_route_lets_taps_pass() {
    if !is_there("ufw") {
        return;
    }
    let Some((_, ran)) = World::with_taps(&format!(
        r#"{SET_UP} cp -r /etc/ufw $FOLDER/ufw; mount --bind $FOLDER/ufw /etc/ufw
        ufw --force enable >&2; ufw status verbose | grep -o "deny (incoming), allow (outgoing)"
        beside ufw route allow in on nofear+
        ufw --force disable >&2"#
    )) else {
        return;
    };
    let policies = "deny (incoming), allow (outgoing)\n";
    assert_eq!(ran.text(), format!("{policies}{}", beside("")), "{}", ran.stderr);
    let line = ran.stderr.lines().find(|line| line.contains("nftables table ip filter")).unwrap();
    assert!(line.contains("'ufw route allow in on nofear+'"), "{line}");
}

#[test]
fn firewalls_of_docker_stay_as_they_are_and_its_containers_reach_what_they_did() {
    if !is_there("dockerd") {
        return;
    }
    // What stands for a container is a namespace on Docker's bridge: there is no image here.
    let Some((_, ran)) = World::with_taps(&format!(
        r#"{SET_UP} [ ! -e /etc/docker ] || mount -t tmpfs docker /etc/docker
        mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup
        dockerd --data-root $FOLDER/docker --exec-root $FOLDER/docker.run --pidfile $FOLDER/docker.pid \
            --storage-driver vfs --host unix://$FOLDER/docker.sock >$FOLDER/dockerd 2>&1 & dockerd=$!
        until [ "$(curl -s --unix-socket $FOLDER/docker.sock http://docker/_ping)" = OK ]; do
            kill -0 $dockerd || break; sleep 0.5
        done
        iptables -S FORWARD | head -n 1 || tail -n 20 $FOLDER/dockerd >&2
        unshare --net sleep 100000 & inside=$!
        until [ "$(<"/proc/$inside/comm")" = sleep ]; do sleep 0.1; done
        in_container=(nsenter --net=/proc/$inside/ns/net)
        ip link add inside type veth peer name eth0 netns $inside; ip link set inside master docker0 up
        "${{in_container[@]}}" ip address add 172.17.0.2/16 dev eth0; "${{in_container[@]}}" ip link set eth0 up
        "${{in_container[@]}}" ip route add default via 172.17.0.1
        meanwhile() {{ "${{in_container[@]}}" curl -s -m 60 http://203.0.113.5/; }}
        open() {{ iptables -I DOCKER-USER -i nofear+ -j ACCEPT; iptables -I DOCKER-USER -o nofear+ -j ACCEPT; }}
        meanwhile; beside open; meanwhile
        kill $dockerd $inside; wait $dockerd"#
    )) else {
        return;
    };
    let wanted = format!("-P FORWARD DROP\n{HELLO}{}{HELLO}", beside(HELLO));
    assert_eq!(ran.text(), wanted, "{}", ran.stderr);
    let line = ran.stderr.lines().find(|line| line.contains("nftables table ip filter")).unwrap();
    assert!(line.contains("with Docker in the chain DOCKER-USER"), "{line}");
}
