"""Valkey hangs and dies under load: gateways let through their share, the console says so, nobody gets an error for it."""

import contextlib
import os
import signal

import httpx
import pytest

from tests.system.conftest import csrf_of, started_product
from tests.system.test_main_job import answers, becomes
from tests.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
LIMIT = 60


def test_each_gateway_keeps_to_its_share_and_the_console_says_so():
    with (
        started_product("--gateways", "2") as product,
        contextlib.closing(product.session()) as browser,
        contextlib.closing(product.api()) as api,
    ):
        becomes(api, "chat", "running")
        wait_for(lambda: answers(product, "chat"))
        page = browser.get("/console/deployments/demo/chat/settings/")
        saved = browser.post(
            "/console/deployments/demo/chat/settings/limits/",
            data={"public_requests": str(LIMIT), "csrfmiddlewaretoken": csrf_of(page.text)},
            headers={"Referer": product.console},
        )
        assert "Gateways apply it within a second" in saved.text
        wait_for(lambda: "x-ratelimit-limit-requests" in ask(product).headers, what="the limit at a gateway")
        valkey = product.pids()["valkey"]
        os.kill(valkey, signal.SIGSTOP)
        try:
            statuses = [ask(product).status_code for _ in range(3 * LIMIT)]
            assert set(statuses) <= {200, 429}, "Valkey's absence is nobody's error"
            # Two shares, what refills meanwhile, and what the first questions had taken.
            assert LIMIT // 2 - 5 <= statuses.count(200) <= LIMIT + LIMIT // 2
            wait_for(lambda: "keeps to its share" in browser.get("/console/gateways/").text, what="the console's word")
            use = browser.get("/console/deployments/demo/chat/limits/use/").text
            assert "reach Valkey" in use and "Not known" in use
        finally:
            os.kill(valkey, signal.SIGKILL)
        wait_for(lambda: "keeps to its share" not in browser.get("/console/gateways/").text, within_s=60)
        wait_for(lambda: ask(product).status_code == 200, within_s=90, what="refilled buckets")


def ask(product) -> httpx.Response:
    """On a connection of its own: the kernel spreads them over the gateways."""
    return httpx.get(f"{product.gateway}/demo/chat/health", trust_env=False, timeout=30)
