"""Stands in the place of an API server for the sweep: two lists from files, in pages, and a count of the calls."""

import http.server
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import orjson

FOLDER = Path(sys.argv[1])
LISTS = {name: orjson.loads((FOLDER / f"{name}.json").read_bytes()) for name in ("pods", "deployments")}


class Lists(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        items = LISTS.get(parts.path.rsplit("/", 1)[1], [])
        start, size = int(query.get("continue", ["0"])[0]), int(query.get("limit", ["500"])[0])
        following = str(start + size) if start + size < len(items) else ""
        body = orjson.dumps({"metadata": {"continue": following}, "items": items[start : start + size]})
        (FOLDER / "calls").write_text(str(int((FOLDER / "calls").read_text()) + 1))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), Lists).serve_forever()
