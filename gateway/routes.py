"""Which deployment a request is for, as far as its path tells."""

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from gateway.callers import Caller
from gateway.errors import GatewayError
from gateway.framing import RequestHead, request_line
from gateway.snapshot import Snapshot, Target

if TYPE_CHECKING:
    from gateway.limiter import Allowance

OPENAI_PREFIX = b"/v1/"
_SLASHES = re.compile(b"/+")
# Paths whose answers carry token usage; only these bodies are read on a deployment's own address.
USAGE_PATHS = frozenset({b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/v1/responses"})
# With these nothing is generated. Any other method may, at whatever path an engine has for it.
_READING = frozenset({b"GET", b"HEAD", b"OPTIONS", b"DELETE"})


class Route:
    """Where a request's head leads under one snapshot.

    `target` is None where the body names the deployment. `line` is the instance's head up to the request's id. Of the
    last request with this head: who called what, what the books call him, and his limits there; the same again needs
    no asking.
    """

    __slots__ = (
        "allowance", "answers_text", "called", "caller", "line", "may_generate", "parties", "path", "plain_path", "snapshot",
        "target", "tells_usage",
    )  # fmt: skip

    def __init__(self, snapshot: Snapshot, target: Target | None, path: bytes, head: RequestHead) -> None:
        self.snapshot = snapshot
        self.target = target
        self.path = path
        self.plain_path = plain_path(path)
        self.tells_usage = self.plain_path in USAGE_PATHS
        self.may_generate = self.tells_usage or head.method not in _READING
        # An embedding's length says nothing of tokens.
        self.answers_text = self.may_generate and self.plain_path != b"/v1/embeddings"
        self.line = request_line(head, path)
        self.caller: Caller | None = None
        self.called: Target | None = None
        self.parties = b""
        self.allowance: Allowance | None = None


def route_of(snapshot: Snapshot, head: RequestHead) -> Route:
    """The route of a request, remembered with its head for as long as the snapshot is the same."""
    path = head.target
    if path.startswith(b"http://"):
        path = b"/" + path.split(b"/", 3)[3] if path.count(b"/") > 2 else b"/"
    if path.startswith(OPENAI_PREFIX):
        route = Route(snapshot, None, path, head)
    else:
        target, path = resolve(snapshot, path)
        route = Route(snapshot, target, path, head)
    head.route = route
    return route


def resolve(snapshot: Snapshot, target: bytes) -> tuple[Target, bytes]:
    """(deployment, what its instance is asked, query included) for a path below a deployment's own address.

    Raises a 404 that says how addresses look.
    """
    end = target.find(b"/", target.find(b"/", 1) + 1)
    query = target.find(b"?")
    if end <= 0 or -1 < query < end:
        end = query if query >= 0 else len(target)
    prefix = target[:end]
    found = snapshot.by_prefix.get(prefix)
    if found is None:
        if prefix.count(b"/") < 2 or not prefix.startswith(b"/"):
            raise GatewayError(
                404, "not_found", "Nothing is here. Addresses are /v1/… with a model, or /{endpoint}/{deployment}/…."
            )
        raise not_found(prefix)
    rest = target[end:]
    return found, rest if rest.startswith(b"/") else b"/" + rest


def not_found(prefix: bytes) -> GatewayError:
    """What a caller is told of a deployment that isn't there, for him."""
    message = f"There is no deployment at {prefix.decode('latin-1')}, or it wants a key that may use it."
    return GatewayError(404, "deployment_not_found", message)


def plain_path(path: bytes) -> bytes:
    """A path as engines take it: without query, and in one spelling."""
    plain = path.partition(b"?")[0]
    if b"%" in plain or b"//" in plain or plain.endswith(b"/"):
        # Engines take other spellings of a path for the same; who uses one must not go unmetered.
        plain = _SLASHES.sub(b"/", unquote_to_bytes(plain)).rstrip(b"/")
    return plain
