"""Raw frames of a hostile guest, each with a mark of its own in a datagram to port 9999. Run as guest root.

Only the datagram "fine" may arrive anywhere.
"""
import fcntl
import socket
import struct
import time

link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
link.bind(("eth0", 0))
mac = fcntl.ioctl(link, 0x8927, struct.pack("256s", b"eth0"))[18:24]
own = socket.inet_ntoa(fcntl.ioctl(link, 0x8915, struct.pack("256s", b"eth0"))[20:24])
gateway = ".".join(own.split(".")[:3] + [str(int(own.split(".")[3]) - 1)])


def ask_for_gateway():
    request = b"\xff" * 6 + mac + b"\x08\x06\0\1\x08\0\6\4\0\1" + mac + socket.inet_aton(own) + bytes(6)
    link.send(request + socket.inet_aton(gateway))
    while True:
        frame = link.recv(2048)
        if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2":
            return frame[22:28]


gateway_mac = ask_for_gateway()


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp(mark, port=9999):
    payload = mark.encode()
    return struct.pack("!HHHH", 5000, port, 8 + len(payload), 0) + payload


def v4(to, mark, source=None, options=b"", fragment=0x4000, protocol=17, payload=None):
    body = udp(mark) if payload is None else payload
    length = 20 + len(options)
    head = struct.pack("!BBHHHBBH", 0x40 | length // 4, 0, length + len(body), 7, fragment, 64, protocol, 0)
    head += socket.inet_aton(source or own) + socket.inet_aton(to) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def v6(to, mark, source="fd6e:6f66:6561::2", before=b"", next_header=17):
    source, to = (socket.inet_pton(socket.AF_INET6, a) for a in (source, to))
    body = udp(mark)
    pseudo = source + to + struct.pack("!II", len(body), 17)
    body = body[:6] + struct.pack("!H", checksum(pseudo + body) or 0xFFFF) + body[8:]
    return struct.pack("!IHBB", 0x60000000, len(before) + len(body), next_header, 64) + source + to + before + body


def send(packet, kind=b"\x08\0", source=mac, destination=gateway_mac, tag=b""):
    link.send(destination + source + tag + kind + packet)


def own_v6():
    for line in open("/proc/net/if_inet6"):
        address, _, _, scope, _, name = line.split()
        if name == "eth0" and scope == "00":
            return ":".join(address[i : i + 4] for i in range(0, 32, 4))
    return None


SIX = b"\x86\xdd"
INTERNET = "203.0.113.5"
for to in ["127.0.0.1", "127.0.0.53", "0.0.0.0", "198.51.100.2", "192.168.77.2", "192.168.77.1", "198.51.100.1",
           "10.0.0.1", "172.16.0.1", "100.64.0.1", "203.0.113.129", "169.254.169.254", "224.0.0.1", "255.255.255.255", gateway]:
    send(v4(to, "to " + to))
six = own_v6()
if six:
    for to in ["::1", "::", "::ffff:127.0.0.1", "::ffff:203.0.113.5", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::c633:6402", "64:ff9b::a9fe:a9fe", "64:ff9b:1::c633:6402",
               "2002:7f00:1::1", "2001:0:7f00:1::1", "2001:db8:1::2", "2001:db8:1::1", "fe80::1", "fd00::1", "ff02::1"]:
        send(v6(to, "to " + to, six), SIX)
    send(v6("2001:db8:2::5", "another IPv6 source"), SIX)
    routing = struct.pack("!BBBBI", 17, 2, 0, 1, 0) + socket.inet_pton(socket.AF_INET6, "::1")
    send(v6("2001:db8:2::5", "routing header", six, routing, 43), SIX)
    send(v6("2001:db8:2::5", "fragment header", six, struct.pack("!BBHI", 17, 0, 0, 7), 44), SIX)
    send(v6("2001:db8:2::5", "hop by hop", six, b"\x11\0\1\4\0\0\0\0", 0), SIX)
    send(v6("2001:db8:2::5", "destination options", six, b"\x11\0\1\4\0\0\0\0", 60), SIX)
    send(v6("2001:db8:2::5", "authentication", six, b"\x11\4" + bytes(22), 51), SIX)
    send(v6("2001:db8:2::5", "mobility", six, b"\x11\0" + bytes(6), 135), SIX)
for tag in [b"\x81\0\0\1", b"\x88\xa8\0\1", b"\x81\0\0\1\x81\0\0\2"]:
    send(v4(INTERNET, "VLAN"), tag=tag)
    send(v4("127.0.0.1", "VLAN to loopback"), tag=tag)
for kind in [b"\0\x30", b"\x88\x64", b"\x88\xcc", b"\x88\x47", b"\x89\x06"]:
    send(v4(INTERNET, "odd ethertype"), kind)
send(v4(INTERNET, "first fragment", fragment=0x2000))
send(v4(INTERNET, "later fragment", fragment=0x0001, payload=b"a later fragment"))
send(v4("127.0.0.1", "first fragment to loopback", fragment=0x2000))
send(v4(INTERNET, "reserved bit", fragment=0x8000))
route = socket.inet_aton("127.0.0.1")
send(v4(INTERNET, "loose source route", options=b"\x83\x07\x04" + route + b"\0"))
send(v4(INTERNET, "strict source route", options=b"\x89\x07\x04" + route + b"\0"))
send(v4(INTERNET, "router alert", options=b"\x94\x04\0\0"))
send(v4(INTERNET, "another source", source="198.51.100.2"))
send(v4(INTERNET, "from loopback", source="127.0.0.1"))
send(v4(INTERNET, "from the gateway", source=gateway))
send(v4(INTERNET, "another MAC"), source=b"\2\0\0\0\0\x99")
send(v4(INTERNET, "to another MAC"), destination=b"\2\0\0\0\0\x99")
send(v4(INTERNET, "to everybody"), destination=b"\xff" * 6)
for protocol, payload in [(41, v6("::1", "6in4")), (4, v4("127.0.0.1", "4in4")), (47, b"\0\0\x08\0" + v4("127.0.0.1", "GRE")),
                          (51, b"\x11\4" + bytes(22) + udp("authentication")), (136, udp("UDP-Lite")), (132, udp("SCTP"))]:
    send(v4(INTERNET, "", protocol=protocol, payload=payload))
for operation, sender in [(2, gateway), (2, own), (1, gateway), (1, "198.51.100.2")]:
    arp = b"\0\1\x08\0\6\4" + struct.pack("!H", operation) + mac + socket.inet_aton(sender) + bytes(6)
    send(arp + socket.inet_aton(sender), b"\x08\x06", destination=b"\xff" * 6)
send(v4("127.0.0.1", "", protocol=6, payload=struct.pack("!HHIIBBHHH", 5000, 80, 1, 0, 0x50, 2, 1024, 0, 0)))
for length in range(0, 60):
    link.send((gateway_mac + mac + b"\x08\0" + v4("127.0.0.1", "cut"))[: max(14, length)])
send(v4(INTERNET, "fine"))
time.sleep(1)
print("sent")
