"""Queues many requests from outside, keeps its own records of them, and compares those with what became of them."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from dashboard.home import Home
from tests.system.conftest import PROJECT, Product

CONNECTIONS = 8
PRIORITIES = 3


@dataclass
class Records:
    """By request id: its number, its priority, and when it was sent (seconds since the epoch). `took`: each answer's time."""

    numbers: dict[str, int] = field(default_factory=dict)
    priorities: dict[str, int] = field(default_factory=dict)
    sent: dict[str, float] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)


async def fill(
    product: Product, name: str, secret: str, count: int, *, connections: int = CONNECTIONS, longest_s: int = 7200
) -> Records:
    """Queue requests number 0 to `count`, priorities in turn."""
    records = Records()
    numbers = iter(range(count))

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", product.gateway_port)
        for number in numbers:
            priority = number % PRIORITIES
            head = (
                f"POST /demo/{name}/async/simulate/echo?n={number} HTTP/1.1\r\nHost: load\r\nAuthorization: Bearer {secret}\r\n"
                f"X-Slipway-Async-Priority: {priority}\r\nX-Slipway-Async-Max-Queue-Seconds: {longest_s}\r\nContent-Length: 2\r\n\r\n{{}}"
            )
            sent, started = time.time(), time.perf_counter()
            writer.write(head.encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            records.took.append(time.perf_counter() - started)
            assert answer.startswith(b"HTTP/1.1 202"), answer + body
            uid = json.loads(body)["id"]
            records.numbers[uid], records.priorities[uid], records.sent[uid] = number, priority, sent
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return records


def dispatcher(product: Product) -> subprocess.Popen[bytes]:
    """One more dispatcher beside the product's own."""
    keep = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE")
    }
    environment = {**keep, "SLIPWAY_HOME": str(product.home), "SLIPWAY_GATEWAY_URL": product.gateway}
    log = (product.home / "dispatcher-2.log").open("ab")
    return subprocess.Popen(
        [sys.executable, "manage.py", "dispatcher"], cwd=PROJECT, env=environment, stdout=log, stderr=log
    )


def kill_at_random(product: Product, every_s: float, seed: int, silent_s: float) -> int:
    """Kill -9 one of two dispatchers again and again until nothing waits or runs; how many were killed. Fails when nothing has
    ended for `silent_s` seconds."""
    chance, killed = random.Random(seed), 0
    second = dispatcher(product)
    left, since = unfinished(product), time.monotonic()
    try:
        while left:
            time.sleep(chance.uniform(0.3, 1.7) * every_s)
            before, left = left, unfinished(product)
            if left == before:
                # On a busy machine one that was killed before it came to anything would be killed for ever.
                assert time.monotonic() - since < silent_s, f"{left} have not ended"
                continue
            since = time.monotonic()
            if chance.random() < 0.5:
                second.kill()
                second.wait()
                second = dispatcher(product)
            elif own := product.pids().get("dispatcher"):
                os.kill(own, signal.SIGKILL)
            killed += 1
    finally:
        second.terminate()
        second.wait()
    return killed


def unfinished(product: Product) -> int:
    with connect(product.home) as connection:
        row = connection.execute(
            "SELECT count(*) FROM async_inference_asyncrequest WHERE finished_at IS NULL"
        ).fetchone()
    return int(row[0])


def connect(home: Path) -> psycopg.Connection:
    return psycopg.connect(Home(home).database_url, connect_timeout=5, autocommit=True)


@dataclass(frozen=True)
class Outcome:
    """How requests ended, by state; results that aren't their own request's; those of the same priority that overtook
    another one by more than so many places; and the times in the queue by the sender's own records, sorted, in seconds."""

    states: Counter[str]
    wrong_results: int
    overtaken: int
    waited: list[float]


def outcome(product: Product, records: Records, places: int) -> Outcome:
    states: Counter[str] = Counter()
    wrong, waited = 0, []
    order: dict[int, list[tuple[float, int]]] = {}
    with connect(product.home) as connection:
        rows = connection.execute(
            "SELECT uid, state, extract(epoch FROM started_at)::float8, id, result.body FROM async_inference_asyncrequest request "
            "LEFT JOIN async_inference_asyncresult result ON result.request_id = request.id"
        )
        for uid, state, started, number, body in rows:
            states[state] += 1
            known = uid.hex
            wrong += body is None or json.loads(bytes(body))["query"] != f"n={records.numbers[known]}"
            waited.append(started - records.sent[known])
            order.setdefault(records.priorities[known], []).append((started, number))
    overtaken = 0
    for begun in order.values():
        ranks = {number: rank for rank, (_, number) in enumerate(sorted(begun, key=lambda item: item[1]))}
        for place, (_, number) in enumerate(sorted(begun)):
            overtaken += abs(place - ranks[number]) > places
    return Outcome(states, wrong, overtaken, sorted(waited))
