"""A version takes another's place while requests keep coming: by its strategy none is refused, or all are told why."""

import time

import httpx
import pytest

from tests.system.load import completions
from tests.system.test_main_job import QUICK, becomes, create, remove
from tests.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def change(api: httpx.Client, name: str, strategy: str) -> int:
    specification = {"engine": "simulator", "engine_settings": QUICK | {"load_time_s": 2}}
    response = api.post(
        f"deployments/demo/{name}/versions/", json={"strategy": strategy, "specification": specification}
    )
    assert response.status_code == 201, response.text
    return response.json()["number"]


def numbered(api: httpx.Client, name: str, number: int) -> str:
    return api.get(f"deployments/demo/{name}/versions/{number}/").json()["status"]


def test_zero_downtime_refuses_nothing_and_replace_says_why(product, api):
    create(api, "changing", {"engine": "simulator", "engine_settings": QUICK}, replicas=2)
    becomes(api, "changing", "running")
    url = f"{product.gateway}/demo/changing/v1/completions"
    wait_for(lambda: httpx.post(url, json={"model": "x", "prompt": "a"}, trust_env=False).status_code == 200)
    with completions(url) as load:
        time.sleep(1)
        second = change(api, "changing", "zero_downtime")
        wait_for(lambda: numbered(api, "changing", second) == "running", within_s=60, what="version 2 running")
        wait_for(lambda: numbered(api, "changing", 1) == "stopped", within_s=60, what="version 1 stopped")
        time.sleep(1)
    assert set(load.answers) == {(200, "")}, load.answers
    assert load.answers[200, ""] > 100
    with completions(url) as load:
        time.sleep(1)
        third = change(api, "changing", "replace")
        wait_for(lambda: numbered(api, "changing", third) == "running", within_s=60, what="version 3 running")
        time.sleep(1)
    refusals = {key for key in load.answers if key[0] != 200}
    assert refusals and all(status == 503 and code.startswith("deployment_") for status, code in refusals), load.answers
    remove(api, "changing")
