"""The whole product, started by its own command on free ports, with a folder of its own."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from dashboard.home import Home
from tests.waiting import wait_for

PROJECT = Path(__file__).resolve().parents[2]


class Product:
    """`manage.py up` in a child process, with sign-in and API at hand."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self._options = options
        self.port, self.gateway_port = _free_ports(2)
        self.console = f"http://127.0.0.1:{self.port}"
        self.gateway = f"http://127.0.0.1:{self.gateway_port}"
        self.password = ""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        keep = {
            name: value
            for name, value in os.environ.items()
            if name not in ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE")
        }
        log = (self.home / "up.out").open("ab")
        command = [
            sys.executable,
            "manage.py",
            "up",
            "--port",
            str(self.port),
            "--gateway-port",
            str(self.gateway_port),
            *self._options,
        ]
        self.process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env={**keep, "SLIPWAY_HOME": str(self.home)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        wait_for(
            lambda: self._check() and "Slipway is ready" in self.output().rsplit("Stopped.", 1)[-1],
            within_s=90,
            what="the address in the output",
        )
        found = re.findall(r"Password:\s+(\S+)", self.output())
        self.password = found[-1] if found else self.password

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=90)

    def output(self) -> str:
        return (self.home / "up.out").read_text()

    def pids(self) -> dict[str, int]:
        """The supervised processes by name, as their command lines tell."""
        names = {"uvicorn": "web", "-m gateway": "gateway", "celery -A dashboard worker": "worker", "celery -A dashboard beat": "beat", "manage.py watcher": "watcher", "manage.py dispatcher": "dispatcher",
                 "bin/postgres -D": "postgres", "valkey-server valkey ": "valkey", "valkey-server scratch ": "scratch"}  # fmt: skip
        found = {}
        for child in self._descendants():
            try:
                words = " ".join(child.cmdline())
            except psutil.Error:
                continue
            for mark, name in names.items():
                if mark in words:
                    found.setdefault(name, child.pid)
        return found

    def gateway_pids(self) -> list[int]:
        return [child.pid for child in self._descendants() if "-m gateway" in " ".join(_words(child))]

    def instances(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in self.home.glob("instances/*/*/*/state.json")]

    def _descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True) if self.process else []

    def _check(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.output()
        return True

    def session(self) -> httpx.Client:
        """A signed-in browser without JavaScript."""
        client = httpx.Client(base_url=self.console, follow_redirects=True, timeout=30, trust_env=False)
        page = client.get("/accounts/login/")
        data = {"login": "admin", "password": self.password, "csrfmiddlewaretoken": csrf_of(page.text)}
        answer = client.post("/accounts/login/", data=data, headers={"Referer": self.console})
        assert "Model Deployments" in answer.text, answer.text[:2000]
        return client

    def api(self) -> httpx.Client:
        """A script's client with a token of its own."""
        browser = self.session()
        page = browser.get("/account/tokens/")
        made = browser.post(
            "/account/tokens/",
            data={"label": "tests", "csrfmiddlewaretoken": csrf_of(page.text)},
            headers={"Referer": self.console},
        )
        token = re.search(r'data-testid="new-token">(\S+?)<', made.text).group(1)
        return httpx.Client(
            base_url=f"{self.console}/api/v1/",
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
            trust_env=False,
        )


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def csrf_of(text: str) -> str:
    return re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', text).group(1)


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture(scope="session")
def product() -> Iterator[Product]:
    with started_product() as running:
        yield running


@contextmanager
def started_product(*options: str) -> Iterator[Product]:
    with tempfile.TemporaryDirectory(prefix="slipway-up-") as folder:
        running = Product(Path(folder), *options)
        try:
            running.start()
            yield running
        finally:
            running.stop()
            # As root the servers' data lies outside the home.
            shutil.rmtree(Home(Path(folder)).servers, ignore_errors=True)


@pytest.fixture(scope="session")
def api(product: Product) -> Iterator[httpx.Client]:
    with product.api() as client:
        yield client


@pytest.fixture(autouse=True)
def _instances_end() -> None:
    """The product looks after its own instances."""
