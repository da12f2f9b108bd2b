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
from benchmarks.load import Load, at_rate, pause_script, post_script, streams, wrk
from benchmarks.report import Row

# Short rounds that alternate, so that a noisy minute hits all alike.
ROUNDS = 25
SECONDS = 1
CONNECTIONS = 100
STREAMS, EVENTS, EVERY_MS = 200, 100, 20
IDLE = 5000
COMPLETIONS = "/v1/chat/completions"
COMPLETION = orjson.dumps({"model": "bench/chat", "messages": [{"role": "user", "content": "x" * 900}]})


def run() -> Iterator[Row]:
    """All rows of the gateway, in the order in which docs/benchmarks.md tells them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with peers.nginx_upstream(folder) as upstream, peers.nginx_proxy(folder, upstream) as nginx:
            plain = Installation()
            path = plain.serve("chat", upstream)
            with gateway("idle") as ours:
                yield _memory_per_connection(ours)
            with gateway() as ours:
                _settle(ours[0], path)
                yield from _per_request(ours, nginx, path)
                yield from _below_the_limit(ours, nginx, path, folder)
                yield from _completions(ours, nginx, folder)
                yield from _litellm(ours, upstream, folder)
                yield from _connections(ours, nginx, path)
                yield from _added_latency(ours, nginx, upstream, path)
            yield from _two_gateways(path)
            with peers.stream_source() as source, peers.nginx_proxy(folder, source, buffering=False) as unbuffered:
                streamed = plain.serve("stream", source)
                with gateway("streams") as ours:
                    _settle(ours[0], streamed)
                    yield from _per_event(ours, unbuffered, streamed)


def _per_request(ours: tuple[int, int], nginx: tuple[int, int], path: str) -> Iterator[Row]:
    yield _paired("CPU per request, 1 KiB JSON", [(_cost(ours, path), _cost(nginx, path)) for _ in range(ROUNDS)], 1.5)


def _below_the_limit(ours: tuple[int, int], nginx: tuple[int, int], path: str, folder: Path) -> Iterator[Row]:
    """At full load both save calls of the kernel by doing several requests at once; hardly any installation runs so."""
    script = pause_script(folder, 20)
    pairs = [(_cost(ours, path, script), _cost(nginx, path, script)) for _ in range(ROUNDS)]
    yield _paired("The same at about 4,500 requests/s", pairs)


def paired_costs(
    what: str, ours: tuple[int, int], nginx: tuple[int, int], path: str, script: Path, rounds: int, target: float | None
) -> Row:
    """CPU per request of a gateway beside nginx, both asked the same way."""
    return _paired(what, [(_cost(ours, path, script), _cost(nginx, path, script)) for _ in range(rounds)], target)


def _paired(what: str, pairs: list[tuple[float, float]], target: float | None = None) -> Row:
    """Medians of both, and the median of the rounds' own ratios: a slow second is slow for both halves of its round."""
    mine, peer = (median(costs) for costs in zip(*pairs, strict=True))
    return Row(what, f"{mine:.1f} µs", f"nginx {peer:.1f} µs", median(one / other for one, other in pairs), target)


def _completions(ours: tuple[int, int], nginx: tuple[int, int], folder: Path) -> Iterator[Row]:
    script = post_script(folder, COMPLETION)
    pairs = [(_cost(ours, COMPLETIONS, script), _cost(nginx, COMPLETIONS, script)) for _ in range(ROUNDS)]
    yield _paired("CPU per chat completion, 1 KiB in and out, tokens counted", pairs)


def _litellm(ours: tuple[int, int], upstream: int, folder: Path) -> Iterator[Row]:
    """The same completions through LiteLLM's proxy, where it is installed."""
    script = post_script(folder, COMPLETION)
    with peers.litellm_proxy(folder, upstream) as litellm:
        if litellm is None:
            return
        wrk(f"http://127.0.0.1:{litellm[0]}{COMPLETIONS}", connections=4, seconds=3, script=script)
        pairs = [
            (_cost(ours, COMPLETIONS, script), _cost(litellm, COMPLETIONS, script, seconds=5, connections=16))
            for _ in range(3)
        ]
    mine, peer = (median(costs) for costs in zip(*pairs, strict=True))
    yield Row("The same beside LiteLLM's proxy", f"{mine:.1f} µs", f"LiteLLM {peer:,.0f} µs", mine / peer, 0.01)


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
    rounds = [[at_rate(port, path, rate=rate, seconds=2) for port in (upstream, ours[0], nginx[0])] for _ in range(7)]
    for index, name in enumerate(("p50", "p99")):
        direct, mine, peer = (median(times[index] for times in server) for server in zip(*rounds, strict=True))
        added, peer_added = mine - direct, peer - direct
        yield Row(
            f"Added latency {name} at {rate:,.0f} requests/s", f"{added:.2f} ms", f"nginx {peer_added:.2f} ms", None
        )


def _memory_per_connection(ours: tuple[int, int]) -> Row:
    """Of a gateway that has served nobody yet: later ones lie in memory that requests have left."""
    before = memory_of(ours[1])
    idle = [socket.create_connection(("127.0.0.1", ours[0])) for _ in range(IDLE)]
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
        pairs = [(_event_cost(ours, path + ending + query), _event_cost(nginx, ending + query)) for _ in range(10)]
        yield _paired(f"{what}, {pace}", pairs, 1.25)


def _event_cost(server: tuple[int, int], path: str) -> float:
    with spent_by(server[1]) as spent:
        events = streams(server[0], path, connections=STREAMS)
    if events != STREAMS * EVENTS:
        raise RuntimeError(f"{STREAMS * EVENTS} events were sent, {events} came")
    return spent.cpu_s / events * 1e6


def _cost(
    server: tuple[int, int],
    path: str,
    script: Path | None = None,
    *,
    seconds: int = SECONDS,
    connections: int = CONNECTIONS,
) -> float:
    """Microseconds of CPU per request."""
    with spent_by(server[1]) as spent:
        load = wrk(f"http://127.0.0.1:{server[0]}{path}", connections=connections, seconds=seconds, script=script)
    if load.errors:
        raise RuntimeError(f"{load.errors} of {load.requests} requests failed")
    return spent.cpu_s / load.requests * 1e6


def _loaded(server: tuple[int, int], path: str, connections: int) -> Load:
    return wrk(f"http://127.0.0.1:{server[0]}{path}", connections=connections, seconds=4)


def _settle(port: int, path: str) -> None:
    """Wait until the gateway's directory has the deployment."""
    deadline = time.monotonic() + 20
    while wrk(f"http://127.0.0.1:{port}{path}", connections=1, seconds=1).errors:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the gateway doesn't know {path}")
