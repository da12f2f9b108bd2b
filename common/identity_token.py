"""A 60-second token that says "this request comes from the console, as this user", or "from the queue, with this key".

The web process and the dispatcher sign it, the gateway checks it; all know the installation's keys. It is bound to one
deployment, so that a leaked token opens nothing else.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass

LIFETIME_S = 60
HEADER = b"x-slipway-identity"


@dataclass(frozen=True)
class Identity:
    user_id: int
    organization_id: int
    deployment_id: int
    source: str
    # Of the API key with which it was queued, hexadecimal; empty for one of the console's own.
    key_digest: str = ""


def mint(identity: Identity, *, keys: Sequence[str], now: float) -> str:
    """Sign `identity` with the first of `keys`, valid for LIFETIME_S seconds from `now` (seconds since the epoch)."""
    claims = [*astuple(identity), now + LIFETIME_S]
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
    return f"{payload.decode()}.{_signature(payload, keys[0])}"


def read(token: str, *, keys: Sequence[str], now: float) -> Identity | None:
    """The identity in `token`, or None when it is forged, damaged or expired."""
    payload, _, signature = token.partition(".")
    if not token.isascii() or not any(
        hmac.compare_digest(signature, _signature(payload.encode(), key)) for key in keys
    ):
        return None
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    *identity, expires = claims
    return Identity(*identity) if expires >= now else None


def _signature(payload: bytes, key: str) -> str:
    return hmac.new(key.encode() + b"identity", payload, hashlib.sha256).hexdigest()
