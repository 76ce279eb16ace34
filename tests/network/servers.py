"""Servers of the tests' world: HTTP on port 80, UDP on port 9999, and perhaps names on 127.0.0.53.

Whatever comes is written to a file, a line each. GET /size answers with so many bytes, no 64 KiB of them like others;
PUT is answered with the MD5 of what came, GET /sum with that of what was sent last. (MD5 is the cheapest that a shell
has, too, and nobody here wants to deceive.)
"""
import hashlib
import http.server
import random
import socket
import socketserver
import sys
import threading

path = sys.argv[1]
log = open(path + ".log", "a", buffering=1)
NOISE = random.Random(7).randbytes((1 << 16) - 16)
sums = [b""]
V4 = {"server.test": "203.0.113.5", "lan.test": "192.168.77.1"}
V6 = {"six.test": "2001:db8:2::5"}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        log.write("GET %s %s\n" % (self.client_address[0], self.path))
        size = self.path[1:]
        if size.isdigit():
            return self.stream(int(size))
        self.answer(sums[-1] if size == "sum" else b"hello from %s\n" % path.rsplit("/", 1)[1].encode())

    def stream(self, left):
        self.send_response(200)
        self.send_header("Content-Length", str(left))
        self.end_headers()
        digest, count = hashlib.md5(), 0
        while left:
            piece = (b"%16d" % count + NOISE)[: min(left, 1 << 16)]
            digest.update(piece)
            self.wfile.write(piece)
            count, left = count + 1, left - len(piece)
        sums.append(digest.hexdigest().encode())

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self):
        left, digest = int(self.headers["Content-Length"]), hashlib.md5()
        while left:
            part = self.rfile.read(min(left, 1 << 16))
            digest.update(part)
            left -= len(part)
        self.answer(digest.hexdigest().encode())

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True

    def server_bind(self):
        # Without a look-up of this machine's own name, which would be a question for `names`.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "server", self.server_address[1]


def datagrams():
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    # The answer comes from the address that was asked.
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    server.bind(("::", 9999))
    while True:
        payload, asked, _, sender = server.recvmsg(65536, 256)
        log.write("UDP %s %s\n" % (sender[0], payload.decode(errors="replace")))
        # Through whichever interface leads there.
        asked = [(level, kind, data[:16] + bytes(4)) for level, kind, data in asked]
        server.sendmsg([payload], asked, 0, sender)


def answer(query):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    name, kind = ".".join(labels).lower(), int.from_bytes(query[at + 1 : at + 3], "big")
    log.write("DNS %s %d\n" % (name, kind))
    record = b""
    if kind == 1 and name in V4:
        record = b"\xc0\x0c\0\1\0\1\0\0\0\x05\0\4" + socket.inet_aton(V4[name])
    if kind == 28 and name in V6:
        record = b"\xc0\x0c\0\x1c\0\1\0\0\0\x05\0\x10" + socket.inet_pton(socket.AF_INET6, V6[name])
    known = name in V4 or name in V6
    flags = b"\x81\x80" if known else b"\x81\x83"
    return query[:2] + flags + b"\0\1" + (b"\0\1" if record else b"\0\0") + b"\0\0\0\0" + query[12 : at + 5] + record


def names():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.53", 53))
    while True:
        query, sender = server.recvfrom(4096)
        server.sendto(answer(query), sender)


threading.Thread(target=datagrams, daemon=True).start()
if "names" in sys.argv:
    threading.Thread(target=names, daemon=True).start()
web = Server(("::", 80), Handler)
open(path + ".ready", "w").close()
web.serve_forever()
