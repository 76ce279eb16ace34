//! `nofear setup` and the helper that it installs: many machines, kills, and that this machine stays as it was.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use nofear_tests::World;

/// What every test but that of `setup` itself begins with.
const SET_UP: &str = "$NOFEAR setup --user 1000 --yes >/dev/null\n";

#[test]
fn tap_machines_at_once_do_not_meet_and_nobody_comes_in() {
    let Some((_, ran)) = World::with_taps(&format!(
        r#"{SET_UP} mkdir $MINE/meet && chown 1000 $MINE/meet
        for i in 1 2 3 4; do
            as_user $NOFEAR run -t -m 256M --net tap --share $MINE/meet:/meet:rw -- bash -c '
                hostname -I | cut -d " " -f 1 >/meet/'$i'.new; mv /meet/'$i'.new /meet/'$i'
                until [ -e /meet/1 -a -e /meet/2 -a -e /meet/3 -a -e /meet/4 ]; do sleep 2; done
                for other in $(cat /meet/[1-4]); do
                    [ $other = $(cat /meet/'$i') ] || ! curl -s -m 20 -o /dev/null http://$other/ || echo "met $other"
                done
                curl -s -m 100 http://server.test/
                echo >/meet/'$i'.done; until [ -e /meet/end ]; do sleep 2; done' >$MINE/out.$i 2>$MINE/err.$i &
        done
        until [ -e $MINE/meet/4.done -a -e $MINE/meet/3.done -a -e $MINE/meet/2.done -a -e $MINE/meet/1.done ]; do
            sleep 1
        done
        # Nobody listens there: a packet that came in would be refused, not lost.
        for address in $(cat $MINE/meet/[1-4]); do
            curl -s -m 5 -o /dev/null http://$address/; [ $? = 28 ] || echo "came in to $address"
        done
        sort -u $MINE/meet/[1-4] | wc -l
        for vm in $(as_user $NOFEAR ps | tail -n +2 | cut -d " " -f 1); do
            as_user $NOFEAR net log $vm | grep -c "refused TCP to .* port 80: another virtual machine"
            as_user $NOFEAR stat $vm | awk '$1 == "net" {{ print ($2 > 3 && $NF >= 3 ? "counted" : $0) }}'
        done
        touch $MINE/meet/end; wait $(jobs -p | tail -n 4); cat $MINE/out.*; cat $MINE/err.* >&2; all_gone"#
    )) else {
        return;
    };
    assert_eq!(
        ran.text(),
        format!("4\n{}{}", "3\ncounted\n".repeat(4), "hello from internet\n".repeat(4)),
        "{}",
        ran.stderr
    );
}

#[test]
fn tap_setup_leaves_everything_as_it_was() {
    let Some((_, ran)) = World::with_taps(
        r#"same() { state >$FOLDER/now; diff $FOLDER/first $FOLDER/now && echo "$1: as it was"; }
        state >$FOLDER/first
        $NOFEAR setup --check --user 1000 >$FOLDER/check; echo "missing: $?"
        $NOFEAR setup --user 1000; echo "nobody agreed: $?"
        ls /usr/local/libexec 2>/dev/null; same "asked"
        $NOFEAR setup --user 1000 --yes | grep -c '^- '
        $NOFEAR setup --user 1000 --yes; $NOFEAR setup --check --user 1000 >$FOLDER/check; echo "there: $?"; same "set up"
        as_user $NOFEAR setup --user 1000 --yes; echo "not root: $?"
        setpriv --reuid=1001 --regid=1001 --clear-groups /usr/local/libexec/nofear-net run true </dev/null; echo "another: $?"
        as_user $NOFEAR run -t --net tap -- curl -s -m 100 http://server.test/
        all_gone; same "ran"
        nft 'table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; chain DOCKER-USER { }; }'
        as_user $NOFEAR run -t --net tap -- true; echo "closed: $?"
        as_user $NOFEAR run -t -v -- curl -s -m 100 http://server.test/
        nft 'insert rule ip filter FORWARD iifname "nofear*" accept; insert rule ip filter FORWARD oifname "nofear*" accept'
        as_user $NOFEAR run -t --net tap -- curl -s -m 100 http://server.test/
        all_gone; nft delete table ip filter; same "beside another firewall"
        $NOFEAR setup --undo --user 1000 --yes | grep -c '^- '; same "undone"
        ls /usr/local/libexec /etc/nofear; $NOFEAR setup --check --user 1000 >$FOLDER/check; echo "missing: $?"
        as_user $NOFEAR run -t --net tap -- true; echo "undone: $?""#,
    ) else {
        return;
    };
    let text = ran.text();
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let hello = "hello from internet";
    let expected = [
        "missing: 1",
        "This will be done:",
        "- install",
        "- let user 1000",
        "nobody agreed: 125",
        "asked: as it was",
        "2",
        "nothing is to be done",
        "there: 0",
        "set up: as it was",
        "not root: 125",
        "another: 1",
        hello,
        "ran: as it was",
        "closed: 125",
        hello,
        hello,
        "beside another firewall: as it was",
        "1",
        "undone: as it was",
        "/etc/nofear:",
        "/usr/local/libexec:",
        "missing: 1",
        "undone: 125",
    ];
    assert_eq!(lines.len(), expected.len(), "{text}\n{}", ran.stderr);
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line:?} is not {expected:?} in\n{text}\n{}", ran.stderr);
    }
    assert!(ran.stderr.contains("nftables table ip filter"), "{}", ran.stderr);
    assert!(ran.stderr.contains("run 'sudo nofear setup' once"), "{}", ran.stderr);
}

