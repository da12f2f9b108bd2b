"""The queue of asynchronous requests on the whole product: taking one, claiming however many wait, and 100,000 of them
worked off while dispatchers are killed. PostgreSQL writes through to the disk, as it does for users."""

import asyncio
import math
import time
from collections.abc import Iterator

import numpy as np

from async_inference import statements
from benchmarks.report import Row
from tests.system import queue_load
from tests.system.conftest import Product, started_product
from tests.system.queue_load import Records
from tests.system.test_main_job import becomes, create
from tests.system.test_revoked_keys import new_key

REQUESTS, SHORT = 100_000, 1_000
CONCURRENCY, CLAIMS = 64, 200
TARGET_S = 0.005
SETTINGS = {"time_to_first_token_ms": 1, "inter_token_ms": 0, "load_time_s": 0, "concurrency": CONCURRENCY}


def run() -> Iterator[Row]:
    with started_product() as product, product.api() as api:
        create(api, "queued", {"engine": "simulator", "engine_settings": SETTINGS})
        becomes(api, "queued", "running")
        secret, _ = new_key(product.session(), "load")
        api.post("deployments/demo/queued/versions/1/stop/")
        becomes(api, "queued", "stopped")
        records = asyncio.run(queue_load.fill(product, "queued", secret, SHORT, connections=1))
        yield _taking(records, _bare_inserts(product), SHORT)
        short, few = _claims(product)
        started = time.monotonic()
        more = asyncio.run(queue_load.fill(product, "queued", secret, REQUESTS - SHORT))
        rate = len(more.numbers) / (time.monotonic() - started)
        yield Row("Queued a second over 8 connections", f"{rate:,.0f}", "", None)
        _add(more, records)
        last = asyncio.run(queue_load.fill(product, "queued", secret, SHORT, connections=1))
        yield _taking(last, _bare_inserts(product), REQUESTS)
        _add(last, records)
        long, many = _claims(product)
        what = f"Claiming 8 of {REQUESTS:,}, median of {CLAIMS}"
        ours = f"{many} pages, {long * 1000:.2f} ms"
        yield Row(what, ours, f"{few} pages, {short * 1000:.2f} ms where {SHORT:,} wait", many / few, 1.5)
        yield from _worked_off(product, api, records)


def _add(more: Records, into: Records) -> None:
    """The numbers of a later filling begin at 0 again; what tells requests apart is their id."""
    into.numbers |= more.numbers
    into.priorities |= more.priorities
    into.sent |= more.sent


def _taking(records: Records, bare: float, waiting: int) -> Row:
    p50, p99 = np.quantile(records.took, [0.5, 0.99])
    ours = f"p50 {p50 * 1000:.2f}, p99 {p99 * 1000:.2f} ms"
    beside = f"bare INSERT of the same two rows {bare * 1000:.2f} ms; target 5 ms"
    return Row(f"Taking a request where {waiting:,} wait", ours, beside, p50 / TARGET_S, 1.0)


def _bare_inserts(product: Product) -> float:
    """Seconds, the median of what PostgreSQL alone takes to store such a request."""
    took = []
    with queue_load.connect(product.home) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS bench_request (LIKE async_inference_asyncrequest INCLUDING ALL)")
        connection.execute("CREATE TABLE IF NOT EXISTS bench_payload (LIKE async_inference_asyncpayload)")
        for _ in range(CLAIMS):
            started = time.perf_counter()
            connection.execute(
                "WITH added AS (INSERT INTO bench_request (uid, deployment_id, api_id, organization_id, user_id, priority, queue_s, "
                "expires_at, retries, payload_bytes, fingerprint) VALUES (gen_random_uuid(), 1, 'demo/queued', 1, 1, 1, 600, now(), "
                "2, 2, '') RETURNING id) INSERT INTO bench_payload (method, path, headers, body, request_id) SELECT 'POST', '/simulate/echo', '', '{}', id FROM added"
            )
            took.append(time.perf_counter() - started)
    return float(np.median(took))


def _claims(product: Product) -> tuple[float, int]:
    """(seconds, the median; pages of the database that are touched) of a claim that is undone."""
    took = []
    with queue_load.connect(product.home) as connection:
        # What was undone before is to be gone: it would count as length.
        connection.execute("VACUUM (ANALYZE) async_inference_asyncrequest")
        row = connection.execute("SELECT deployment_id FROM async_inference_asyncrequest LIMIT 1").fetchone()
        values = {"deployment": row[0], "most": 8, "capacity": 8, "lease_s": 15, "held_back": []}
        for _ in range(CLAIMS):
            connection.execute("BEGIN")
            started = time.perf_counter()
            assert len(connection.execute(statements.CLAIM, values).fetchall()) == 8
            took.append(time.perf_counter() - started)
            connection.execute("ROLLBACK")
        connection.execute("VACUUM async_inference_asyncrequest")
        connection.execute("BEGIN")
        ((plan,),) = connection.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statements.CLAIM}", values
        ).fetchall()
        connection.execute("ROLLBACK")
    return float(np.median(took)), plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]


def _worked_off(product: Product, api, records: Records) -> Iterator[Row]:
    api.post("deployments/demo/queued/versions/1/start/")
    becomes(api, "queued", "running")
    started = time.monotonic()
    killed = queue_load.kill_at_random(product, every_s=10, seed=1, silent_s=600)
    seconds = time.monotonic() - started
    found = queue_load.outcome(product, records, 4 * CONCURRENCY)
    total = len(records.numbers)
    yield Row(
        f"{total:,} worked off, {killed} dispatchers killed",
        f"{total / seconds:,.0f} a second",
        f"{seconds:,.0f} s",
        None,
    )
    wrong = total - found.states["completed"] + found.wrong_results + found.overtaken
    yield Row(
        "Not completed, with another one's result, or overtaken",
        f"{wrong:,}",
        str(dict(found.states)),
        None if not wrong else math.inf,
        0,
    )
    yield _charts(product, found.waited)


def _charts(product: Product, waited: list[float]) -> Row:
    """How far the percentiles of the charts' series are from those of the load generator's records, at most."""
    deadline = time.monotonic() + 120
    while True:
        answer = product.session().get("/console/deployments/demo/queued/monitoring/data/?range=6h").json()
        facts = answer["charts"]["async_queue"].get("facts", "")
        if f"{len(waited):,} ended" in facts:
            break
        if time.monotonic() > deadline:
            raise RuntimeError(f"the chart tells of {facts}")
        time.sleep(2)
    worst = 0.0
    for label, text in (words.split(" ", 1) for words in facts.split(": ")[1].split(", ")):
        value, unit = text.split(" ")
        share = int(label[1:]) / 100
        seen = waited[max(1, math.ceil(share * len(waited))) - 1]
        worst = max(worst, abs(float(value) / (1000 if unit == "ms" else 1) - seen) / seen)
    return Row(
        "Time in async queue on the chart beside the sender's records",
        facts.split(": ")[1],
        "largest deviation",
        worst,
        0.015,
    )
