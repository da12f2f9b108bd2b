"""Three gateways under load while everything is killed in turn: the books agree with what the clients saw."""

import os
import signal
import threading
import time
from dataclasses import dataclass

import httpx
import psycopg
import pytest

from dashboard.home import Home
from tests.system.conftest import Product, started_product
from tests.system.test_main_job import QUICK, becomes, create
from tests.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]
CLIENTS = 12
TOKENS = 6


@dataclass
class Seen:
    """What one client saw: whole answers with their tokens, answers of the gateway's own, and answers that broke off."""

    whole: int = 0
    tokens: int = 0
    refused: int = 0
    broken: int = 0


class Load:
    def __init__(self, url: str) -> None:
        self._url = url
        self._stopped = threading.Event()
        self.seen = [Seen() for _ in range(CLIENTS)]
        self._threads = [
            threading.Thread(target=self._ask, args=(seen, index % 3 == 0), daemon=True)
            for index, seen in enumerate(self.seen)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> Seen:
        self._stopped.set()
        for thread in self._threads:
            thread.join(30)
        return Seen(
            *(sum(getattr(seen, name) for seen in self.seen) for name in ("whole", "tokens", "refused", "broken"))
        )

    def _ask(self, seen: Seen, streams: bool) -> None:
        body = {"model": "demo/booked", "prompt": "a b c", "max_tokens": TOKENS, "stream": streams}
        while not self._stopped.is_set():
            try:
                # A fresh connection each time: the kernel spreads them over the gateways.
                response = httpx.post(f"{self._url}/v1/completions", json=body, trust_env=False, timeout=20)
            except httpx.ConnectError:
                time.sleep(0.05)
                continue
            except httpx.HTTPError:
                seen.broken += 1
                continue
            if response.status_code == 200 and (not streams or response.text.rstrip().endswith("[DONE]")):
                seen.whole += 1
                seen.tokens += TOKENS if streams else response.json()["usage"]["completion_tokens"]
            elif response.status_code == 200:
                seen.broken += 1
            else:
                seen.refused += 1
            time.sleep(0.002)


def books(product: Product) -> dict[str, int]:
    """The sums over all gateways, with the tokens that the ledger has."""
    columns = ("admitted", "completed", "failed", "cancelled", "rejected", "expired", "in_flight")
    with psycopg.connect(Home(product.home).database_url, connect_timeout=5) as connection:
        sums = connection.execute(
            f"SELECT {', '.join(f'coalesce(sum({name}), 0)' for name in columns)} FROM monitoring_books"
        ).fetchone()
        ledger = connection.execute(
            "SELECT coalesce(sum(completed), 0), coalesce(sum(output_tokens), 0) FROM monitoring_usage_minute"
        ).fetchone()
    found = dict(zip(columns, (int(value) for value in sums), strict=True))
    return found | {"ledger_completed": int(ledger[0]), "ledger_tokens": int(ledger[1])}


def test_no_answer_that_a_client_saw_is_missing_or_double():
    with started_product("--gateways", "3") as product, product.api() as api:
        create(api, "booked", {"engine": "simulator", "engine_settings": QUICK | {"concurrency": 64}}, replicas=2)
        becomes(api, "booked", "running")
        assert len(product.gateway_pids()) == 3
        wait_for(
            lambda: httpx.get(f"{product.gateway}/v1/models", trust_env=False).json()["data"], what="the directory"
        )
        load = Load(product.gateway)
        load.start()
        for name in ("gateway", "worker", "valkey", "gateway", "web", "postgres", "gateway"):
            time.sleep(3)
            pids = product.gateway_pids() if name == "gateway" else [product.pids()[name]]
            os.kill(pids[-1], signal.SIGKILL)
        time.sleep(5)
        seen = load.stop()
        wait_for(lambda: _settled(product, seen), within_s=90, what="books that hold everything")
        found = books(product)
    assert seen.whole > 300, seen
    ended = sum(found[name] for name in ("completed", "failed", "cancelled", "rejected", "expired"))
    assert found["admitted"] == ended + found["in_flight"] and found["in_flight"] == 0, found
    # Every whole answer is one completed request; those that broke off may be so too, as the books come first.
    assert seen.whole <= found["completed"] <= seen.whole + seen.broken, (seen, found)
    assert found["ledger_completed"] == found["completed"]
    assert seen.tokens <= found["ledger_tokens"] <= seen.tokens + TOKENS * seen.broken, (seen, found)


def _settled(product: Product, seen: Seen) -> bool:
    try:
        found = books(product)
    except psycopg.Error:
        return False
    ended = sum(found[name] for name in ("completed", "failed", "cancelled", "rejected", "expired"))
    return found["completed"] >= seen.whole and found["in_flight"] == 0 and found["admitted"] == ended
