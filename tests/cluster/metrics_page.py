"""Runs in a pod, with Python alone: answers every GET with PAGE; with CERTIFICATE and KEY through TLS."""

import http.server
import os
import ssl
import tempfile


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ["PAGE"].encode()
        self.send_response(200)
        self.send_header("content-type", os.environ["TYPE"])
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Page)
if "KEY" in os.environ:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(os.environ["CERTIFICATE"] + os.environ["KEY"])
        file.flush()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file.name)
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
