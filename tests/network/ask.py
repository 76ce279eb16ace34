"""Asks the network's helper for a tap as `nofear run` does, says its name, and holds it until the standard input ends.

With an argument it also is a guest of few words: it sends a datagram to the Internet's server, and says what comes back.
"""
import json
import select
import socket
import struct
import subprocess
import sys
import os

ours, theirs = socket.socketpair()
helper = subprocess.Popen(["/usr/local/libexec/nofear-net"], stdin=theirs.fileno())
theirs.close()
request = {"version": 1, "queues": 1, "mtu": 1500, "lan": False, "offline": False, "allow": [], "deny": []}
ours.send(json.dumps(request).encode() + b"\n")
reply, taps, _, _ = socket.recv_fds(ours, 1 << 16, 32)
ready = json.loads(reply).get("ready", {})
print(ready.get("interface", reply), flush=True)


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def talk():
    (guest, _), tap = ready["v4"], taps[0]
    # Without a sum, as UDP over IPv4 may be; before it the header of virtio-net, with nothing in it.
    datagram = struct.pack("!HHHH", 5000, 9999, 16, 0) + b"datagram"
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 7, 0x4000, 64, 17, 0)
    head += socket.inet_aton(guest) + socket.inet_aton("203.0.113.5")
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    macs = bytes.fromhex((ready["gateway_mac"] + ready["mac"]).replace(":", ""))
    os.write(tap, bytes(10) + macs + b"\x08\0" + head + datagram)
    while select.select([tap], [], [], 20)[0]:
        frame = os.read(tap, 4096)[10:]
        if frame[12:14] == b"\x08\0" and frame[23] == 17:
            return frame[42:].decode()
    return "nothing"


if ready and len(sys.argv) > 1:
    print(talk(), flush=True)
sys.stdin.read()
