"""Calls to addresses that users choose: never to places inside, whatever a name resolves to and when.

The address that is checked is the one that is connected to. Checking a name first and connecting to it then would let
its owner answer the two questions differently (DNS rebinding). TLS still goes by the name.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore
import httpx

# Of their own: a name server that doesn't answer must not take the threads that everything else waits for.
_LOOKUPS = ThreadPoolExecutor(64, thread_name_prefix="look-ups")
_REFUSED = "{0} is not known, or an address inside this network, which may not be called."
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
# Addresses that stand for IPv4 ones behind a translator: what they lead to must be looked at. In the second network that
# depends on the translator.
_TRANSLATED, _UNREADABLE = ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48")


class AddressRefusedError(httpcore.ConnectError):
    """The name leads to a place that must not be called."""


def is_allowed(address: IpAddress, allowed: Sequence[IpNetwork], *, public: bool = True) -> bool:
    """Whether it is a public address (unless those are excluded), or one in a network that the operator allows."""
    real = _inner(address)
    if any(item in network for item in {address, real} for network in allowed if item.version == network.version):
        return True
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


def _look_up(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, allowed: Sequence[IpNetwork], *, public: bool) -> None:
        self._allowed, self._public = allowed, public
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's own signature)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                found = await asyncio.get_running_loop().run_in_executor(_LOOKUPS, _look_up, host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"The name {host} could not be looked up in time.") from None
        except (OSError, UnicodeError):
            # The same words: nobody is to learn which names there are inside.
            raise AddressRefusedError(_REFUSED.format(host)) from None
        addresses = [ipaddress.ip_address(str(item[4][0]).partition("%")[0]) for item in found]
        # One inside is enough to refuse: which one is taken must not depend on luck.
        if not addresses or not all(is_allowed(address, self._allowed, public=self._public) for address in addresses):
            raise AddressRefusedError(
                _REFUSED.format(host) if self._public else f"{host} is called over https:// only."
            )
        return await self._inner.connect_tcp(str(addresses[0]), port, timeout, local_address, socket_options)

    async def connect_unix_socket(self, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        raise AddressRefusedError("Sockets of this machine can't be called.")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


def no_cookies() -> CookieJar:
    """A jar that takes none: a client that serves many people must not carry one's cookies to another's address."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


async def forget_location(response: httpx.Response) -> None:
    """For a client that follows no redirects: httpx reads the address all the same, and stumbles over odd ones."""
    response.headers.pop("location", None)


class GuardedTransport(httpx.AsyncHTTPTransport):
    """For httpx. `allowed` are networks inside that may be called all the same; without `public` only those may."""

    def __init__(
        self, allowed: Sequence[IpNetwork] = (), *, public: bool = True, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(verify=tls if tls is not None else True, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or httpx.create_ssl_context(trust_env=False),
            network_backend=_GuardedBackend(allowed, public=public),
            max_connections=100,
            max_keepalive_connections=0,
        )
