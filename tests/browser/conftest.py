"""A real Chromium on the real product; every page is watched for console errors and violations of the policy."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Playwright, expect

from tests.system.conftest import Product, api, product  # noqa: F401

# What a page shows may wait for its turn on a busy machine; a test that never comes true fails all the same.
expect.set_options(timeout=30_000)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHROMIUM is None:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="no Chromium on this machine (Debian: apt-get install chromium)"))


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    running = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
    yield running
    running.close()


@pytest.fixture
def open_page(browser: Browser, product: Product) -> Iterator[Callable[..., Page]]:  # noqa: F811
    """`open_page(width=…, dark=…)`: a page in a context of its own. Fails the test on any console error."""
    problems: list[str] = []
    contexts = []

    def make(*, width: int = 1440, height: int = 900, dark: bool = False) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            base_url=product.console,
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(
            "document.addEventListener('securitypolicyviolation', (e) => console.error('policy violated: ' + e.violatedDirective + ' ' + e.blockedURI))"
        )
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.set_default_timeout(20_000)
        return page

    make.problems = problems
    yield make
    for context in contexts:
        context.close()
    expected = ("status of 422", "status of 400", "WebSocket connection")
    unexpected = [text for text in problems if not any(part in text for part in expected)]
    assert not unexpected, unexpected


@pytest.fixture
def signed_in(open_page, product: Product) -> Callable[..., Page]:  # noqa: F811
    def make(**options) -> Page:
        page = open_page(**options)
        page.goto("/")
        page.get_by_label("Username or email", exact=False).or_(page.locator("[name=login]")).first.fill("admin")
        page.locator("[name=password]").fill(product.password)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Model Deployments").wait_for()
        return page

    return make


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Where the walk's screenshots go; the README shows them."""
    folder = Path(__file__).resolve().parents[2] / "build" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
