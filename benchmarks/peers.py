"""The servers beside the gateway under test: nginx as upstream and as the peer it is compared with, and a source of streams."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

ANSWER_BYTES = 1024
_COMMON = """
daemon off; pid {folder}/{name}.pid; error_log {folder}/{name}.err; worker_processes 1;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {folder}/{name}-body; proxy_temp_path {folder}/{name}-proxy;
  fastcgi_temp_path {folder}/{name}-f; uwsgi_temp_path {folder}/{name}-u; scgi_temp_path {folder}/{name}-s;
  keepalive_requests 100000000; keepalive_timeout 300s; client_body_buffer_size 64k;
  {body}
}}
"""


def answer() -> bytes:
    """A completion of exactly ANSWER_BYTES with token usage, as engines give it."""
    value = {
        "id": "cmpl-1", "object": "chat.completion", "model": "chat",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
    }  # fmt: skip
    value["choices"][0]["message"]["content"] = "x" * (ANSWER_BYTES - len(orjson.dumps(value)))
    return orjson.dumps(value)


@contextmanager
def nginx_upstream(folder: Path) -> Iterator[int]:
    """Answers every request with the same completion; its port."""
    port = free_port()
    body = f"server {{ listen 127.0.0.1:{port} backlog=4096; default_type application/json; location / {{ return 200 '{answer().decode()}'; }} }}"
    with _nginx(folder, "upstream", body, port):
        yield port


@contextmanager
def nginx_page(folder: Path, page: str) -> Iterator[int]:
    """Serves one text at /metrics, as engines do; its port."""
    port = free_port()
    (folder / "page").mkdir(exist_ok=True)
    # Workers run as another user.
    (folder / "page").chmod(0o755)
    (folder / "page" / "metrics").write_text(page)
    folder.chmod(0o755)
    body = f"server {{ listen 127.0.0.1:{port} backlog=4096; default_type text/plain; root {folder}/page; }}"
    with _nginx(folder, "page", body, port):
        yield port


@contextmanager
def silent_server() -> Iterator[int]:
    """Takes connections and never answers; its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        yield listener.getsockname()[1]


@contextmanager
def nginx_proxy(folder: Path, upstream_port: int, *, buffering: bool = True) -> Iterator[tuple[int, int]]:
    """A plain proxy with kept connections to the upstream; (port, pid)."""
    port = free_port()
    switch = "on" if buffering else "off"
    body = f"""
  upstream instance {{ server 127.0.0.1:{upstream_port}; keepalive 1024; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{
    proxy_pass http://instance; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering {switch}; }} }}"""
    with _nginx(folder, f"proxy-{switch}", body, port) as pid:
        yield port, pid


@contextmanager
def litellm_proxy(folder: Path, upstream_port: int) -> Iterator[tuple[int, int] | None]:
    """LiteLLM's proxy with one worker before the upstream, its model `bench/chat`; None where it isn't installed."""
    program = os.environ.get("LITELLM") or shutil.which("litellm")
    if program is None:
        yield None
        return
    port = free_port()
    model = {"model": "openai/chat", "api_base": f"http://127.0.0.1:{upstream_port}/v1", "api_key": "none"}
    configuration = folder / "litellm.json"
    configuration.write_bytes(orjson.dumps({"model_list": [{"model_name": "bench/chat", "litellm_params": model}]}))
    # Nothing of ours, Django's settings above all, is its business.
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }  # fmt: skip
    process = subprocess.Popen(
        [program, "--config", str(configuration), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"],
        env=environment, stdout=(folder / "litellm.log").open("wb"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        await_port(port, within_s=120)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def stream_source() -> Iterator[int]:
    """Serves server-sent events at the pace that the request asks for; its port."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.stream_source", str(port)])
    try:
        await_port(port)
        yield port
    finally:
        process.kill()
        process.wait()


@contextmanager
def bare_forwarder(upstream_port: int) -> Iterator[tuple[int, int]]:
    """(port, pid)."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.bare_forwarder", str(port), str(upstream_port)])
    try:
        await_port(port)
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def await_port(port: int, within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def _nginx(folder: Path, name: str, body: str, port: int) -> Iterator[int]:
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    configuration = folder / f"{name}.conf"
    configuration.write_text(_COMMON.format(folder=folder, name=name, body=body))
    process = subprocess.Popen([program, "-e", str(folder / f"{name}.err"), "-c", str(configuration)])
    try:
        await_port(port)
        yield process.pid
    finally:
        process.terminate()
        process.wait()
