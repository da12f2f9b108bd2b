"""What the gateway itself says when it can't pass a request on: what happened and what to do. In whose words: bodies/apis.py."""

from dataclasses import dataclass


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


def bad_request(message: str, code: str = "bad_request") -> GatewayError:
    return GatewayError(400, code, message)


def internal() -> GatewayError:
    """Where the gateway is wrong itself. Its log has the rest."""
    return GatewayError(500, "internal", "The gateway could not do this. Its log says why.")
