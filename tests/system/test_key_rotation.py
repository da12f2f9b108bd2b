"""All keys change under load: no request is refused, nobody is signed out, no secret is lost and no instance ends."""

import json
import os
import subprocess
import sys
import time
from collections import Counter

import httpx
import pytest

from tests.system.conftest import PROJECT, Product, csrf_of
from tests.system.load import Load, completions
from tests.system.test_main_job import QUICK, becomes, create, remove
from tests.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def rotate(product: Product, *options: str) -> str:
    keep = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    done = subprocess.run(
        [sys.executable, "manage.py", "rotate_keys", *options],
        cwd=PROJECT, env={**keep, "SLIPWAY_HOME": str(product.home)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "No key can read" not in done.stderr
    return done.stdout


def keys(product: Product) -> dict[str, list[str]]:
    return json.loads((product.home / "keys.json").read_text())


def programs(product: Product) -> set[str]:
    return {str(path) for path in product.home.glob("instances/*/*/*/state.json")}


def test_all_keys_change_under_load(product, api):
    secret = {"environment": {}, "secret_environment": {"TOKEN": "planted"}}
    create(api, "keyed", {"engine": "simulator", "engine_settings": QUICK, **secret}, replicas=1)
    version = becomes(api, "keyed", "running")
    url = f"{product.gateway}/demo/keyed/v1/completions"
    wait_for(lambda: httpx.post(url, json={"model": "x", "prompt": "a"}, trust_env=False).status_code == 200)
    browser = product.session()
    token = csrf_of(browser.get("/account/tokens/").text)
    cookies = {"Cookie": "; ".join(f"{name}={value}" for name, value in browser.cookies.items())}
    running = programs(product)

    def page(client: httpx.Client) -> int:
        # Not followed: someone who was signed out is sent elsewhere.
        return client.get(f"{product.console}/console/deployments/", headers=cookies).status_code

    sent: list[str] = []

    def queued(client: httpx.Client) -> int:
        """The dispatcher sends it with a signed identity, and its headers are stored encrypted."""
        answer = client.post(
            f"{product.console}/hub/deployments/demo/keyed/async/send/",
            headers=cookies | {"X-CSRFToken": token, "Referer": product.console},
            json={"method": "POST", "path": "/v1/completions", "headers": "X-Their-Secret: planted", "content_type": "application/json", "body": '{"prompt": "a"}'},
        )  # fmt: skip
        if answer.status_code == 200:
            sent.append(answer.json()["state"])
        return answer.status_code

    before = keys(product)
    with completions(url) as calls, Load(4, page) as pages, Load(2, queued) as requests:
        said = rotate(product)
        between = keys(product)
        rotate(product, "--drop-former")
        time.sleep(2)
    after = keys(product)
    assert set(calls.answers) == {(200, "")} and calls.answers[200, ""] > 100, calls.answers
    assert set(pages.answers) == {200} and set(requests.answers) == {200}, (pages.answers, requests.answers)
    assert "New keys are in force" in said
    for purpose, known in between.items():
        assert known[1:] == before[purpose] and after[purpose] == known[:1]

    def states() -> Counter[str]:
        return Counter(browser.get(address).json()["state"] for address in sent)

    wait_for(lambda: set(states()) == {"completed"}, within_s=60, what="all completed")
    assert programs(product) == running
    assert httpx.get(f"{product.console}/console/deployments/", headers=cookies, trust_env=False).status_code == 200
    # Its secret value is read again when it starts.
    api.post(f"deployments/demo/keyed/versions/{version['number']}/stop/")
    becomes(api, "keyed", "stopped")
    api.post(f"deployments/demo/keyed/versions/{version['number']}/start/")
    becomes(api, "keyed", "running")
    remove(api, "keyed")
