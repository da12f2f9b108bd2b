"""The limits' shared counters in Valkey: one sorted set per deployment, its scores the moments when buckets are full again.

All gateways count there by Valkey's clock. Asking is one round trip on one connection, however many requests wait.
"""

import asyncio
import contextlib
import hashlib
import logging
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Protocol, cast

import hiredis
from redis.connection import SSLConnection, UnixDomainSocketConnection, parse_url

from common.limit_counters import MINUTE_US, key_of

log = logging.getLogger(__name__)

# Within this an answer comes, or the counters count as away.
ANSWER_S = 0.5
RETRY_S = 0.5
CONNECT_S = 1.0
# Takes from all buckets or from none. In ARGV five values a bucket: member, microseconds per unit, cost, wanted, debit.
# Answers which bucket refused (0: none) and for how many microseconds; then for each what was granted and when it is full.
_SCRIPT = f"""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local count = #ARGV / 5
local members = {{}}
for i = 1, count do members[i] = ARGV[5 * i - 4] end
local known = redis.call('ZMSCORE', KEYS[1], unpack(members))
local full, refused, wait = {{}}, 0, 0
for i = 1, count do
  local interval, cost, debit = tonumber(ARGV[5 * i - 3]), tonumber(ARGV[5 * i - 2]), tonumber(ARGV[5 * i])
  full[i] = math.max(math.max(tonumber(known[i] or '0') or 0, now) + debit * interval, now)
  local over = full[i] + cost * interval - now - {MINUTE_US}
  if cost > 0 and over > 0.5 and over > wait then refused, wait = i, over end
end
local reply = {{refused, math.ceil(wait)}}
local changes = {{}}
local last = now
for i = 1, count do
  local interval, cost, wanted = tonumber(ARGV[5 * i - 3]), tonumber(ARGV[5 * i - 2]), tonumber(ARGV[5 * i - 1])
  local granted = 0
  if refused == 0 then
    granted = math.max(cost, math.min(wanted, math.floor((now + {MINUTE_US} - full[i]) / interval)))
    full[i] = full[i] + granted * interval
  end
  changes[#changes + 1] = string.format('%.0f', full[i])
  changes[#changes + 1] = members[i]
  last = math.max(last, full[i])
  reply[#reply + 1] = granted
  reply[#reply + 1] = math.ceil(full[i] - now)
end
redis.call('ZADD', KEYS[1], unpack(changes))
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil((last - now) / 1000) + 1000)
return reply
"""
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest().encode()

Ask = tuple[bytes, float, int, int, int]
# Gets [refused, wait, granted, full in, granted, full in, …] as above; None when the counters are away.
Answer = Callable[[list[int] | None], None]


class SharedCounters(Protocol):
    """Who counts for all gateways."""

    @property
    def is_away(self) -> bool: ...
    def ask(self, deployment_id: int, asks: Sequence[Ask], answer: Answer) -> None: ...


