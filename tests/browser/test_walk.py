"""The main job as a new user does it, from a fresh database to a deleted deployment."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.system.test_main_job import QUICK, becomes, create, remove

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]


def status_is(page: Page, text: str, *, within_s: float = 60) -> None:
    """Without reloading: the page learns it by itself."""
    expect(page.locator("#deployment-header .status")).to_have_text(text, timeout=within_s * 1000)


def tab(page: Page, name: str) -> None:
    page.get_by_role("link", name=name, exact=True).click()


def confirm(page: Page) -> None:
    page.locator("#confirm button[value=yes]").click()


def test_the_whole_walk(signed_in, pictures):
    page = signed_in()
    page.wait_for_timeout(300)
    page.screenshot(path=pictures / "deployments.png")
    # Deploy
    page.get_by_role("link", name="New Model Deployment").click()
    page.get_by_label("Name", exact=True).fill("walk")
    page.get_by_label("Load time (s)").fill("2")
    page.get_by_label("Time between tokens (ms)").fill("20")
    page.screenshot(path=pictures / "new.png", full_page=True)
    page.get_by_role("button", name="Save and deploy").click()
    # Watch Running
    expect(page.locator(".steps-row")).to_be_visible()
    page.screenshot(path=pictures / "preparing.png")
    status_is(page, "Running")
    expect(page.get_by_test_id("events")).to_contain_text("Preparing → Running")
    page.screenshot(path=pictures / "overview.png")
    # Stream a request in Online Testing; its text, chart point and log line appear on the same page
    tab(page, "Online Testing")
    page.get_by_role("button", name="Chat, streamed").click()
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#test-status")).to_have_text("200 OK")
    expect(page.get_by_test_id("response-text")).to_contain_text("This is the Slipway simulator")
    expect(page.locator("[data-time=total]")).to_contain_text("ms")
    assert int(page.locator("[data-time=chunks]").inner_text()) > 10, "chunks are shown as they come"
    request_id = page.locator("[data-time=id]").inner_text()
    expect(page.locator("#tail .is-marked")).to_contain_text(request_id)
    expect(page.locator("[data-chart=volume] [data-facts]")).to_contain_text("1 request", timeout=10_000)
    # Charts are drawn when they come into sight.
    page.locator("[data-chart=end_to_end]").scroll_into_view_if_needed()
    expect(page.locator("[data-chart=end_to_end] .scatterlayer .trace").first).to_be_attached()
    expect(page.locator("[data-chart=gpu] [data-absent]")).to_contain_text("Not available")
    page.locator("[data-chart=cpu]").scroll_into_view_if_needed()
    expect(page.locator("[data-chart=cpu] .scatterlayer .trace").first).to_be_attached(timeout=30_000)
    page.wait_for_timeout(500)
    page.screenshot(path=pictures / "testing.png", full_page=True)
    page.get_by_role("button", name="Copy as cURL").click()
    assert re.match(
        r"curl -N -X POST 'http://127\.0\.0\.1:\d+/demo/walk/v1/chat/completions'",
        page.evaluate("navigator.clipboard.readText()"),
    )
    # Scale to 3
    tab(page, "Settings")
    expect(page.get_by_test_id("deletion-refusal")).to_contain_text("Version 1 is Running")
    page.get_by_label("Replicas of version 1").fill("3")
    page.get_by_role("button", name="Scale").click()
    expect(page.locator("#deployment-header")).to_contain_text("3 of 3 ready", timeout=60_000)
    # Logs of each instance
    tab(page, "Logs")
    expect(page.locator("#log")).to_contain_text("ready to serve")
    assert page.locator("#log-instance option").count() == 3
    page.screenshot(path=pictures / "logs.png")
    # Version 2 takes over; version 1 shuts down
    tab(page, "Versions")
    page.get_by_role("link", name="New version").click()
    page.get_by_label("Replicas", exact=True).fill("1")
    page.get_by_role("button", name="Create and start").click()
    expect(page.locator("#deployment-header")).to_contain_text("version 2", timeout=30_000)
    expect(page.locator("#deployment-header")).to_contain_text("1 of 1 ready", timeout=60_000)
    tab(page, "Versions")
    rows = page.locator("#versions tbody tr")
    expect(rows.nth(0)).to_contain_text("Running")
    expect(rows.nth(1)).to_contain_text("Stopped", timeout=30_000)
    page.screenshot(path=pictures / "versions.png")
    # Provoke a crash: the instance restarts and the event says why
    tab(page, "Online Testing")
    page.get_by_role("button", name="Crash the instance").click()
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#test-status")).to_have_text("502 Bad Gateway")
    tab(page, "Overview")
    expect(page.get_by_test_id("events")).to_contain_text("exit code 3", timeout=30_000)
    # One that crashes for good: Error, with the cause to read and ways out
    tab(page, "Versions")
    page.get_by_role("link", name="New version").click()
    page.get_by_label("Crash after (s)").fill("0.3")
    page.locator("input[name=strategy][value=replace]").check()
    page.get_by_role("button", name="Create and start").click()
    status_is(page, "Error", within_s=90)
    expect(page.get_by_test_id("cause")).to_contain_text("The program ended with exit code 3")
    expect(page.get_by_test_id("cause")).to_contain_text("crash requested")
    page.screenshot(path=pictures / "error.png")
    # Back to the last good one, then stop and delete
    page.get_by_role("button", name=re.compile("Back to version 2")).click()
    tab(page, "Overview")
    status_is(page, "Running")
    tab(page, "Monitoring")
    expect(page.locator("[data-chart=volume] .barlayer .trace").first).to_be_attached()
    page.locator("[data-chart=memory]").scroll_into_view_if_needed()
    expect(page.locator("[data-chart=memory] .scatterlayer .trace").first).to_be_attached(timeout=30_000)
    page.wait_for_timeout(500)
    page.screenshot(path=pictures / "monitoring.png", full_page=True)
    tab(page, "Versions")
    page.get_by_role("button", name="Stop").click()
    page.keyboard.press("Escape")
    expect(page.locator("#confirm")).to_be_hidden()
    page.get_by_role("button", name="Stop").click()
    confirm(page)
    status_is(page, "Stopped")
    tab(page, "Settings")
    page.get_by_role("button", name="Delete this deployment").click()
    confirm(page)
    page.get_by_role("heading", name="Model Deployments").wait_for()
    expect(page.get_by_text("The deployment demo/walk is deleted.")).to_be_visible()
    expect(page.locator("#deployments-table")).not_to_contain_text("walk")


def test_a_page_whose_deployment_another_deletes_says_so(open_page, signed_in, api):
    create(api, "brief", {"engine": "simulator", "engine_settings": QUICK})
    becomes(api, "brief", "running")
    page = signed_in()
    page.goto("/console/deployments/demo/brief/")
    status_is(page, "Running")
    remove(api, "brief")
    expect(page.get_by_text("There is nothing at this address")).to_be_visible()
    open_page.problems[:] = [text for text in open_page.problems if "404" not in text]


def test_an_address_survives_sign_in(open_page, product):
    page = open_page()
    page.goto("/console/deployments/demo/chat/logs/")
    page.locator("[name=login]").fill("admin")
    page.locator("[name=password]").fill(product.password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/console/deployments/demo/chat/logs/")


def test_a_wrong_password_is_told_in_words(open_page):
    page = open_page()
    page.goto("/")
    page.locator("[name=login]").fill("admin")
    page.locator("[name=password]").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("don't match an account")


PAGES = {
    "list": "/console/deployments/",
    "filtered": "/console/deployments/?search=nothing-like-this",
    "new": "/console/deployments/new/",
    "overview": "/console/deployments/demo/chat/",
    "versions": "/console/deployments/demo/chat/versions/",
    "version-new": "/console/deployments/demo/chat/versions/new/",
    "logs": "/console/deployments/demo/chat/logs/",
    "monitoring": "/console/deployments/demo/chat/monitoring/",
    "fleet": "/console/fleet/",
    "async": "/console/deployments/demo/chat/async/",
    "own-async": "/hub/requests/",
    "testing": "/console/deployments/demo/chat/testing/",
    "settings": "/console/deployments/demo/chat/settings/",
    "models": "/console/models/",
    "model": "/console/models/1/",
    "model-new": "/console/models/new/",
    "endpoints": "/console/endpoints/",
    "clusters": "/console/clusters/",
    "cluster": "/console/clusters/1/",
    "cluster-new": "/console/clusters/new/",
    "gateways": "/console/gateways/",
    "keys": "/hub/keys/",
    "key-new": "/hub/keys/new/",
    "keys-all": "/console/keys/",
    "audit": "/console/audit/",
    "administration": "/console/administration/",
    "organizations": "/console/organizations/",
    "organization": "/console/organizations/demo/",
    "tokens": "/account/tokens/",
    "account": "/account/",
    "second-factor": "/account/second-factor/",
    "second-factor-confirm": "/accounts/reauthenticate/",
    "quota": "/console/organizations/demo/quota/?edit",
    "cluster-quota": "/console/clusters/1/quota/?edit",
    "users": "/console/users/",
    "usage": "/console/usage/",
    "usage-own": "/hub/usage/?by=key",
    "hub-models": "/hub/models/",
    "hub-model": "/hub/models/1/",
    "hub-deployment": "/hub/deployments/demo/chat/",
    "hub-testing": "/hub/deployments/demo/chat/testing/",
}


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (1440, True), (390, False), (390, True)])
def test_every_page_fits_and_breaks_no_policy(signed_in, pictures, width, dark):
    page = signed_in(width=width, height=900 if width > 500 else 844, dark=dark)
    for name, address in PAGES.items():
        page.goto(address)
        page.wait_for_timeout(150)
        page.screenshot(path=pictures / f"{name}-{width}-{'dark' if dark else 'light'}.png", full_page=True)
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, f"{name} is {overflow} px wider than the screen"


def test_the_menu_has_at_most_nine_entries_all_in_sight(signed_in):
    page = signed_in()
    entries = page.locator("aside .nav-link")
    assert entries.count() <= 9
    assert all(entries.nth(index).bounding_box()["y"] < 900 for index in range(entries.count()))


def test_plotlys_rules_are_those_of_the_installed_release(signed_in):
    """The policy forbids Plotly's own style element, so a file of ours carries its rules."""
    page = signed_in()
    page.goto("/console/deployments/demo/chat/monitoring/")
    page.wait_for_function("window.Plotly !== undefined")
    assert page.evaluate("window.Plotly.version") == "4.1.1", "read the rules anew, see static/css/plotly.css"
    assert page.evaluate("document.getElementById('plotly.js-style-global').sheet.cssRules.length") == 66


