"""Runs in a pod, with Python alone: tells what reached it, streams events, echoes a websocket's bytes."""

import base64
import hashlib
import http.server
import json
import time


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.startswith("/events"):
            self.events()
        elif self.headers.get("upgrade") == "websocket":
            self.websocket()
        elif self.path.startswith("/refuse"):
            self.tell(403, {"kind": "not a Status"})
        else:
            self.tell(200, {"method": self.command, "path": self.path, "headers": dict(self.headers)})

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.tell(200, {"path": self.path, "sha256": hashlib.sha256(body).hexdigest()})

    def tell(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def events(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(5):
            event = b"data: %d\n\n" % number
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
            time.sleep(0.3)
        self.wfile.write(b"0\r\n\r\n")

    def websocket(self):
        key = self.headers["sec-websocket-key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("connection", "Upgrade")
        self.send_header("upgrade", "websocket")
        self.send_header("sec-websocket-accept", base64.b64encode(hashlib.sha1(key).digest()).decode())
        self.end_headers()
        self.close_connection = True
        # One small text frame: two bytes of head, four of mask.
        head = self.rfile.read(2)
        mask, data = self.rfile.read(4), self.rfile.read(head[1] & 127)
        text = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        self.wfile.write(bytes([0x81, len(text)]) + text + b"\x88\x00")


http.server.ThreadingHTTPServer(("", 8000), Echo).serve_forever()
