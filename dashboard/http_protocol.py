"""uvicorn's connection with bounds: a head has a size and a time to come in, a body has a time between its parts.

uvicorn keeps any number of header lines, and waits for the end of a head for as long as somebody takes to send it.
"""

import asyncio
from collections import Counter
from typing import Any, ClassVar

from django.conf import settings
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from common.byte_budget import network_of
from common.proxies import is_trusted

MOST_HEAD_BYTES = 64 << 10
HEAD_S, BODY_IDLE_S, BODY_S = 15.0, 60.0, 300.0
MOST_CONNECTIONS_EACH = 512


class BoundedHttpProtocol(HttpToolsProtocol):
    _by_address: ClassVar[Counter[str]] = Counter()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = self._unheard_bytes = 0
        self._in_body = False
        self._body_since = 0.0
        # To which address the connection counts; to none where a proxy opens them for everybody.
        self._address = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(HEAD_S)
        peer = self.client[0] if self.client else ""
        if not peer or is_trusted(peer, settings.TRUSTED_PROXIES):
            return
        self._address = network_of(peer)
        self._by_address[self._address] += 1
        if self._by_address[self._address] > MOST_CONNECTIONS_EACH:
            self.send_400_response("Your address has too many connections to this console.")

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_counting()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        # From here on it is another protocol's; sockets are bounded by who is signed in.
        self._stop_waiting()
        self._stop_counting()
        super().handle_websocket_upgrade()

    def _stop_counting(self) -> None:
        if self._address:
            self._by_address[self._address] -= 1
            if not self._by_address[self._address]:
                del self._by_address[self._address]
            self._address = ""

    def data_received(self, data: bytes) -> None:
        if self._in_body:
            left = self._body_since + BODY_S - self.loop.time()
            self._wait(max(0.0, min(BODY_IDLE_S, left)))
            self._unheard_bytes += len(data)
        else:
            if self._timer is None:
                # The first part of the next head on this connection.
                self._wait(HEAD_S)
            self._head_bytes += len(data)
        super().data_received(data)
        # Of a body nothing is heard for so long only while a line of its framing doesn't end.
        too_long = self._head_bytes > MOST_HEAD_BYTES or self._unheard_bytes > MOST_HEAD_BYTES + len(data)
        if too_long and not self.transport.is_closing():
            self._stop_waiting()
            self.send_400_response("The head of the request is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        # Behind a body's chunks they are trailers, which nobody reads: any number of them would be kept.
        if not self._in_body:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._unheard_bytes = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self._head_bytes, self._unheard_bytes, self._in_body, self._body_since = 0, 0, True, self.loop.time()
        self._wait(BODY_IDLE_S)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        self._stop_waiting()
        super().on_message_complete()

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._in_body and self.flow.read_paused:
            # It is we who don't read.
            self._wait(BODY_IDLE_S)
        else:
            self.transport.close()
