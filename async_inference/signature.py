"""How webhooks are signed: the Standard Webhooks scheme (standardwebhooks.com). Pure.

The secret of a user is made from the installation's own and the number of times that he has changed it, so none is stored.
"""

import base64
import hashlib
import hmac

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"


def secret_of(user_id: int, generation: int, installation_secret: str) -> str:
    """As receivers enter it: `whsec_` and 32 bytes in base64."""
    digest = hmac.new(installation_secret.encode() + b"webhook", f"{user_id}.{generation}".encode(), hashlib.sha256)
    return "whsec_" + base64.b64encode(digest.digest()).decode()


def headers(message_id: str, body: bytes, secret: str, now: int) -> dict[str, str]:
    """What goes with `body`; `now` in seconds since the epoch, which receivers compare with their clocks."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = hmac.new(key, f"{message_id}.{now}.".encode() + body, hashlib.sha256).digest()
    return {ID: message_id, TIMESTAMP: str(now), SIGNATURE: "v1," + base64.b64encode(signed).decode()}
