"""How long a request takes to what open pages are sent, the sending apart, while a thousand others a second are served."""

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np

from benchmarks import peers
from benchmarks.installation import Installation, gateway, until_served
from benchmarks.load import background
from benchmarks.report import Row
from monitoring.live import Views
from monitoring.question import Question

RATE, REQUESTS, PAGES = 1_000, 40, 200
TARGET_S = 2.0


class Page:
    """What an open page is to be sent."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._message = ""

    def offer(self, message: str) -> None:
        self._message = message
        self._news.set()

    async def tokens(self) -> int:
        """The output tokens that the next message tells."""
        self._news.clear()
        await self._news.wait()
        return int(json.loads(self._message)["statistics"].get("output_tokens", 0))


def run() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        upstream = stack.enter_context(peers.nginx_upstream(Path(name)))
        installation = Installation()
        path = installation.serve("live", upstream)
        port, _ = stack.enter_context(gateway("live"))
        until_served(port, path)
        load = background(port, path, rate=RATE)
        try:
            waits = asyncio.run(_waits(installation, f"http://127.0.0.1:{port}{path}/v1/chat/completions"))
        finally:
            load.kill()
            load.wait()
    p50, worst = float(np.median(waits)), max(waits)
    beside = f"of {REQUESTS} among {RATE:,} requests/s, {PAGES} pages, sending apart"
    yield Row("A request is ready for an open page after, p50", f"{p50:.2f} s", beside, p50, TARGET_S)
    yield Row("A request is ready for an open page after, at most", f"{worst:.2f} s", beside, worst, TARGET_S)


async def _waits(installation: Installation, address: str) -> list[float]:
    """Seconds from each answer to the message with its tokens, which only these requests have."""
    views, pages = Views(), [Page() for _ in range(PAGES)]
    deployment = await asyncio.to_thread(installation.deployment, "live")
    for page in pages:
        views.join(deployment, Question(), page)
    waits = []
    async with httpx.AsyncClient(trust_env=False) as client:
        for _ in range(REQUESTS):
            before = await pages[-1].tokens()
            # At any moment of the gateway's second and of the reader's.
            await asyncio.sleep(float(np.random.default_rng().uniform(0, 1)))
            answer = await client.post(address, json={"model": "live", "messages": []})
            answer.raise_for_status()
            started = time.monotonic()
            while await pages[-1].tokens() == before:
                pass
            waits.append(time.monotonic() - started)
    for page in pages:
        views.leave(deployment, Question(), page)
    return waits
