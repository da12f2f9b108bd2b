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

from common.addresses import IpNetwork, is_allowed

# Of their own: a name server that doesn't answer must not take the threads that everything else waits for.
_LOOKUPS = ThreadPoolExecutor(64, thread_name_prefix="look-ups")
_REFUSED = "{0} is not known, or an address inside this network, which may not be called."


class AddressRefusedError(httpcore.ConnectError):
    """The name leads to a place that must not be called."""


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
