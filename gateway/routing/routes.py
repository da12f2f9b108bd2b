"""Which deployment a request is for, as far as its path tells."""

import re
from urllib.parse import unquote_to_bytes

from gateway.access.callers import Caller
from gateway.errors import GatewayError
from gateway.http.framing import RequestHead
from gateway.routing.snapshot import Snapshot
from gateway.routing.target import Target

_SLASHES = re.compile(b"/+")


def path_of(head: RequestHead) -> bytes:
    """What is asked for, without the host that a proxy's client puts before it."""
    target = head.target
    if not target.startswith(b"http://"):
        return target
    return b"/" + target.split(b"/", 3)[3] if target.count(b"/") > 2 else b"/"


def check_access(snapshot: Snapshot, target: Target, caller: Caller) -> None:
    """Raises what is said of a deployment that isn't there where it isn't for this caller."""
    if caller.may_call(target):
        return
    if caller.is_console:
        raise GatewayError(401, "identity_invalid", "The console's token is for another deployment. Reload the page.")
    raise _unknown(snapshot, f"/{target.endpoint}/{target.name}", caller)


def _unknown(snapshot: Snapshot, address: str, caller: Caller) -> GatewayError:
    return snapshot.unknown(f"deployment at {address}", caller, "deployment_not_found")


def prefix_of(target: bytes) -> bytes:
    """A path's first two segments: of a deployment's own address."""
    end = target.find(b"/", target.find(b"/", 1) + 1)
    query = target.find(b"?")
    if end <= 0 or -1 < query < end:
        end = query if query >= 0 else len(target)
    return target[:end]


def resolve(snapshot: Snapshot, target: bytes, caller: Caller) -> tuple[Target, bytes]:
    """(deployment, what its instance is asked, query included) for a path below a deployment's own address.

    Raises an error that says how addresses look, or for a deployment that isn't there for this caller.
    """
    prefix = prefix_of(target)
    found = snapshot.by_prefix.get(prefix)
    if found is None:
        if prefix.count(b"/") < 2 or not prefix.startswith(b"/"):
            raise GatewayError(
                404, "not_found", "Nothing is here. Addresses are /v1/… with a model, or /{endpoint}/{deployment}/…."
            )
        raise _unknown(snapshot, prefix.decode("latin-1"), caller)
    check_access(snapshot, found, caller)
    rest = target[len(prefix) :]
    return found, rest if rest.startswith(b"/") else b"/" + rest


def plain_path(path: bytes) -> bytes:
    """A path as engines take it: without query, and in one spelling."""
    plain = path.partition(b"?")[0]
    if b"%" in plain or b"//" in plain or plain.endswith(b"/"):
        # Engines take other spellings of a path for the same; who uses one must not go unmetered.
        plain = _SLASHES.sub(b"/", unquote_to_bytes(plain)).rstrip(b"/")
    return plain
