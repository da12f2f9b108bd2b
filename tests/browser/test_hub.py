"""A developer's way: find a model, try it in the playground, make a key, run the copied samples, hit a limit, see the cost."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
HUB = "/hub/deployments/demo/chat/"


def run(command: list[str], text: str, key: str) -> str:
    """What a sample prints with the key in its environment."""
    environment = {**os.environ, "API_KEY": key, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_developer_finds_a_model_tries_it_and_calls_it(signed_in, pictures):
    page = signed_in()
    page.goto("/hub/models/")
    page.get_by_role("link", name="demo/chat").click()
    expect(page.locator("#hub-header .status")).to_have_text("Running", timeout=60_000)
    expect(page.locator("#chat-send")).to_be_enabled()
    # The playground streams, keeps the conversation, and answers that come whole are shown too
    page.locator("#chat-text").fill("What are you?")
    page.keyboard.press("Enter")
    expect(page.locator(".is-assistant").first).to_contain_text("Slipway simulator")
    expect(page.locator("#chat-send")).to_be_enabled(timeout=30_000)
    expect(page.locator("#chat-timing [data-time=first]")).to_contain_text("ms")
    expect(page.locator("#chat-timing [data-time=tokens]")).to_contain_text(re.compile(r"\d+, \d+"))
    page.get_by_text("Parameters", exact=True).click()
    page.locator("#chat-stream").select_option("")
    page.locator("#chat-max").fill("10")
    page.locator("#chat-text").fill("And <b>now</b>?")
    page.locator("#chat-send").click()
    expect(page.locator(".is-assistant").nth(1)).to_contain_text("Slipway simulator", timeout=30_000)
    expect(page.locator(".is-user").nth(1)).to_have_text("And <b>now</b>?")
    page.get_by_text("This chat as code").click()
    expect(page.locator("#chat-code")).to_contain_text('"assistant"')
    page.screenshot(path=pictures / "playground.png", full_page=True)
    # Stopping gives the question back, or keeps what had come
    page.locator("#chat-stream").select_option("yes")
    page.locator("#chat-max").fill("500")
    page.locator("#chat-text").fill("A long one")
    page.locator("#chat-send").click()
    expect(page.locator(".is-assistant").nth(2)).to_contain_text("simulator")
    page.locator("#chat-stop").click()
    expect(page.locator("#chat-send")).to_be_enabled()
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("#chat")).to_contain_text("Say something")
    # A key, and the samples as they are copied
    samples = {item: page.get_by_test_id(f"sample-{item}").text_content() for item in ("curl", "python", "javascript")}
    page.get_by_role("link", name="New API key").click()
    page.get_by_label("Name", exact=True).fill("samples")
    page.get_by_role("button", name=re.compile("Create")).click()
    key = page.get_by_test_id("new-key").inner_text().strip()
    assert "Slipway" in run(["bash"], samples["curl"].replace("export API_KEY=\n", ""), key)
    assert "Slipway" in run([sys.executable, "-"], samples["python"], key)
    node = shutil.which("node", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert "Slipway" in run([node, "--input-type=module", "-"], samples["javascript"], key)
    # A price and a limit: the next call is refused in words, and what was used before shows up
    page.goto("/console/deployments/demo/chat/settings/")
    page.get_by_label("Each API key: requests a minute").fill("1")
    page.locator("#limits").get_by_role("button", name="Save").click()
    expect(page.get_by_text("Gateways apply it within a second")).to_be_visible()
    curl = samples["curl"].replace("export API_KEY=\n", "")
    answers = "".join(run(["bash"], curl, key) for _ in range(3))
    assert "The limit of 1 requests a minute for this API key on demo/chat is used up" in answers
    expect(page.locator("#limit-use")).to_contain_text("samples", timeout=15_000)
    page.screenshot(path=pictures / "limits.png", full_page=True)
    page.get_by_label("Each API key: requests a minute").fill("")
    page.locator("#limits").get_by_role("button", name="Save").click()
    expect(page.get_by_text("Gateways apply it within a second")).to_be_visible()
    page.goto("/hub/usage/?by=key")
    for _ in range(20):
        if page.get_by_text("samples (no.").count():
            break
        page.wait_for_timeout(1000)
        page.reload()
    expect(page.locator("tbody").get_by_text("samples (no.")).to_be_visible()
    expect(page.locator("[data-chart=usage] .barlayer .trace").first).to_be_attached()
    page.screenshot(path=pictures / "own-usage.png", full_page=True)


def test_a_refused_price_and_limit_keep_what_was_typed(signed_in):
    page = signed_in()
    page.goto("/console/deployments/demo/chat/settings/")
    page.get_by_label("A million input tokens").fill("123456789012")
    page.get_by_role("button", name="Set this price").click()
    expect(page.locator("#id_input_price_error")).to_contain_text("8 digits")
    expect(page.get_by_label("A million input tokens")).to_have_value("123456789012")
