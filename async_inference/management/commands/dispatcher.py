"""`manage.py dispatcher`: works the queue of asynchronous requests off and delivers webhooks."""

import asyncio
import signal
from typing import Any

import httpx
from django.conf import settings
from django.core.management.base import BaseCommand
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from async_inference.dispatcher import Dispatcher
from async_inference.sending import gateway_client
from async_inference.webhooks import Sender


def _pool(name: str, most: int) -> AsyncConnectionPool:
    return AsyncConnectionPool(
        settings.DATABASE_URL,
        kwargs={"autocommit": True, "row_factory": dict_row, "connect_timeout": 5},
        min_size=1, max_size=most, timeout=5, reconnect_timeout=10, open=False, check=AsyncConnectionPool.check_connection, name=name,
    )  # fmt: skip


class Command(BaseCommand):
    help = "Sends queued requests through the gateway, stores their results and delivers webhooks."

    def handle(self, *args: Any, **options: Any) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        pool = _pool("dispatcher", 8)
        # Leases never wait behind results.
        leases = _pool("leases", 1)
        await pool.open(wait=False)
        await leases.open(wait=False)
        # None are kept: with each request httpx looks at all connections for each idle one, which took three times the rest.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        # No time of our own for the answer: the gateway's limits hold.
        timeout = httpx.Timeout(None, connect=5)
        async with gateway_client(settings.GATEWAY_URL, limits=limits, timeout=timeout) as client:
            sender = Sender(pool, settings.INSTALLATION_KEYS, settings.WEBHOOK_NETWORKS, settings.GATEWAY_URL)
            delivering = asyncio.create_task(sender.run())
            await Dispatcher(pool, client, settings.INSTALLATION_KEYS, leases).run(stopped)
            delivering.cancel()
            await asyncio.gather(delivering, return_exceptions=True)
            await sender.close()
        await pool.close(timeout=2)
        await leases.close(timeout=2)
