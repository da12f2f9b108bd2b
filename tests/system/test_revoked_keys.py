"""A revoked key stays refused on every gateway, whatever is killed, and also when the notification is lost."""

import contextlib
import itertools
import os
import re
import signal
import time

import httpx
import psycopg
import pytest

from dashboard.home import Home
from tests.system.conftest import Product, csrf_of, started_product
from tests.system.test_main_job import QUICK, becomes, create
from tests.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


def post(browser: httpx.Client, path: str, page: str, **data: str) -> str:
    token = csrf_of(browser.get(page).text)
    return browser.post(
        path, data=data | {"csrfmiddlewaretoken": token}, headers={"Referer": str(browser.base_url)}
    ).text


def new_key(browser: httpx.Client, name: str) -> tuple[str, str]:
    """(secret, the key's page)"""
    options = re.findall(r'<option value="(\d+)"', browser.get("/hub/keys/new/").text)
    text = post(browser, "/hub/keys/new/", "/hub/keys/new/", name=name, organization=options[0], scope="user")
    return re.search(r'data-testid="new-key">(slk_[^<]+)<', text)[1], re.search(r'href="(/hub/keys/\d+/)"', text)[1]


def answers(product: Product, secret: str, times: int = 30) -> set[int]:
    """Statuses over fresh connections: the kernel spreads them over the gateways. 0: nobody listens just now."""
    found = set()
    for _ in range(times):
        try:
            headers = {"Authorization": f"Bearer {secret}"}
            found.add(httpx.get(f"{product.gateway}/demo/locked/health", headers=headers, trust_env=False).status_code)
        except httpx.HTTPError:
            found.add(0)
    return found


def test_a_revoked_key_stays_refused_whatever_is_killed():
    with (
        started_product("--gateways", "3") as product,
        product.api() as api,
        contextlib.closing(product.session()) as browser,
    ):
        create(api, "locked", {"engine": "simulator", "engine_settings": QUICK})
        becomes(api, "locked", "running")
        settings = "/console/deployments/demo/locked/settings/"
        post(browser, settings + "access/", settings, access="key_only", sharing="none")
        good, _ = new_key(browser, "good")
        bad, page = new_key(browser, "bad")
        for secret in (good, bad):
            wait_for(lambda secret=secret: answers(product, secret) == {200}, what="the key on all gateways")
        post(browser, page + "revoke/", page)
        wait_for(lambda: answers(product, bad, 9) == {401}, what="refusal on all gateways")
        for order in itertools.permutations(("gateway", "postgres", "valkey")):
            for name in order:
                for pid in product.gateway_pids() if name == "gateway" else [product.pids()[name]]:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.3)
                assert answers(product, bad) <= {0, 401}, (order, name)
            wait_for(
                lambda: len(product.gateway_pids()) == 3 and {"postgres", "valkey"} <= product.pids().keys(),
                within_s=120,
                what="the restarted processes",
            )
            wait_for(lambda: answers(product, good, 12) == {200}, within_s=120, what="gateways that serve")
            assert answers(product, bad) == {401}, order
        _revoke_without_telling(product, good)
        wait_for(lambda: answers(product, good, 12) == {401}, within_s=60, what="refusal without a notification")


def _revoke_without_telling(product: Product, secret: str) -> None:
    """As the service does it, but the notification gets lost."""
    with psycopg.connect(Home(product.home).database_url, connect_timeout=5) as connection:
        (version,) = connection.execute(
            "UPDATE deployments_directoryversion SET v = v + 1, changed_at = clock_timestamp() RETURNING v"
        ).fetchone()
        changed = connection.execute(
            "UPDATE apikeys_apikey SET revoked_at = now(), changed_version = %s WHERE prefix = %s",
            [version, secret[:10]],
        )
        assert changed.rowcount == 1
