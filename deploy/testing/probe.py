#!/usr/bin/env python3
"""Clients that share no code with Pollcast: Python's standard library alone.

probe.py ws URL [SECONDS]
    Opens a WebSocket, sends nothing but pongs, and prints every text frame as
    a line until SECONDS (default 5) have passed. Exit 1 if there was none, and
    3 with a line {"close": code} if the server closed it.

probe.py nats ADDRESS USER PASSWORD sub SUBJECT
probe.py nats ADDRESS USER PASSWORD pub SUBJECT [PAYLOAD]
probe.py nats ADDRESS USER PASSWORD request SUBJECT
    Speaks the NATS text protocol. sub prints the first message with its
    headers, within 15 s; request prints the first answer; pub publishes. Exit 1 with the server's words when it
    refuses.
"""
import base64
import hashlib
import json
import os
import socket
import struct
import sys
import time
import urllib.parse

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


class Stream:
    """A socket that reads exactly, and never past a deadline."""

    def __init__(self, host, port, seconds):
        self.deadline = time.monotonic() + seconds
        self.sock = socket.create_connection((host, port), timeout=5)
        self.buf = b""

    def fill(self):
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no more within the time given")
        self.sock.settimeout(left)
        chunk = self.sock.recv(65536)
        if not chunk:
            raise ConnectionError("the server hung up")
        self.buf += chunk

    def exactly(self, n):
        while len(self.buf) < n:
            self.fill()
        out, self.buf = self.buf[:n], self.buf[n:]
        return out

    def until(self, mark):
        while mark not in self.buf:
            self.fill()
        out, self.buf = self.buf.split(mark, 1)
        return out.decode()


def ws_frame(opcode, payload):
    """One final frame, masked as a client's must be."""
    mask = os.urandom(4)
    masked = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
    return struct.pack("!BB", 0x80 | opcode, 0x80 | len(payload)) + mask + masked


def ws(url, seconds=5.0):
    u = urllib.parse.urlsplit(url)
    s = Stream(u.hostname, u.port or 80, float(seconds))
    key = base64.b64encode(os.urandom(16)).decode()
    target = (u.path or "/") + ("?" + u.query if u.query else "")
    s.sock.sendall(
        f"GET {target} HTTP/1.1\r\nHost: {u.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = s.until(b"\r\n\r\n").split("\r\n")
    if " 101 " not in head[0]:
        sys.exit(f"no upgrade: {head[0]}")
    headers = {k.strip().lower(): v.strip() for k, _, v in (h.partition(":") for h in head[1:])}
    want = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
    if headers.get("sec-websocket-accept") != want:
        sys.exit("the answer to Sec-WebSocket-Key is wrong")
    frames, text = 0, b""
    try:
        while True:
            first, second = s.exactly(2)
            if first & 0x70 or second & 0x80:
                sys.exit("a reserved bit is set, or a server's frame is masked")
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack("!H", s.exactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", s.exactly(8))
            payload, opcode = s.exactly(length), first & 0x0F
            if opcode in (0, 1):
                text += payload
                if first & 0x80:
                    print(text.decode(), flush=True)
                    frames, text = frames + 1, b""
            elif opcode == 8:
                code = struct.unpack("!H", payload[:2])[0] if len(payload) > 1 else 1005
                print(json.dumps({"close": code, "reason": payload[2:].decode()}), flush=True)
                s.sock.sendall(ws_frame(8, payload[:2]))
                sys.exit(3)
            elif opcode == 9:
                s.sock.sendall(ws_frame(10, payload))
            elif opcode != 10:
                sys.exit(f"unexpected opcode {opcode}")
    except TimeoutError:
        sys.exit(0 if frames else "no frame came")


def nats(address, user, password, verb, subject, payload="{}"):
    host, _, port = address.rpartition(":")
    s = Stream(host, int(port), 15)
    s.until(b"\r\n")  # INFO
    options = {"user": user, "pass": password, "verbose": False, "headers": True, "no_responders": True, "lang": "python", "version": "0"}
    s.sock.sendall(f"CONNECT {json.dumps(options)}\r\nPING\r\n".encode())
    if verb == "sub":
        s.sock.sendall(f"SUB {subject} 1\r\n".encode())
    elif verb == "request":
        s.sock.sendall(f"SUB _INBOX.probe 1\r\nPUB {subject} _INBOX.probe 0\r\n\r\n".encode())
    else:
        s.sock.sendall(f"PUB {subject} {len(payload)}\r\n{payload}\r\nPING\r\n".encode())
    pongs = 0
    while True:
        line = s.until(b"\r\n")
        op = line.split(" ")
        if op[0] == "-ERR":
            sys.exit(f"{user}: {line}")
        elif op[0] == "PING":
            s.sock.sendall(b"PONG\r\n")
        elif op[0] == "PONG":
            pongs += 1
            if verb == "pub" and pongs == 2:
                return
        elif op[0] in ("MSG", "HMSG"):
            print(line)
            print(s.exactly(int(op[-1])).decode())
            return


if __name__ == "__main__":
    verbs = {"ws": ws, "nats": nats}
    if len(sys.argv) < 3 or sys.argv[1] not in verbs:
        sys.exit(__doc__)
    try:
        verbs[sys.argv[1]](*sys.argv[2:])
    except (OSError, TypeError, ValueError) as e:
        sys.exit(f"probe.py {sys.argv[1]}: {e}")
