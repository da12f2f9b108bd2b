"""Clients that ask again and again while something happens to the product."""

import threading
import time
from collections import Counter
from collections.abc import Callable

import httpx


class Load:
    """`clients` threads, each with connections of its own; what `ask` returns is counted, and so are broken connections by name."""

    def __init__(self, clients: int, ask: Callable[[httpx.Client], object], *, pause_s: float = 0.005) -> None:
        self._ask, self._pause_s, self._stopped = ask, pause_s, threading.Event()
        self.answers: Counter[object] = Counter()
        self._threads = [threading.Thread(target=self._go_on, daemon=True) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(30)

    def _go_on(self) -> None:
        with httpx.Client(trust_env=False, timeout=30) as client:
            while not self._stopped.is_set():
                try:
                    self.answers[self._ask(client)] += 1
                except httpx.HTTPError as error:
                    self.answers[0, type(error).__name__] += 1
                time.sleep(self._pause_s)


def completions(url: str, *, clients: int = 6) -> Load:
    """Completions at `url`; the answers are (status, error code)."""

    def ask(client: httpx.Client) -> tuple[int, str]:
        response = client.post(url, json={"model": "x", "prompt": "a b", "max_tokens": 8})
        return response.status_code, response.json()["error"]["code"] if response.status_code >= 400 else ""

    return Load(clients, ask)
