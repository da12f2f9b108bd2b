"""Slipway's own keys and tokens in a request's head: found in whatever header they come, and never handed on."""

import base64
import binascii
import hashlib
import re
from urllib.parse import unquote_to_bytes

from gateway.errors import bad_request

KEY, TOKEN = b"slk_", b"slt_"
# Of either kind, wherever it stands in a value.
_OURS = re.compile(rb"(?<![A-Za-z0-9])sl[kt]_[A-Za-z0-9_-]*")
# In the place of a key's digest: an API token was sent, which calls nothing.
TOKEN_SENT = b"token"


class Credentials:
    """What is found in one head. `digest` of the key that was sent; TOKEN_SENT, or empty without one."""

    __slots__ = ("digest",)

    def __init__(self) -> None:
        self.digest = b""

    def accept(self, value: bytes) -> bool:
        """Read a header that is there for credentials; whether it held any of ours. Raises a 400 for two different keys."""
        found = _OURS.findall(value) or _OURS.findall(_basic(value))
        for secret in found:
            if secret.startswith(KEY):
                digest = hashlib.sha256(secret).digest()
                if self.digest not in (b"", TOKEN_SENT, digest):
                    raise bad_request("Two different API keys were sent. Send one.", "two_keys")
                self.digest = digest
            elif not self.digest:
                self.digest = TOKEN_SENT
        return bool(found)

    def of_subprotocols(self, value: bytes) -> bytes:
        """A websocket's subprotocols without those that hold a key: browsers can send none in a header."""
        kept = []
        for item in value.split(b","):
            if not self.accept(item):
                kept.append(item.strip())
        return b", ".join(kept)


def holds_one(value: bytes) -> bool:
    return (KEY in value or TOKEN in value) and _OURS.search(value) is not None


def check_address(target: bytes) -> None:
    """Raises a 400 for a key in the address: logs and proxies keep it, and the instance would get it."""
    if holds_one(target) or (b"%" in target and holds_one(unquote_to_bytes(target))):
        message = (
            "The URL contains an API key, and logs keep URLs. Send it as “Authorization: Bearer …”, and rotate the key."
        )
        raise bad_request(message, "key_in_address")


def _basic(value: bytes) -> bytes:
    """What `Basic` credentials hold; empty for anything else."""
    scheme, _, encoded = value.partition(b" ")
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(encoded.strip(), validate=True)
    except binascii.Error:
        return b""
