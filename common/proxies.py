"""Who is calling, where proxies that are trusted stand in between: one rule for console and gateway.

A proxy appends the address that it saw to `X-Forwarded-For`, so the list is read from its end: the first address that isn't a
trusted proxy's is the caller's, and whatever stands before it was invented by whoever sent it. From any other peer no such
header counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

Networks = Sequence[IPv4Network | IPv6Network]
# Longer lists are no chain of proxies.
_LONGEST_CHAIN = 20


@dataclass(frozen=True)
class Forwarded:
    """What the headers of a request say that its last proxy saw; an empty text where they don't say."""

    chain: str = ""
    scheme: str = ""
    host: str = ""


@dataclass(frozen=True)
class Origin:
    """Where a request came from: the caller's address, and how the caller addressed us. Empty: as the connection says."""

    address: str
    scheme: str = ""
    host: str = ""


def is_trusted(peer: str, trusted: Networks) -> bool:
    try:
        address = ip_address(peer)
    except ValueError:
        # A Unix socket has no address; whoever can open it is on this machine.
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in trusted)


def origin(peer: str, said: Forwarded, trusted: Networks) -> Origin:
    """The caller behind `peer`, which is who opened the connection."""
    if not trusted or not is_trusted(peer, trusted):
        return Origin(peer)
    caller = peer
    for item in reversed(said.chain.split(",")[-_LONGEST_CHAIN:]):
        address = _plain_address(item.strip())
        if not address:
            break
        caller = address
        if not is_trusted(address, trusted):
            break
    scheme = said.scheme.split(",")[-1].strip().lower()
    host = said.host.split(",")[-1].strip()
    return Origin(caller, scheme if scheme in ("http", "https") else "", host)


def _plain_address(text: str) -> str:
    """Without port and brackets; empty for what is no address."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ip_address(text))
    except ValueError:
        return ""
