"""Starts a gateway: `python -m gateway --port 8080`."""

import argparse
import asyncio
import fcntl
import gc
import logging
import os
import signal
import socket
import time
from pathlib import Path
from typing import IO

import django
import uvloop

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashboard.settings")
django.setup()

from django.conf import settings  # noqa: E402

from common.file_limit import raise_file_limit  # noqa: E402
from gateway.access.key_ring import KeyRing  # noqa: E402
from gateway.books.recorder import Recorder  # noqa: E402
from gateway.core import Gateway, settle_earlier_epochs  # noqa: E402
from gateway.http.bounds import Bounds  # noqa: E402
from gateway.limits.counters import Counters  # noqa: E402
from gateway.listener import accept  # noqa: E402
from gateway.queue.requests import AsyncRequests, QueueBounds  # noqa: E402
from gateway.routing.directory import Directory  # noqa: E402
from gateway.routing.snapshot import Snapshot  # noqa: E402

log = logging.getLogger("gateway")


async def serve(host: str, port: int, name: str) -> None:
    loop = asyncio.get_running_loop()
    folder = settings.HOME.gateway / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = await _own(folder)
    epoch = time.time_ns() // 1_000_000
    bounds = Bounds.of(raise_file_limit(), settings.GATEWAY_BODY_BYTES)
    gateway = Gateway(
        folder,
        settings.INSTALLATION_KEYS,
        name=name,
        epoch=epoch,
        bounds=bounds,
        trusted_proxies=settings.TRUSTED_PROXIES,
    )
    recorder = Recorder(folder, name, epoch, _Marks(gateway), address=f"{host}:{port}")
    settle_earlier_epochs(folder, epoch, recorder)
    recorder.start()

    def changed(snapshot: Snapshot) -> None:
        loop.call_soon_threadsafe(gateway.set_snapshot, snapshot)

    ring = KeyRing(folder / "keys")
    ring.load()
    gateway.keys = ring.callers

    def counted(gateways: int) -> None:
        gateway.limiter.gateways = gateways

    counters = Counters(settings.REDIS_URL)
    gateway.limiter.use(counters)
    await counters.start()
    directory = Directory(folder, ring, changed, recorder.acknowledge, counted)
    directory.start()
    gateway.queue = queue = AsyncRequests(
        settings.DATABASE_URL,
        settings.INSTALLATION_KEYS,
        QueueBounds(settings.ASYNC_QUEUE_REQUESTS, settings.ASYNC_QUEUE_BYTES, settings.WEBHOOK_NETWORKS),
    )
    await queue.open()
    # Several gateways may share a port on one machine: the kernel spreads connections over them.
    server = await loop.create_server(
        lambda: accept(gateway), host, port, backlog=4096, reuse_address=True, reuse_port=True
    )
    log.info("gateway %s listens on %s:%s", name, host, port)
    _spare_the_collector()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    ticking = loop.create_task(gateway.tick(recorder))
    await stopped.wait()
    server.close()
    await gateway.drain()
    # Not cancelled: it may be handing records over.
    await ticking
    gateway.hand_over(recorder, close=True)
    directory.stop()
    counters.stop()
    await queue.close()
    # Off the loop: it notes its marks here.
    await loop.run_in_executor(None, recorder.stop, 5)
    gateway.journal.close()
    lock.close()


class _Marks:
    """Reaches the journal from the recorder's thread."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def folded(self, position: int) -> None:
        async def note() -> None:
            self._gateway.journal.folded(position)

        asyncio.run_coroutine_threadsafe(note(), self._gateway.loop).result(timeout=30)

    def forget_before(self, position: int) -> None:
        self._gateway.loop.call_soon_threadsafe(self._gateway.journal.forget_before, position)


def _spare_the_collector() -> None:
    """What is loaded by now stays; walking through it again and again would stop all requests for tens of milliseconds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _own(folder: Path) -> IO[str]:
    """Wait until no other process writes the books in `folder`: the one before us may still be draining."""
    lock = (folder / "lock").open("w")
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            log.warning("another gateway still uses %s; waiting", folder)
            await asyncio.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Slipway's gateway: routes, streams and meters inference requests.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--name", default=socket.gethostname(), help="unique among gateways that share a database")
    options = parser.parse_args()
    uvloop.run(serve(options.host, options.port, options.name.replace("/", "-")))


if __name__ == "__main__":
    main()
