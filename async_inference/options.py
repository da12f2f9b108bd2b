"""What a caller may choose for an asynchronous request. Pure: read from headers by the gateway, from a form by the console."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from common.addresses import IpNetwork, is_allowed

MAX_BODY_BYTES = 10 << 20
QUOTA_EXCEEDED = (
    "The quota of your organization is {most} asynchronous requests that wait or run, and it has as many. Try again when some have ended; "
    "an operator can raise the quota."
)
HIGHEST, LOWEST = 0, 2
MAX_QUEUE_S = 72 * 3600
MAX_RETRIES = 10
_KEY = re.compile(r"[!-~]{1,255}")
# The headers of the gateway that say it; on an ordinary address the first one alone makes a request asynchronous.
SWITCH = "x-slipway-async"
ON, OFF = frozenset({"true", "1", "yes", "on"}), frozenset({"", "false", "0", "no", "off"})
PRIORITY, QUEUE_S, WEBHOOK, RETRIES = (
    "x-slipway-async-priority", "x-slipway-async-max-queue-seconds", "x-slipway-async-webhook", "x-slipway-async-retries",
)  # fmt: skip
IDEMPOTENCY_KEY = "idempotency-key"


class InvalidOptionError(ValueError):
    """`field` is the option's name, the message says how to write it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Options:
    """`priority` 0 goes first. `queue_s` seconds it may wait. `retries` after a failure of the instance."""

    priority: int = 1
    queue_s: int = 600
    retries: int = 2
    webhook: str = ""
    idempotency_key: str = ""


def read(given: Mapping[str, str], *, webhook_networks: Sequence[IpNetwork]) -> Options:
    """From options by their headers' names; missing and empty ones have their default. Raises InvalidOptionError.

    `webhook_networks`: those inside that may be called, over http too.
    """
    switch = given.get(SWITCH, "").lower()
    if switch not in ON and switch not in OFF:
        raise InvalidOptionError(SWITCH, f"{SWITCH} is true or false.")
    defaults = Options()
    key = given.get(IDEMPOTENCY_KEY, "")
    if key and not _KEY.fullmatch(key):
        raise InvalidOptionError(
            IDEMPOTENCY_KEY, "An idempotency key has 1 to 255 printable ASCII characters, no spaces."
        )
    return Options(
        _whole(given, PRIORITY, defaults.priority, HIGHEST, LOWEST),
        _whole(given, QUEUE_S, defaults.queue_s, 1, MAX_QUEUE_S),
        _whole(given, RETRIES, defaults.retries, 0, MAX_RETRIES),
        _webhook(given.get(WEBHOOK, ""), webhook_networks),
        key,
    )


def _whole(given: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = given.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
        raise InvalidOptionError(name, f"{name} is a whole number from {least} to {most}.")
    return int(text)


def _webhook(url: str, networks: Sequence[IpNetwork]) -> str:
    """As far as its letters tell; where a name leads is checked when it is called."""
    if not url:
        return ""
    try:
        parts = urlsplit(url)
        sound = (
            parts.scheme in ({"https", "http"} if networks else {"https"}) and bool(parts.hostname) and parts.port != 0
        )
    except ValueError:
        sound = False
    if not sound or len(url) > 2000 or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidOptionError(
            WEBHOOK, "A webhook is an address that begins with https://, of at most 2,000 characters."
        )
    if parts.username is not None or parts.password is not None:
        raise InvalidOptionError(
            WEBHOOK, "A webhook's address holds no user name and no password: they would be shown."
        )
    try:
        address = ip_address(parts.hostname or "")
    except ValueError:
        return url
    if not is_allowed(address, networks, public=parts.scheme == "https"):
        raise InvalidOptionError(
            WEBHOOK, f"{address} is inside, or not to be called over http: no webhook would ever get there."
        )
    return url
