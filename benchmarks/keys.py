"""What keys cost a gateway: its start and memory with 100,000 of them, a request with one, and how fast a revoked one is refused."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np

from benchmarks import peers
from benchmarks.cpu import memory_of
from benchmarks.gateway_cost import ROUNDS, paired_costs
from benchmarks.installation import Installation, bearer, gateway, until_served
from benchmarks.load import background, header_script
from benchmarks.report import Row

KEYS, ORGANIZATIONS = 100_000, 1_000
REVOCATIONS, GATEWAYS, RATE = 40, 3, 1_000


def run() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        upstream = stack.enter_context(peers.nginx_upstream(folder))
        nginx = stack.enter_context(peers.nginx_proxy(folder, upstream))
        installation = Installation()
        path = installation.serve("chat", upstream)
        installation.want_keys("chat")
        with gateway("few") as few:
            until_served(few[0], path, bearer(installation.new_key()[1]))
            without = memory_of(few[1])
        installation.fill_keys(KEYS, ORGANIZATIONS)
        _, secret = installation.new_key()
        for what in ("its first start", "a start with them on disk"):
            started = time.monotonic()
            with gateway("many") as many:
                until_served(many[0], path, bearer(secret))
                seconds = time.monotonic() - started
                each = (memory_of(many[1]) - without) / KEYS
            yield Row(f"{KEYS:,} keys, {what}", f"{seconds:.2f} s", f"{each:.0f} bytes of memory a key", seconds / 3, 1)
        gateways = [stack.enter_context(gateway(f"gw-{number}")) for number in range(GATEWAYS)]
        for port, _ in gateways:
            until_served(port, path, bearer(secret))
        script = header_script(folder, bearer(secret))
        yield paired_costs("CPU per request with a key, of 100,000", gateways[0], nginx, path, script, ROUNDS, 1.5)
        yield from _revocations(installation, [port for port, _ in gateways], path, secret)


def _revocations(installation: Installation, ports: list[int], path: str, secret: str) -> Iterator[Row]:
    """From the click to the first refusal on the slowest gateway, while all of them serve."""
    load = [background(port, path, rate=RATE / GATEWAYS, headers=bearer(secret)) for port in ports]
    try:
        waits = [max(_until_refused(installation, ports, path)) for _ in range(REVOCATIONS)]
    finally:
        for process in load:
            process.kill()
            process.wait()
    p50, p99 = (float(np.percentile(waits, share)) for share in (50, 99))
    where = f"slowest of {len(ports)} gateways at {RATE:,} requests/s in all, {KEYS:,} keys"
    yield Row("A revoked key is refused after, p50", f"{p50 * 1000:.0f} ms", where, p50, 1)
    yield Row("A revoked key is refused after, p99", f"{p99 * 1000:.0f} ms", where, p99, 1)


def _until_refused(installation: Installation, ports: list[int], path: str) -> list[float]:
    key, secret = installation.new_key()
    for port in ports:
        until_served(port, path, bearer(secret))
    started = time.monotonic()
    installation.revoke(key)
    return asyncio.run(_refusals(ports, path, secret, started))


async def _refusals(ports: list[int], path: str, secret: str, started: float) -> list[float]:
    async def one(port: int) -> float:
        async with httpx.AsyncClient(headers=bearer(secret), trust_env=False) as client:
            while (await client.get(f"http://127.0.0.1:{port}{path}")).status_code != 401:
                await asyncio.sleep(0.002)
        return time.monotonic() - started

    return await asyncio.gather(*[one(port) for port in ports])
