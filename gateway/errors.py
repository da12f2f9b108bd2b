"""What the gateway itself answers when it can't pass a request on: JSON that says what happened and what to do."""

from dataclasses import dataclass

import orjson

REASONS = {
    400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed",
    408: b"Request Timeout", 411: b"Length Required", 413: b"Content Too Large", 414: b"URI Too Long",
    415: b"Unsupported Media Type", 429: b"Too Many Requests", 431: b"Request Header Fields Too Large",
    500: b"Internal Server Error", 501: b"Not Implemented", 502: b"Bad Gateway", 503: b"Service Unavailable",
    504: b"Gateway Timeout",
}  # fmt: skip


@dataclass(frozen=True)
class GatewayError(Exception):
    """`code` is stable, for programs; `message` says what to do, for people."""

    status: int
    code: str
    message: str
    retry_after_s: int | None = None
    details: dict[str, str] | None = None

    def body(self, request_id: str) -> bytes:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {
            "message": self.message,
            "type": kind,
            "code": self.code,
            "request_id": request_id,
            **(self.details or {}),
        }
        return orjson.dumps({"error": error})


def bad_request(message: str, code: str = "bad_request") -> GatewayError:
    return GatewayError(400, code, message)
