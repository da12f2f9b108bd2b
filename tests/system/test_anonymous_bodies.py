"""Bodies that anybody may send take neither memory nor disk beyond what is said, however many come."""

import asyncio
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.system.conftest import Product
from tests.system.test_main_job import answers, becomes
from tests.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
CALLERS, EACH = 400, 4 << 20
# What docs/gateway.md says: the budget of bodies, and as much as the process and its connections take beside them.
MOST_BYTES = (256 << 20) + (200 << 20)


async def _push(host: str, port: int, head: bytes, *, until: float) -> str:
    """Send a body that never ends, and say how the server ends it."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return "refused"
    try:
        writer.write(head)
        sent = 0
        while sent < EACH and time.monotonic() < until:
            writer.write(b"x" * 65536)
            sent += 65536
            await asyncio.wait_for(writer.drain(), 10)
        answer = await asyncio.wait_for(reader.read(12), max(1.0, until - time.monotonic()))
        return answer.decode("latin-1") or "closed"
    except (OSError, TimeoutError):
        return "closed"
    finally:
        writer.close()


async def _crowd(port: int, head: bytes, *, seconds: float) -> list[str]:
    until = time.monotonic() + seconds
    return await asyncio.gather(*(_push("127.0.0.1", port, head, until=until) for _ in range(CALLERS)))


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("way", ["gateway", "console"])
def test_a_crowd_of_bodies_stays_below_the_bound(product: Product, api, way: str):
    becomes(api, "chat", "running")
    wait_for(lambda: answers(product, "chat"))
    name, port = ("gateway", product.gateway_port) if way == "gateway" else ("web", product.port)
    process = psutil.Process(product.pids()[name])
    path = "/v1/completions" if way == "gateway" else "/accounts/login/"
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {EACH * 2}\r\n\r\n".encode()
    before = process.memory_info().rss
    disk = _size(product.home)
    peak = [before]

    async def watch() -> list[str]:
        task = asyncio.create_task(_crowd(port, head, seconds=12))
        while not task.done():
            peak.append(process.memory_info().rss)
            await asyncio.sleep(0.1)
        return await task

    outcomes = asyncio.run(watch())
    assert len(outcomes) == CALLERS
    assert max(peak) < MOST_BYTES, f"{max(peak) >> 20} MiB"
    assert _size(product.home) - disk < 64 << 20
    # It serves on, and gives back what it took.
    wait_for(lambda: answers(product, "chat"))
    assert httpx.get(f"{product.console}/accounts/login/", trust_env=False).status_code == 200