#[test]
fn tap_leaves_nothing_behind_when_anything_is_killed() {
    let Some((_, ran)) = World::with_taps(&format!(
        r#"{SET_UP} state >$FOLDER/first
        start() {{ rm -f $MINE/home/go
            as_user $NOFEAR run -t --net tap --share $MINE/home:/go -- bash -c 'echo up
                until [ -e /go/go ]; do sleep 0.2; done; curl -s -m 100 http://server.test/; exit 7' >"$FOLDER/$1" 2>"$FOLDER/$1.err" & vm=$!
            until grep -q up "$FOLDER/$1"; do sleep 0.5; done; }}
        nofear() {{ pgrep -o -f "^$NOFEAR run"; }}
        helper() {{ pgrep -f '^/usr/local/libexec/nofear-net'; }}
        start a; kill -9 $(nofear); wait $vm; all_gone; helper; state | diff $FOLDER/first - && echo "as it was"
        start b; kill -9 $(helper)
        for i in $(seq 100); do grep -q "helper has ended" $FOLDER/b.err && break; sleep 0.2; done
        touch $MINE/home/go; wait $vm; echo "status $?"; tail -n 1 $FOLDER/b
        grep -c "helper has ended" $FOLDER/b.err; nft list tables | grep -c nofear
        as_user $NOFEAR run -t --net tap -- curl -s -m 100 http://server.test/
        all_gone; helper; state | diff $FOLDER/first - && echo "as it was""#
    )) else {
        return;
    };
    let expected = "as it was\nstatus 7\nhello from internet\n1\n1\nhello from internet\nas it was\n";
    assert_eq!(ran.text(), expected, "{}", ran.stderr);
}

#[test]
fn tap_helper_follows_interfaces_that_come_and_others_that_forward() {
    let Some((_, ran)) = World::with_taps(&format!(
        r#"{SET_UP} state >$FOLDER/first; mkfifo $FOLDER/hold; chmod 666 $FOLDER/hold
        hold() {{ as_user python3 $SCRIPTS/ask.py <$FOLDER/hold >$FOLDER/tap & exec 9>$FOLDER/hold
            until [ -s $FOLDER/tap ]; do sleep 0.2; done; cat $FOLDER/tap; }}
        let_go() {{ exec 9>&-; wait $!; all_gone; rm $FOLDER/tap; }}
        conf=/proc/sys/net/ipv4/conf; conf6=/proc/sys/net/ipv6/conf
        becomes() {{ for _ in $(seq 100); do [ "$(<$2)" = "$1" ] && return; sleep 0.2; done; echo "$2 is $(<$2)"; }}
        hold; cat $conf/wan/forwarding $conf/all/forwarding $conf6/all/forwarding $conf6/wan/accept_ra
        ip link add late type veth peer name later; becomes 1 $conf/late/forwarding; becomes 2 $conf6/late/accept_ra
        let_go; cat $conf/late/forwarding $conf6/late/accept_ra; ip link delete late
        state | diff $FOLDER/first - && echo "as it was"
        hold; sysctl -q net.ipv4.ip_forward=1
        for _ in $(seq 100); do nft list set inet nofear on4 | grep -q elements || break; sleep 0.2; done
        nft list chain inet nofear forward | grep -c "iifname @on4 .*drop"; nft list set inet nofear on4 | grep -c elements
        let_go; cat $conf/all/forwarding $conf/wan/forwarding"#
    )) else {
        return;
    };
    let first = "nofear0\n1\n0\n1\n2\n0\n1\nas it was\n";
    assert_eq!(ran.text(), format!("{first}nofear0\n1\n0\n1\n1\n"), "{}", ran.stderr);
}
