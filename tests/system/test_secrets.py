"""Secrets that were planted everywhere are found nowhere: not in files, logs, pages, answers, tables or the store."""

import re
from pathlib import Path

import httpx
import psycopg
import pytest
import redis

from dashboard.home import Home
from tests.system.conftest import Product, csrf_of
from tests.system.test_main_job import QUICK, answers, becomes, create, remove
from tests.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: planted-kubeconfig-4711}}]
"""
PASSWORD = "planted-password-4711"
FOLLOWED = re.compile(r'href="(/(?:console|hub|account|api/docs)[^"#]*)"')
MOST_PAGES = 400


def post(browser: httpx.Client, address: str, data: dict[str, str]) -> httpx.Response:
    page = browser.get("/account/tokens/")
    return browser.post(
        address, data=data | {"csrfmiddlewaretoken": csrf_of(page.text)}, headers={"Referer": str(browser.base_url)}
    )


def plant(product: Product, browser: httpx.Client, api: httpx.Client) -> dict[str, str]:
    """Put a secret into each place that takes or makes one, and provoke errors around it; where each went by its text."""
    planted = {
        "planted-credential-4711": "a model's credential",
        "planted-environment-4711": "a secret environment value",
        "planted-kubeconfig-4711": "a cluster's kubeconfig",
        PASSWORD: "a user's password",
        api.headers["Authorization"].removeprefix("Bearer "): "an API token",
    }
    assert api.post("models/", json={"name": "gated", "organization": "demo", "source": "hugging_face", "uri": "org/name", "credential": "planted-credential-4711"}).status_code == 201  # fmt: skip
    # Refusals that could repeat what they refuse.
    for bad in ({"name": "", "credential": "planted-credential-4711"}, {"credential": ["planted-credential-4711"]}):
        assert api.post("models/", json=bad).status_code == 400
    secret = {"environment": {"OPEN": "yes"}, "secret_environment": {"TOKEN": "planted-environment-4711"}}
    create(
        api, "secretive", {"engine": "simulator", "cpu": 0.2, "memory": 268435456, "engine_settings": QUICK, **secret}
    )
    crashing = QUICK | {"crash_after_s": 0.2}
    create(
        api, "crashing", {"engine": "simulator", "cpu": 0.2, "memory": 268435456, "engine_settings": crashing, **secret}
    )
    bad_name = {"engine": "simulator", "secret_environment": {"no name!": "planted-environment-4711"}}
    api.post("deployments/", json={"name": "bad", "endpoint": "demo", "model": "gated", "specification": bad_name})
    made = post(browser, "/console/clusters/new/", {"name": "planted", "driver": "kubernetes", "namespace": "default", "kubeconfig": KUBECONFIG, "reach": "address"})  # fmt: skip
    assert made.status_code == 200 and "planted-kubeconfig" not in made.text, re.findall(
        r"invalid-feedback[^<]*<[^<]*|<li>[^<]*<", made.text
    )
    post(browser, "/console/clusters/new/", {"name": "broken", "driver": "kubernetes", "kubeconfig": KUBECONFIG + "]]"})
    # A key, used rightly and wrongly; a link, followed to its end.
    shown = post(browser, "/hub/keys/new/", {"name": "planted", "organization": _first_organization(browser), "scope": "user", "expires": ""})  # fmt: skip
    key = re.search(r'data-testid="new-key">(slk_[^<]+)<', shown.text)[1]
    planted[key] = "an API key"
    link = post(browser, "/console/organizations/demo/invite/", {"label": "Ada", "role": "member"})
    secret_of_link = re.search(r"/accounts/join/([\w-]+)/", link.text)[1]
    planted[secret_of_link] = "an invitation's link"
    with httpx.Client(base_url=product.console, follow_redirects=True, trust_env=False) as newcomer:
        page = newcomer.get(f"/accounts/join/{secret_of_link}/")
        data = {"username": "ada", "password": PASSWORD, "csrfmiddlewaretoken": csrf_of(page.text)}
        assert "Welcome" in newcomer.post("/accounts/join/", data=data, headers={"Referer": product.console}).text
        page = newcomer.get("/accounts/login/")
    return planted


def use(product: Product, key: str, token: str) -> None:
    """Requests that carry secrets, good, spoiled, and at the wrong door."""
    with httpx.Client(base_url=product.gateway, trust_env=False, timeout=30) as client:
        body = {"model": "demo/chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
        good = client.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})
        assert good.status_code == 200 and key not in good.text
        for headers in (
            {"api-key": key}, {"Authorization": f"Bearer {key}x"}, {"Authorization": f"Basic {key}"}, {"Authorization": f"Bearer {token}"},
            {"Authorization": f"Bearer {key}", "api-key": f"{key}y"}, {"X-Slipway-Identity": key},
        ):  # fmt: skip
            for address in ("/v1/chat/completions", "/demo/chat/v1/chat/completions", "/demo/nothing/x"):
                answer = client.post(address, json=body, headers=headers)
                assert key not in answer.text and token not in answer.text
    with httpx.Client(base_url=product.console, trust_env=False) as client:
        for wrong in (key, f"{token}x"):
            assert wrong not in client.get("/api/v1/deployments/", headers={"Authorization": f"Bearer {wrong}"}).text
        page = client.get("/accounts/login/")
        data = {"login": "ada", "password": f"{PASSWORD}-wrong", "csrfmiddlewaretoken": csrf_of(page.text)}
        assert PASSWORD not in client.post("/accounts/login/", data=data, headers={"Referer": product.console}).text


def test_planted_secrets_are_found_nowhere(product, api):
    browser = product.session()
    planted = plant(product, browser, api)
    key = next(text for text, what in planted.items() if what == "an API key")
    becomes(api, "chat", "running")
    wait_for(lambda: answers(product, "chat"))
    wait_for(lambda: _is_known(product, key), what="the key at the gateway")
    use(product, key, api.headers["Authorization"].removeprefix("Bearer "))
    becomes(api, "secretive", "running")
    becomes(api, "crashing", "error", within_s=120)
    wait_for(lambda: "planted" in browser.get("/console/clusters/").text and "reached" in browser.get("/console/clusters/").text, within_s=60)  # fmt: skip
    own = {text: f"Slipway's own {name}" for name, text in Home(product.home).secrets.items() if len(text) > 10}
    places = [*_files(product.home), *_tables(product.home), *_store(product.home)]
    # What is no secret is found: the search looks where things are.
    assert {where for where, content in places if b"secretive" in content} >= {"the table deployments_deployment"}
    for where, content in places:
        for text, what in (planted | own).items():
            # Binary columns are read as hexadecimal digits.
            found = text.encode() in content or text.encode().hex().encode() in content
            assert not found, f"{what} is in {where}"
    for address, page in _pages(browser):
        for text, what in (planted | own).items():
            assert text not in page, f"{what} is on {address}"
    for name in ("secretive", "crashing"):
        remove(api, name)


def _first_organization(browser: httpx.Client) -> str:
    page = browser.get("/hub/keys/new/").text
    return re.search(r'name="organization".*?<option value="(\d+)"', page, re.DOTALL)[1]


def _is_known(product: Product, key: str) -> bool:
    answer = httpx.get(f"{product.gateway}/v1/models", headers={"Authorization": f"Bearer {key}"}, trust_env=False)
    return answer.status_code == 200


def _files(home: Path) -> list[tuple[str, bytes]]:
    """All that Slipway wrote but its own secrets' file: logs, journals, snapshots, states of instances."""
    return [
        (str(path), path.read_bytes()) for path in home.rglob("*") if path.is_file() and path.name != "secrets.json"
    ]