def test_cancel_ends_a_request_wherever_it_is(signed_in):
    page = signed_in()
    page.goto("/console/deployments/demo/chat/testing/")
    expect(page.locator("#deployment-header")).to_contain_text("Running", timeout=60_000)
    page.get_by_role("button", name="Chat, streamed", exact=True).click()
    body = page.locator("[name=body]")
    body.fill(body.input_value().replace('"max_tokens": 64', '"max_tokens": 4000'))
    send, cancel = (page.get_by_role("button", name=name, exact=True) for name in ("Send", "Cancel"))
    for is_async in (False, True):
        page.get_by_label("Run asynchronously").set_checked(is_async)
        for pause_ms in (0, 1500) if is_async else (1500,):
            send.click()
            page.wait_for_timeout(pause_ms)
            cancel.click()
            expect(page.locator("#test-status")).to_have_text("Cancelled", timeout=15_000)
            expect(send).to_be_enabled()


def test_a_request_waits_in_the_queue(signed_in, pictures):
    page = signed_in()
    page.goto("/console/deployments/demo/chat/testing/")
    page.get_by_role("button", name="Chat", exact=True).click()
    page.get_by_label("Run asynchronously").check()
    page.get_by_label("Webhook").fill("http://example.com/")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("[data-error=webhook]")).to_contain_text("begins with https://")
    page.get_by_label("Webhook").fill("")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#test-status")).to_have_text("Completed (200)", timeout=20_000)
    expect(page.get_by_test_id("response-text")).to_contain_text("This is the Slipway simulator")
    page.screenshot(path=pictures / "testing-asynchronously.png")
    page.locator("#test-status").get_by_role("link").click()
    expect(page.get_by_test_id("result")).to_contain_text("This is the Slipway simulator")
    page.get_by_role("button", name="Send it again").click()
    expect(page.locator("#async-one .badge").first).to_have_text("Completed", timeout=20_000)
    # The deployment's queue shows both.
    page.goto("/console/deployments/demo/chat/async/")
    expect(page.get_by_test_id("count-completed")).to_contain_text("2")
    page.get_by_test_id("count-completed").click()
    expect(page.locator("#async-queue tbody tr")).to_have_count(2)
