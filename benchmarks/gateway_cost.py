"""What the gateway costs beside nginx as a plain proxy, in the same run: per request, per streamed event, in latency."""

import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import orjson

from benchmarks import peers
from benchmarks.cpu import memory_of, spent_by
from benchmarks.installation import Installation, gateway
from benchmarks.load import Load, at_rate, post_script, streams, wrk
from benchmarks.report import Row

ROUNDS = 5
SECONDS = 4
CONNECTIONS = 100
STREAMS, EVENTS, EVERY_MS = 200, 200, 20


def run() -> Iterator[Row]:
    """Rounds alternate between gateway and nginx, so that a noisy minute hits both."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with peers.nginx_upstream(folder) as upstream, peers.nginx_proxy(folder, upstream) as nginx:
            plain = Installation()
            path = plain.serve("chat", upstream)
            with gateway() as ours:
                _settle(ours[0], path)
                yield _memory_per_connection(ours)
                yield from _per_request(ours, nginx, path)
                yield from _completions(ours, nginx, folder)
                yield from _connections(ours, nginx, path)
                yield from _added_latency(ours, nginx, upstream, path)
            yield from _two_gateways(path)
            with peers.stream_source() as source, peers.nginx_proxy(folder, source, buffering=False) as unbuffered:
                streamed = plain.serve("stream", source)
                with gateway("streams") as ours:
                    _settle(ours[0], streamed)
                    yield from _per_event(ours, unbuffered, streamed)


def _per_request(ours: tuple[int, int], nginx: tuple[int, int], path: str) -> Iterator[Row]:
    pairs = [(_cost(ours, path), _cost(nginx, path)) for _ in range(ROUNDS)]
    mine, peer = (median(costs) for costs in zip(*pairs, strict=True))
    yield Row("CPU per request, 1 KiB JSON", f"{mine:.1f} µs", f"nginx {peer:.1f} µs", mine / peer, 1.5)


def _completions(ours: tuple[int, int], nginx: tuple[int, int], folder: Path) -> Iterator[Row]:
    body = orjson.dumps({"model": "bench/chat", "messages": [{"role": "user", "content": "x" * 900}]})
    script = post_script(folder, body)
    pairs = [
        (_cost(ours, "/v1/chat/completions", script), _cost(nginx, "/v1/chat/completions", script))
        for _ in range(ROUNDS)
    ]
    mine, peer = (median(costs) for costs in zip(*pairs, strict=True))
    yield Row(
        "CPU per chat completion, 1 KiB in and out, tokens counted",
        f"{mine:.1f} µs",
        f"nginx {peer:.1f} µs",
        mine / peer,
    )


def _connections(ours: tuple[int, int], nginx: tuple[int, int], path: str) -> Iterator[Row]:
    for connections in (1, 100, 1000):
        mine = _loaded(ours, path, connections)
        peer = _loaded(nginx, path, connections)
        yield Row(
            f"Requests/s, {connections} connections",
            f"{mine.rate:,.0f} (p99 {mine.p99_ms:.1f} ms)",
            f"nginx {peer.rate:,.0f} (p99 {peer.p99_ms:.1f} ms)",
            peer.rate / mine.rate,
        )


def _added_latency(ours: tuple[int, int], nginx: tuple[int, int], upstream: int, path: str) -> Iterator[Row]:
    """At half of what the load client itself can send, which is below half of what either proxy can take."""
    rate = 2000.0
    direct = at_rate(upstream, path, rate=rate, seconds=5)
    mine = at_rate(ours[0], path, rate=rate, seconds=5)
    peer = at_rate(nginx[0], path, rate=rate, seconds=5)
    for index, name in enumerate(("p50", "p99")):
        added, peer_added = mine[index] - direct[index], peer[index] - direct[index]
        yield Row(
            f"Added latency {name} at {rate:,.0f} requests/s", f"{added:.2f} ms", f"nginx {peer_added:.2f} ms", None
        )


def _memory_per_connection(ours: tuple[int, int]) -> Row:
    before = memory_of(ours[1])
    idle = [socket.create_connection(("127.0.0.1", ours[0])) for _ in range(1000)]
    time.sleep(1.5)
    each = (memory_of(ours[1]) - before) / len(idle)
    for connection in idle:
        connection.close()
    return Row("Memory per idle connection", f"{each / 1024:.1f} KiB", f"process {before >> 20} MiB", None)


def _two_gateways(path: str) -> Iterator[Row]:
    with gateway("one") as one:
        _settle(one[0], path)
        single = _loaded(one, path, CONNECTIONS)
        with gateway("two", port=one[0]):
            _settle(one[0], path)
            time.sleep(2)
            both = _loaded(one, path, CONNECTIONS)
    yield Row(
        "Requests/s with two gateways on one port",
        f"{both.rate:,.0f}",
        f"one gateway {single.rate:,.0f} (load, upstream and gateways share 2 cores)",
        both.rate / single.rate,
    )


def _per_event(ours: tuple[int, int], nginx: tuple[int, int], path: str) -> Iterator[Row]:
    pace = f"{STREAMS} streams at {1000 // EVERY_MS}/s"
    query = f"?events={EVENTS}&every_ms={EVERY_MS}"
    for what, ending in (("CPU per streamed event", "/x"), ("The same, tokens counted", "/v1/chat/completions")):
        pairs = [(_event_cost(ours, path + ending + query), _event_cost(nginx, ending + query)) for _ in range(3)]
        mine, peer = (median(costs) for costs in zip(*pairs, strict=True))
        yield Row(f"{what}, {pace}", f"{mine:.1f} µs", f"nginx {peer:.1f} µs", mine / peer, 1.25)


def _event_cost(server: tuple[int, int], path: str) -> float:
    with spent_by(server[1]) as spent:
        events = streams(server[0], path, connections=STREAMS)
    if events != STREAMS * EVENTS:
        raise RuntimeError(f"{STREAMS * EVENTS} events were sent, {events} came")
    return spent.cpu_s / events * 1e6


def _cost(server: tuple[int, int], path: str, script: Path | None = None) -> float:
    """Microseconds of CPU per request."""
    with spent_by(server[1]) as spent:
        load = wrk(f"http://127.0.0.1:{server[0]}{path}", connections=CONNECTIONS, seconds=SECONDS, script=script)
    if load.errors:
        raise RuntimeError(f"{load.errors} of {load.requests} requests failed")
    return spent.cpu_s / load.requests * 1e6


def _loaded(server: tuple[int, int], path: str, connections: int) -> Load:
    return wrk(f"http://127.0.0.1:{server[0]}{path}", connections=connections, seconds=SECONDS)


def _settle(port: int, path: str) -> None:
    """Wait until the gateway's directory has the deployment."""
    deadline = time.monotonic() + 20
    while wrk(f"http://127.0.0.1:{port}{path}", connections=1, seconds=1).errors:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the gateway doesn't know {path}")