def _tables(home: Path) -> list[tuple[str, bytes]]:
    with psycopg.connect(Home(home).database_url) as connection:
        names = [
            row[0]
            for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        ]
        return [
            (
                f"the table {name}",
                "\n".join(row[0] for row in connection.execute(f'SELECT t::text FROM "{name}" t')).encode(),
            )
            for name in names
        ]


def _store(home: Path) -> list[tuple[str, bytes]]:
    """Everything in Valkey, names included. What a page is shown of a test is its own owner's."""
    store = redis.Redis.from_url(Home(home).redis_url)
    return [(f"Valkey's {name!r}", name + b"\n" + (store.dump(name) or b"")) for name in store.scan_iter()]


def _pages(browser: httpx.Client) -> list[tuple[str, str]]:
    """Every page that links lead to, and what the API lists."""
    waiting, seen, found = ["/console/deployments/", "/hub/models/", "/console/audit/"], set(), []
    while waiting and len(found) < MOST_PAGES:
        address = waiting.pop().replace("&amp;", "&")
        if address in seen or "logout" in address:
            continue
        seen.add(address)
        answer = browser.get(address)
        found.append((address, answer.text))
        if "html" in answer.headers.get("content-type", ""):
            waiting += FOLLOWED.findall(answer.text)
    for name in ("models", "endpoints", "clusters", "deployments", "organizations", "deployments/demo/secretive/versions", "deployments/demo/crashing/events"):  # fmt: skip
        found.append((name, browser.get(f"/api/v1/{name}/").text))
    assert len(found) > 40
    return found
