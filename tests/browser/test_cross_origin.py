"""A page of another site calls a deployment from a real browser."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from tests.system.test_main_job import becomes

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
CALL = """async ([address, body]) => {
    try {
        const answer = await fetch(address, {method: "POST", headers: {"Content-Type": "application/json"}, body});
        return [answer.status, answer.headers.get("x-slipway-served-by"), await answer.text()];
    } catch (error) { return String(error); }
}"""
CHAT = '{"model": "demo/chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "stream": %s}'


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>app</title>")

    def log_message(self, *values: object) -> None: ...


@pytest.fixture
def site() -> Iterator[str]:
    """The origin of a site that isn't Slipway's."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_page_reads_answers_and_streams_once_its_origin_is_named(open_page, product, api, site):
    becomes(api, "chat", "running")
    (endpoint,) = api.get("endpoints/").json()["results"]
    page = open_page()
    page.goto(site)
    chat = f"{product.gateway}/v1/chat/completions"
    assert "Failed to fetch" in page.evaluate(CALL, [chat, CHAT % "false"])
    api.patch(f"endpoints/{endpoint['id']}/", json={"origins": [site]}).raise_for_status()
    try:
        # The gateway knows within a second.
        page.wait_for_function(f"async () => (await fetch('{product.gateway}/v1/models').catch(() => null)) !== null")
        status, served_by, text = page.evaluate(CALL, [chat, CHAT % "false"])
        assert status == 200 and "demo/chat" in served_by and '"choices"' in text
        status, _, text = page.evaluate(CALL, [chat, CHAT % "true"])
        assert status == 200 and text.rstrip().endswith("data: [DONE]")
        status, _, text = page.evaluate(CALL, [chat, '{"model": "nothing"}'])
        assert status == 404 and "There is no" in text, "what went wrong can be read, too"
    finally:
        api.patch(f"endpoints/{endpoint['id']}/", json={"origins": []}).raise_for_status()
    open_page.problems[:] = [text for text in open_page.problems if "CORS" not in text and "Failed to load" not in text]
