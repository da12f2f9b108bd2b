"""Which addresses may be called for users: public ones, and those inside that operators vouch for."""

import ipaddress
from collections.abc import Sequence

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
# Addresses that stand for IPv4 ones behind a translator: what they lead to must be looked at. In the second network that
# depends on the translator.
_TRANSLATED, _UNREADABLE = ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48")
# Public by number, yet metadata services: of Oracle's and of Azure's clouds.
_METADATA = (ipaddress.IPv4Network("192.0.0.0/24"), ipaddress.IPv4Network("168.63.129.16/32"))


def is_allowed(address: IpAddress, allowed: Sequence[IpNetwork], *, public: bool = True) -> bool:
    """Whether it is a public address (unless those are excluded), or one in a network that the operator allows."""
    real = _inner(address)
    if any(item in network for item in {address, real} for network in allowed if item.version == network.version):
        return True
    if isinstance(real, ipaddress.IPv4Address) and any(real in network for network in _METADATA):
        return False
    if isinstance(real, ipaddress.IPv6Address) and (real.is_site_local or real in _UNREADABLE):
        return False
    return public and real.is_global and not (real.is_multicast or real.is_reserved or real.is_unspecified)


def _inner(address: IpAddress) -> IpAddress:
    """The IPv4 address that an IPv6 one carries."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    carried = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    if carried is None and address in _TRANSLATED:
        carried = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return carried or address
