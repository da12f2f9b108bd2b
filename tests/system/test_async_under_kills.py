"""A full queue whose dispatchers are killed at random: each request ends once, with its own result, in its order."""

import asyncio
import math
import re

import pytest

from tests.system import queue_load
from tests.system.conftest import started_product
from tests.system.test_main_job import QUICK, becomes, create
from tests.system.test_revoked_keys import new_key
from tests.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
REQUESTS, CONCURRENCY = 600, 8
# Which of two that were claimed together begins first is open; so are those of a dispatcher that was killed.
PLACES = 4 * CONCURRENCY


def test_each_request_ends_once_whoever_is_killed():
    with started_product() as product, product.api() as api:
        create(api, "queued", {"engine": "simulator", "engine_settings": QUICK | {"concurrency": CONCURRENCY}})
        becomes(api, "queued", "running")
        browser = product.session()
        secret, _ = new_key(browser, "load")
        # What comes while nothing runs waits.
        api.post("deployments/demo/queued/versions/1/stop/")
        becomes(api, "queued", "stopped")
        records = asyncio.run(queue_load.fill(product, "queued", secret, REQUESTS))
        assert queue_load.unfinished(product) == REQUESTS
        settings = browser.get("/console/deployments/demo/queued/settings/").text
        assert f"{REQUESTS:,} asynchronous requests" in settings
        api.post("deployments/demo/queued/versions/1/start/")
        becomes(api, "queued", "running")
        killed = queue_load.kill_at_random(product, every_s=1.0, seed=7, silent_s=90)
        found = queue_load.outcome(product, records, PLACES)
        assert killed >= 3 and found.states == {"completed": REQUESTS} and not found.wrong_results, found.states
        assert not found.overtaken
        _charts_tell_the_same(product, browser, found)


def _charts_tell_the_same(product, browser, found) -> None:
    def panel():
        answer = browser.get("/console/deployments/demo/queued/monitoring/data/?range=15m")
        return answer.json()["charts"]["async_queue"]

    wait_for(lambda: f"{REQUESTS:,} ended" in panel().get("facts", ""), within_s=60, what="all of them on the chart")
    words = panel()["facts"]
    for label, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
        value, unit = re.search(rf"{label} ([\d.]+) (ms|s)", words).groups()
        told = float(value) / (1000 if unit == "ms" else 1)
        seen = found.waited[max(1, math.ceil(share * len(found.waited))) - 1]
        # The sender's clock begins a little before the row is there.
        assert told == pytest.approx(seen, rel=0.015, abs=0.05), (label, words, seen)
    with queue_load.connect(product.home) as connection:
        sizes = connection.execute("SELECT max(waiting) FROM async_inference_asyncbacklog").fetchone()
    assert sizes == (0,)
