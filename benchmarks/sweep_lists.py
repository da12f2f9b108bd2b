"""Stands in the place of an API server for the sweep: two lists from files, in pages, a count of the calls, and a lease."""

import http.server
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

FOLDER = Path(sys.argv[1])
LEASE: dict[str, Any] = {}
LISTS = {name: orjson.loads((FOLDER / f"{name}.json").read_bytes()) for name in ("pods", "deployments")}


class Lists(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path.endswith("/namespaces/kube-system"):
            return self._answer({"metadata": {"uid": "bench"}})
        if "/leases" in parts.path:
            return self._answer(LEASE, 200 if LEASE else 404)
        query = parse_qs(parts.query)
        items = LISTS.get(parts.path.rsplit("/", 1)[1], [])
        start, size = int(query.get("continue", ["0"])[0]), int(query.get("limit", ["500"])[0])
        following = str(start + size) if start + size < len(items) else ""
        (FOLDER / "calls").write_text(str(int((FOLDER / "calls").read_text()) + 1))
        return self._answer({"metadata": {"continue": following}, "items": items[start : start + size]})

    def do_POST(self) -> None:
        """The lease: whoever asks is in charge."""
        LEASE.update(orjson.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(LEASE)

    do_PUT = do_POST

    def _answer(self, document: dict[str, Any], status: int = 200) -> None:
        body = orjson.dumps(document)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), Lists).serve_forever()
