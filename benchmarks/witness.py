"""A witness: wrk's own count and percentiles beside what the charts and the ledger tell of the same requests."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from benchmarks import peers
from benchmarks.installation import Installation, gateway, until_served
from benchmarks.load import post_script, wrk
from benchmarks.report import Row
from monitoring import panel
from monitoring.models import UsageMinute
from monitoring.question import Question

SECONDS, CONNECTIONS = 20, 24
BODY = b'{"model":"bench/witness","messages":[{"role":"user","content":"hello"}],"max_tokens":8}'


@contextmanager
def _simulator() -> Iterator[int]:
    """Fewer at once than there are callers: they wait for each other, and latencies spread."""
    port = peers.free_port()
    command = [
        sys.executable,
        "-m",
        "runtimes.simulator",
        "--port",
        str(port),
        "--model",
        "bench/witness",
        "--load-time-s",
        "0",
    ]
    command += ["--time-to-first-token-ms", "60", "--inter-token-ms", "5", "--concurrency", "7"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def run() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        upstream = stack.enter_context(_simulator())
        installation = Installation()
        installation.serve("witness", upstream)
        port, _ = stack.enter_context(gateway("witness"))
        until_served(port, "/e/witness/health")
        started = time.time()
        load = wrk(f"http://127.0.0.1:{port}/v1/chat/completions", connections=CONNECTIONS, seconds=SECONDS, script=post_script(Path(name), BODY))  # fmt: skip
        deployment = installation.deployment("witness")
        booked = _booked(deployment.pk, load.requests)
        question = Question(range="5m", start=None, end=None)
        told = panel.build(deployment, question, int(max(time.time(), started + SECONDS)))["statistics"]
        page = httpx.get(f"http://127.0.0.1:{upstream}/metrics", trust_env=False).text
    counted = sum(
        int(float(line.split()[-1])) for line in page.splitlines() if line.startswith("vllm:generation_tokens_total")
    )
    # wrk leaves when its time is over: what was under way then it doesn't count, the gateway does, as cancelled.
    yield Row(
        "Requests, wrk's count and the ledger's",
        f"{booked['completed']:,} completed",
        f"wrk {load.requests:,}",
        booked["completed"] / load.requests,
    )
    yield Row(
        "Output tokens, the ledger's and the engine's",
        f"{booked['output_tokens']:,}",
        f"engine {counted:,}",
        booked["output_tokens"] / counted,
    )
    for percentile, seen in (("p50", load.p50_ms), ("p99", load.p99_ms)):
        ours = told["end_to_end"][percentile] * 1000
        yield Row(
            f"End-to-end time, {percentile}",
            f"{ours:.1f} ms",
            f"wrk {seen:.1f} ms",
            max(ours / seen, seen / ours),
            1.01,
        )


def _booked(deployment_id: int, least: int) -> dict[str, int]:
    """What the ledger has once it has as many requests."""
    deadline = time.monotonic() + 60
    while True:
        rows = list(UsageMinute.objects.filter(deployment_id=deployment_id))
        found = {name: sum(getattr(row, name) for row in rows) for name in ("completed", "cancelled", "output_tokens")}
        if found["completed"] >= least or time.monotonic() > deadline:
            return found
        time.sleep(1)