class Counters(asyncio.Protocol):
    """One connection, made again whenever it is lost. While there is none, `ask` answers None at once."""

    def __init__(self, url: str) -> None:
        self._place: dict[str, Any] = dict(parse_url(url))
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._pending: deque[tuple[float, Answer | None]] = deque()
        self._is_ready = self._stopped = False
        self._ready_or_lost = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def is_away(self) -> bool:
        return not self._is_ready

    async def start(self) -> None:
        """Connect; returns once connected, or when the first try has failed and others go on behind."""
        try:
            await self._connect()
        except (OSError, TimeoutError) as error:
            log.warning("limits: Valkey is away, each gateway keeps to its share: %r", error)
            self._connect_again()

    def stop(self) -> None:
        self._stopped = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is not None:
            self._transport.abort()

    def ask(self, deployment_id: int, asks: Sequence[Ask], answer: Answer) -> None:
        """Take units for one request; `asks` hold member, seconds per unit, cost, wanted, debit."""
        transport = self._transport
        if not self._is_ready or transport is None:
            answer(None)
            return
        words: list[bytes] = [b"EVALSHA", _SHA, b"1", key_of(deployment_id).encode()]
        for member, interval, cost, wanted, debit in asks:
            words += (member, b"%.6f" % (interval * 1e6), b"%d" % cost, b"%d" % wanted, b"%d" % debit)
        self._send(words, answer)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._reader = hiredis.Reader()
        self._is_ready = False
        password, user = self._place.get("password"), self._place.get("username")
        if password:
            words = [b"AUTH", *([user.encode()] if user else []), password.encode()]
            self._send(words, None)
        if self._place.get("db"):
            self._send([b"SELECT", b"%d" % self._place["db"]], None)
        self._send([b"SCRIPT", b"LOAD", _SCRIPT.encode()], self._loaded)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while self._pending:
            value = self._reader.gets()
            if value is False:
                return
            _, answer = self._pending.popleft()
            if isinstance(value, hiredis.ReplyError):
                # Flushed scripts, a wrong password, a server that is loading: all mend or last with a new connection.
                log.warning("limits: Valkey answers %s", value)
                self._drop()
                if answer is not None and answer != self._loaded:
                    self._tell(answer, None)
                return
            if answer is not None:
                self._tell(answer, cast(list[int], value))

    @staticmethod
    def _tell(answer: Answer, reply: list[int] | None) -> None:
        """Whatever goes wrong with one request: the others' answers must come."""
        try:
            answer(reply)
        except Exception:
            log.exception("limits: an answer was not taken")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._is_ready:
            log.warning(
                "limits: Valkey is away, each gateway keeps to its share: %s", exc or "it closed the connection"
            )
        self._is_ready = False
        self._ready_or_lost.set()
        if not self._stopped:
            self._connect_again()
        waiting, self._pending = self._pending, deque()
        for _, answer in waiting:
            if answer is not None and answer != self._loaded:
                self._tell(answer, None)

    def _loaded(self, sha: object) -> None:
        self._is_ready = True
        self._ready_or_lost.set()
        log.info("limits: Valkey counts for all gateways")

    def _send(self, words: list[bytes], answer: Answer | Callable[[object], None] | None) -> None:
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            parts += (b"$%d\r\n" % len(word), word, b"\r\n")
        self._pending.append((monotonic() + ANSWER_S, answer))
        if self._watching is None:
            self._watching = self._loop.call_later(ANSWER_S / 4, self._watch)
        assert self._transport is not None  # noqa: S101
        self._transport.write(b"".join(parts))

    def _watch(self) -> None:
        """While anything is asked: one that hangs must not hold requests up."""
        self._watching = None
        if not self._pending:
            return
        if self._pending[0][0] < monotonic():
            log.warning("limits: Valkey does not answer")
            self._drop()
            return
        self._watching = self._loop.call_later(ANSWER_S / 4, self._watch)

    def _drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _connect_again(self) -> None:
        async def keep_trying() -> None:
            while not self._is_ready:
                await asyncio.sleep(RETRY_S)
                with contextlib.suppress(OSError, TimeoutError):
                    await self._connect()
            self._connecting = None

        if self._connecting is None:
            self._connecting = self._loop.create_task(keep_trying())

    async def _connect(self) -> None:
        """Raises OSError or TimeoutError, and leaves no half-made connection behind."""
        try:
            await self._open()
        finally:
            if not self._is_ready:
                self._drop()
        if not self._is_ready:
            raise ConnectionError("Valkey closed the connection")

    async def _open(self) -> None:
        place = self._place
        self._ready_or_lost.clear()
        async with asyncio.timeout(CONNECT_S):
            if place.get("connection_class") is UnixDomainSocketConnection:
                await self._loop.create_unix_connection(lambda: self, place["path"])
            else:
                is_tls = place.get("connection_class") is SSLConnection
                context = ssl.create_default_context(cafile=place.get("ssl_ca_certs")) if is_tls else None
                host, port = place.get("host", "localhost"), int(place.get("port", 6379))
                await self._loop.create_connection(lambda: self, host, port, ssl=context)
            await self._ready_or_lost.wait()
