"""Which deployment a request is for, as far as its path tells."""

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from gateway.errors import GatewayError
from gateway.routing.snapshot import Snapshot
from gateway.routing.target import Target

if TYPE_CHECKING:
    pass

OPENAI_PREFIX = b"/v1/"
_SLASHES = re.compile(b"/+")


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
