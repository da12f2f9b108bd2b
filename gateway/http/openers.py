"""Threads that open compressed bodies, so that the loop never waits for one."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from gateway.errors import GatewayError

P = ParamSpec("P")
T = TypeVar("T")
_THREADS = 2
# More wait for nobody: whoever sends them tries again.
_MOST_AT_ONCE = 64


class Openers:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._threads = ThreadPoolExecutor(_THREADS, "opener")
        self._running = 0

    def run(self, function: Callable[P, T], *values: P.args, **named: P.kwargs) -> "asyncio.Future[T]":
        """Call it in a thread. Raises a 503 where too many wait already."""
        if self._running >= _MOST_AT_ONCE:
            message = "Too many compressed bodies are waiting. Try again in a moment, or send it uncompressed."
            raise GatewayError(503, "openers_busy", message, 2)
        self._running += 1
        opening = self._loop.run_in_executor(self._threads, lambda: function(*values, **named))
        opening.add_done_callback(self._ended)
        return opening

    def _ended(self, opening: "asyncio.Future[T]") -> None:
        self._running -= 1
