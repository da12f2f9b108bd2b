"""The Monitoring tab as an operator uses it: zoom, hide, click, follow, and reopen exactly the same view by its link."""

import re
import time
from urllib.parse import parse_qs, urlparse

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.waiting import wait_for

pytestmark = pytest.mark.system
TAB = "/console/deployments/demo/chat/monitoring/"


def ask(product, count: int) -> None:
    """So many answered requests."""
    body = {"model": "demo/chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stream": True}
    address = f"{product.gateway}/v1/chat/completions"
    for _ in range(count):
        # The first ones may come while the deployment still starts.
        wait_for(lambda: httpx.post(address, json=body, trust_env=False, timeout=30).status_code == 200, within_s=60)


def query(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlparse(page.url).query)


def drawn(page: Page) -> int:
    """How many requests the bars show."""
    script = """() => document.querySelector('[data-chart=volume] [data-plot]').calcdata
        .filter((points) => points[0].trace.type === 'bar').flat().reduce((sum, point) => sum + (point.s || 0), 0)"""
    return page.evaluate(script)


def is_hidden(page: Page, chart: str, curve: str) -> bool:
    script = "([chart, curve]) => document.querySelector(`[data-chart=${chart}] [data-plot]`).data.find((trace) => trace.meta === curve).visible === 'legendonly'"
    return page.evaluate(script, [chart, curve])


@pytest.fixture
def page(signed_in, product) -> Page:
    ask(product, 3)
    page = signed_in()
    page.goto(TAB)
    expect(page.locator("[data-chart=volume] .barlayer .trace").first).to_be_attached()
    return page


def test_live_requests_come_within_two_seconds_and_nothing_is_redrawn_anew(page, product):
    expect(page.locator("#chart-state")).to_contain_text("live")
    page.evaluate("document.querySelector('[data-chart=volume] [data-plot]').dataset.sameElement = 'yes'")
    before = drawn(page)
    ask(product, 5)
    started = time.monotonic()
    counted = page.locator("#statistics .statistic-value").first
    wait_for(lambda: counted.text_content() == str(before + 5), within_s=3)
    # The page says each second what the gateway tells each second.
    assert time.monotonic() - started < 3
    wait_for(lambda: drawn(page) == before + 5, within_s=10)
    assert page.evaluate("document.querySelector('[data-chart=volume] [data-plot]').dataset.sameElement") == "yes"


def test_dragging_zooms_to_a_range_that_a_link_reopens_and_back_leaves(page, open_page, product):
    plot = page.locator("[data-chart=volume] .nsewdrag").first
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.98, box["y"] + 40, steps=8)
    page.mouse.up()
    page.wait_for_url(re.compile("from=\\d+"))
    found = query(page)
    assert 60 <= int(found["to"][0]) - int(found["from"][0]) < 900
    expect(page.locator("#free-range")).to_be_visible()
    # Zoomed by the mouse at first, then read anew, finer: the server's range is in numbers.
    script = "document.querySelector('[data-chart=volume] [data-plot]').layout.xaxis.range"
    wait_for(lambda: isinstance(page.evaluate(script)[0], int))
    axis = page.evaluate(script)
    # A link opens the same in a page of its own.
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("[data-chart=volume] .barlayer .trace").first).to_be_attached()
    assert other.evaluate(script) == axis
    assert query(other) == found
    page.go_back()
    expect(page.locator("#free-range")).to_be_hidden()
    expect(page.locator("#chart-state")).to_contain_text("live")


def test_curves_hidden_by_their_legend_stay_hidden_by_the_link(page):
    latency = page.locator("[data-chart=end_to_end]")
    median, highest = (latency.get_by_role("button", name=name, exact=True) for name in ("p50", "max"))
    latency.scroll_into_view_if_needed()
    expect(median).to_have_attribute("aria-pressed", "true")
    expect(highest).to_have_attribute("aria-pressed", "false")
    assert is_hidden(page, "end_to_end", "max") and not is_hidden(page, "end_to_end", "p50")
    median.click()
    page.wait_for_url(re.compile("end_to_end.p50"))
    # By keyboard too.
    highest.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("end_to_end.max"))
    expect(highest).to_be_focused()
    assert is_hidden(page, "end_to_end", "p50") and not is_hidden(page, "end_to_end", "max")
    page.reload()
    latency.scroll_into_view_if_needed()
    expect(median).to_have_attribute("aria-pressed", "false")
    expect(highest).to_have_attribute("aria-pressed", "true")
    assert is_hidden(page, "end_to_end", "p50") and not is_hidden(page, "end_to_end", "max")
    # Live points change nothing about it.
    page.wait_for_timeout(2500)
    assert is_hidden(page, "end_to_end", "p50")


def test_a_click_on_a_point_tells_of_its_moment(page):
    # Held still first: while nobody's pointer is on it the chart moves on with the time.
    page.locator("[data-chart=volume] .nsewdrag").first.hover()
    boxes = [bar.bounding_box() for bar in page.locator("[data-chart=volume] .barlayer .point path").all()]
    box = next(box for box in reversed(boxes) if box["height"] > 0)
    page.mouse.move(box["x"] + box["width"] / 2 + 1, box["y"] - 5)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("[data-chart=volume] .hoverlayer")).to_contain_text("2xx")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    card = page.locator("#moment-card")
    expect(card).to_contain_text("Logs")
    expect(card).to_contain_text("chat-v1-")
    assert "moment" in query(page)
    card.get_by_role("button", name="Close").click()
    expect(card).to_have_count(0)
    assert "moment" not in query(page)


def test_a_chart_is_read_by_keyboard(page):
    plot = page.get_by_role("group", name="Inference volume.")
    plot.focus()
    expect(plot).to_be_focused()
    plot.press("End")
    spoken = page.locator("[data-chart=volume] [aria-live]")
    expect(spoken).to_have_text(re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d: .*2xx \d"))
    last = spoken.text_content()[:19]
    plot.press("ArrowLeft")
    expect(spoken).not_to_contain_text(last)
    plot.press("ArrowRight")
    expect(spoken).to_contain_text(last)
    # News don't take away what is being read.
    page.wait_for_timeout(2500)
    expect(page.locator("[data-chart=volume] .hoverlayer")).to_contain_text("2xx")
    plot.press("Enter")
    expect(page.locator("#moment-card")).to_contain_text("Logs")
    plot.press("Escape")
    expect(spoken).to_have_text("")


def test_choices_live_in_the_address_and_bad_ones_are_told(page):
    page.get_by_label("Width of a bar").select_option("1m")
    page.get_by_label("Time zone").fill("Asia/Kolkata")
    page.get_by_label("Time zone").press("Tab")
    page.get_by_text("Previous period").click()
    page.wait_for_url(re.compile("compare=previous"))
    expect(page.locator("[data-chart=volume] [data-facts]")).to_contain_text("a bar is 1 min")
    assert query(page)["tz"] == ["Asia/Kolkata"] and query(page)["interval"] == ["1m"]
    link = page.locator("#csv").get_attribute("href")
    assert "+05:30" in page.request.get(link).text()
    page.get_by_label("Time zone").fill("Mars")
    page.get_by_label("Time zone").press("Tab")
    expect(page.locator("#chart-state")).to_contain_text("Time zone: “Mars” is unknown")


def test_the_fleet_shows_what_was_asked(page, product):
    page.goto("/console/fleet/")
    row = page.locator("#fleet-table tr", has_text="chat").first
    expect(row).to_contain_text("Running")
    row.get_by_role("link", name="chat").click()
    page.wait_for_url(re.compile("monitoring/.*range=1h"))
