"""Which pages of other sites may call and read answers (CORS): those whose origin an endpoint names; none by default.

What an instance says of that itself is dropped: who may read here is decided here.
"""

from collections.abc import Collection

from gateway.errors import GatewayError
from gateway.http.framing import Headers, RequestHead
from gateway.routing.routes import path_of
from gateway.routing.snapshot import Snapshot
from gateway.routing.target import Target

ANY = "*"
# How long a browser need not ask again; most keep it for two hours at most.
MAX_AGE_S = 7200
_EXPOSED = (
    b"retry-after, x-request-id, x-slipway-served-by, x-slipway-queue-ms, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
    b"x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)


def lines(snapshot: Snapshot, head: RequestHead, target: Target | None) -> Headers:
    """What an answer says to the browser of a page that may read it. Where no deployment is known yet, by the path."""
    if not head.origin:
        return []
    origins = target.origins if target is not None else _of_path(snapshot, path_of(head))
    allowed = _allowed(origins, head.origin)
    if not allowed:
        # Caches must not give it to a page that may read it, nor the other way round.
        return [(b"vary", b"origin")] if origins else []
    told = [(b"access-control-allow-origin", allowed), (b"access-control-expose-headers", _EXPOSED)]
    return told if allowed == ANY.encode() else [*told, (b"vary", b"origin")]


def page(snapshot: Snapshot, head: RequestHead) -> bytes:
    """The origin of a page that may read what is said where no deployment is known; empty where no page asks, or none may."""
    return head.origin if head.origin and _allowed(_of_path(snapshot, path_of(head)), head.origin) else b""


def allows(target: Target, origin: bytes) -> bool:
    return bool(_allowed(target.origins, origin))


def preflight(snapshot: Snapshot, head: RequestHead) -> Headers:
    """The answer to a browser that asks before it sends a request; it holds no key, so nobody is asked for one."""
    assert head.preflight is not None  # noqa: S101
    method, names = head.preflight
    told = lines(snapshot, head, None)
    if not told or told[0][0] == b"vary":
        message = "Pages from this origin may not call this address. An admin can allow the origin in the endpoint's settings (CORS)."
        raise GatewayError(403, "origin_not_allowed", message)
    told += [(b"access-control-allow-methods", method), (b"access-control-max-age", b"%d" % MAX_AGE_S)]
    return [*told, (b"access-control-allow-headers", names)] if names else told


def _of_path(snapshot: Snapshot, path: bytes) -> Collection[str]:
    """Those of the endpoint in the path; of all endpoints where a model is named that can't be seen yet."""
    first = path[1:].partition(b"/")[0].decode("latin-1")
    own = snapshot.origins_by_endpoint.get(first)
    return snapshot.origins if own is None else own


def _allowed(origins: Collection[str], origin: bytes) -> bytes:
    if ANY in origins:
        return ANY.encode()
    return origin if origin.decode("latin-1") in origins else b""
