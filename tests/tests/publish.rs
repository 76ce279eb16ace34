//! `--publish`: clients of this machine reach the guest, and nothing else changes.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use nofear_tests::World;

/// What every test begins with. The servers run in the guest.
const SET_UP: &str = r#"$NOFEAR setup --user 1000 --yes >/dev/null
serve() { as_user $NOFEAR run -t -v --root --share $SCRIPTS:/s "$@" >$FOLDER/out 2>$FOLDER/err & vm=$!; }
up() { until curl -gs -m 60 http://127.0.0.1:8080/ | grep hello; do sleep 1; kill -0 $vm || { cat $FOLDER/err >&2; exit 1; }; done; }
nofear() { pgrep -o -f "^$NOFEAR run"; }
ports() { ss -Hltun | grep -cE ":(8080|8081|9998) " || true; }
"#;

#[test]
fn publish_leads_clients_to_the_guest_by_each_way_and_ends_with_the_machine() {
    let Some((_, ran)) = World::with_taps(&format!(
        r#"{SET_UP} state >$FOLDER/first
        for way in tap passt none; do
            serve --net $way --publish 8080:80 --publish 9998:9999/udp --publish 198.51.100.2:8081:80 -- \
                python3 /s/servers.py /tmp/guest
            up; curl -gsS -m 60 'http://[::1]:8080/'
            for to in 127.0.0.1 ::1; do
                exec 3<>/dev/udp/$to/9998; echo -n datagram >&3; timeout 60 head -c 8 <&3; echo; exec 3>&-
            done
            curl -gsS -m 900 -o $FOLDER/down http://127.0.0.1:8080/$TRANSFER
            back=$(curl -gsS -m 900 -T $FOLDER/down 'http://[::1]:8080/up')
            here=$(md5sum <$FOLDER/down | cut -c -32)
            [[ $here == "$back" && $back == $(curl -gsS -m 300 http://127.0.0.1:8080/sum) ]] && echo "the same each way"
            nsenter --net=/proc/$INTERNET/ns/net curl -gsS -m 60 http://198.51.100.2:8081/
            for nowhere in 198.51.100.2:8080 192.168.77.2:8081; do
                curl -gs -m 20 http://$nowhere/ && echo "reached $nowhere"
            done
            for taken in 8080:80 9998:80/udp; do
                as_user $NOFEAR run -t --net $way --publish $taken -- true; echo "another: $?"
            done
            kill -9 $(nofear); wait $vm; echo "$way: $(ports)"
        done
        all_gone; state | diff $FOLDER/first - && echo "as it was""#
    )) else {
        return;
    };
    let hello = "hello from guest\n";
    let each =
        format!("{hello}{hello}datagram\ndatagram\nthe same each way\n{hello}another: 125\nanother: 125\n");
    let wanted = ["tap", "passt", "none"].map(|way| format!("{each}{way}: 0\n")).concat() + "as it was\n";
    assert_eq!(ran.text(), wanted, "{}", ran.stderr);
    let taken = |what: &str| {
        let line = format!("--publish: {what} of 127.0.0.1: another program has it");
        ran.stderr.lines().filter(|one| one.contains(&line)).count()
    };
    assert_eq!((taken("TCP port 8080"), taken("UDP port 9998")), (3, 3), "{}", ran.stderr);
}

/// What a connection that had come in could answer with, from the published port; `silent` if nothing came of it.
const SEGMENTS: &str = r#"
import fcntl, socket, struct, sys, time
sys.argv = ["hostile"]
source = open("/s/hostile.py").read().split("SIX = ")[0]
exec(source)
def tcp(to, flags):
    segment = struct.pack("!HHIIBBHHH", 80, 80, 1, 1, 0x50, flags, 1024, 0, 0)
    pseudo = socket.inet_aton(own) + socket.inet_aton(to) + struct.pack("!HH", 6, len(segment))
    return v4(to, "", protocol=6, payload=segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:])
link.settimeout(0.2)
places = ["203.0.113.5", "198.51.100.2", "192.168.77.2", "192.168.77.1", "127.0.0.1", gateway]
for to in places:
    for flags in [0x10, 0x12, 0x18, 0x04, 0x02, 0x00]:
        send(tcp(to, flags))
    send(v4(to, "from the published port"))
end, heard = time.time() + 3, []
while time.time() < end:
    try:
        frame = link.recv(2048)
    except TimeoutError:
        continue
    # ICMP is the device's own answer.
    if frame[12:14] == b"\x08\0" and frame[:6] == mac and frame[23] != 1:
        heard.append(socket.inet_ntoa(frame[26:30]))
print("silent" if not heard else heard, flush=True)
"#;

#[test]
fn publish_opens_no_way_out_to_a_hostile_guest() {
    let Some((world, ran)) = World::with_taps(&format!(
        r#"{SET_UP} cat >$SCRIPTS/segments.py <<'END'
{SEGMENTS}
END
        for way in tap passt; do for allow in "" "--allow six.test"; do
            serve --net $way --offline $allow --publish 8080:80 --publish 9998:9999/udp -- \
                bash -c 'python3 /s/servers.py /tmp/guest & until grep -q GET /tmp/guest.log; do sleep 1; done
                    python3 /s/segments.py; wait'
            up; until grep -q . $FOLDER/out; do sleep 1; done; cat $FOLDER/out
            curl -gsS -m 60 http://127.0.0.1:8080/; kill -9 $(nofear); wait $vm
        done; done"#
    )) else {
        return;
    };
    let each = "hello from guest\nsilent\nhello from guest\n";
    assert_eq!(ran.text(), each.repeat(4), "{}", ran.stderr);
    for place in ["internet", "lan"] {
        assert_eq!(world.asked(place), "", "{place}");
    }
    assert!(!world.asked("host").contains("UDP"), "{}", world.asked("host"));
}
