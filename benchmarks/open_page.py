"""What an open page of live charts takes of the reader's machine, for an hour, in Chromium drawing by the processor."""

import random
import threading
import time
from collections.abc import Iterator

import httpx
import psutil
from playwright.sync_api import sync_playwright

from benchmarks.report import Row
from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.system.conftest import Product, started_product
from tests.system.test_main_job import becomes

MINUTES, RATE, CALLERS = 60, 10, 10
SAMPLE_S = 10.0
MOST_CPU, MOST_BYTES = 0.10, 200e6


def run() -> Iterator[Row]:
    with started_product() as product, product.api() as api, sync_playwright() as playwright:
        becomes(api, "chat", "running")
        stopped = threading.Event()
        load = [threading.Thread(target=_load, args=(product, stopped)) for _ in range(CALLERS)]
        for caller in load:
            caller.start()
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            page = browser.new_page(base_url=product.console, viewport={"width": 1440, "height": 900})
            page.goto("/accounts/login/")
            page.fill("[name=login]", "admin")
            page.fill("[name=password]", product.password)
            page.click("button[type=submit]")
            page.wait_for_url("**/console/deployments/")
            page.goto("/console/deployments/demo/chat/monitoring/")
            page.wait_for_timeout(SAMPLE_S * 1000)
            session = browser.new_browser_cdp_session()
            renderer = _busiest([item["id"] for item in session.send("SystemInfo.getProcessInfo")["processInfo"] if item["type"] == "renderer"])  # fmt: skip
            before, started, bytes_taken = _cpu(renderer), time.monotonic(), []
            while time.monotonic() - started < MINUTES * 60:
                page.wait_for_timeout(SAMPLE_S * 1000)
                bytes_taken.append(renderer.memory_full_info().uss)
            share = (_cpu(renderer) - before) / (time.monotonic() - started)
            browser.close()
        finally:
            stopped.set()
            for caller in load:
                caller.join()
    beside = f"{MINUTES} min, {RATE} requests/s, 1440 × 900"
    yield Row("CPU of an open page's process", f"{share:.1%} of a core", beside, share, MOST_CPU)
    at_the_end, most = bytes_taken[-1] / 1e6, max(bytes_taken) / 1e6
    yield Row("Its memory at the end; at most", f"{at_the_end:.0f}; {most:.0f} MB", beside, most, MOST_BYTES / 1e6)


def _load(product: Product, stopped: threading.Event) -> None:
    body = {"model": "demo/chat", "messages": [{"role": "user", "content": "hi"}]}
    due = time.monotonic()
    with httpx.Client(base_url=product.gateway, trust_env=False, timeout=30) as client:
        while not stopped.wait(max(0.0, due - time.monotonic())):
            due += CALLERS / RATE
            client.post("/v1/chat/completions", json=body | {"max_tokens": random.randint(1, 20)})


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _busiest(pids: list[int]) -> psutil.Process:
    """The renderer that draws; others are kept in reserve."""
    return max((psutil.Process(pid) for pid in pids), key=_cpu)
