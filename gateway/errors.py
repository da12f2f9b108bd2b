"""What the gateway itself answers when it can't pass a request on: JSON that says what happened and what to do."""

from dataclasses import dataclass

import orjson


# Not frozen: context managers note the traceback on an error that passes through them.
@dataclass(eq=False)
class GatewayError(Exception):
    """`code` is stable, for programs; `message` says what to do, for people."""

    status: int
    code: str
    message: str
    retry_after_s: int | None = None
    details: dict[str, str] | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()

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
