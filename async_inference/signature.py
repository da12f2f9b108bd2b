"""How webhooks are signed: the Standard Webhooks scheme (standardwebhooks.com). Pure.

The secret of a user is made from the installation's key and the number of times that the user has changed it, so none is stored.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"


def secret_of(user_id: int, generation: int, key: str) -> str:
    """As receivers enter it: `whsec_` and 32 bytes in base64."""
    digest = hmac.new(key.encode() + b"webhook", f"{user_id}.{generation}".encode(), hashlib.sha256)
    return "whsec_" + base64.b64encode(digest.digest()).decode()


def headers(message_id: str, body: bytes, secrets: Sequence[str], now: int) -> dict[str, str]:
    """What goes with `body`, signed with each of `secrets`: a receiver takes it when one of the signatures is right.

    `now` in seconds since the epoch, which receivers compare with their clocks.
    """
    content = f"{message_id}.{now}.".encode() + body
    return {ID: message_id, TIMESTAMP: str(now), SIGNATURE: " ".join(_sign(content, secret) for secret in secrets)}


def _sign(content: bytes, secret: str) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
