"""The database hangs and the worker is gone under load: afterwards the charts count what the load generator counted."""

import os
import signal
import time

import psutil
import pytest

from tests.system.conftest import started_product
from tests.system.test_books_under_kills import Load
from tests.system.test_main_job import QUICK, becomes, create
from tests.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
# Two buckets are closed meanwhile and wait on disk; ten minutes would be sixty of the same.
AWAY_S = 25


def test_charts_count_what_the_load_generator_counted():
    with started_product() as product, product.api() as api:
        create(api, "booked", {"engine": "simulator", "engine_settings": QUICK | {"concurrency": 64}}, replicas=2)
        becomes(api, "booked", "running")
        browser = product.session()
        address = "/console/deployments/demo/booked/monitoring/data/?range=15m"
        load = Load(product.gateway)
        load.start()
        time.sleep(5)
        postgres = psutil.Process(product.pids()["postgres"])
        everything = [postgres, *postgres.children(recursive=True)]
        for process in everything:
            process.suspend()
        os.kill(product.pids()["worker"], signal.SIGKILL)
        time.sleep(AWAY_S)
        for process in everything:
            process.resume()
        time.sleep(5)
        seen = load.stop()
        # Nothing was refused: the gateway goes on without the database.
        assert seen.whole > 300 and not seen.refused and not seen.broken, seen
        found = wait_for(
            lambda: (panel := browser.get(address).json()["statistics"])["requests"] >= seen.whole and panel,
            within_s=60,
        )
        assert (found["requests"], found["2xx"]) == (seen.whole, seen.whole)
        assert found["output_tokens"] == seen.tokens
        # And so it stays when every batch is stored: nothing comes twice.
        wait_for(lambda: not list(product.home.glob("gateway/*/spill-*")), within_s=60, what="the waiting batches")
        time.sleep(3)
        again = browser.get(address).json()
        assert again["statistics"]["requests"] == seen.whole
        bars = [trace for trace in again["charts"]["volume"]["figure"]["data"] if trace["type"] == "bar"]
        assert sum(sum(trace["y"]) for trace in bars) == seen.whole
