"""What a request costs with a key, three levels of limits and metering on: beside nginx as a plain proxy, and beside a
forwarder that looks at no byte, which is the least that a process like the gateway's can cost."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks import peers
from benchmarks.cpu import Spent, spent_by
from benchmarks.gateway_cost import COMPLETION, COMPLETIONS, CONNECTIONS, ROUNDS, SECONDS
from benchmarks.installation import Installation, bearer, gateway, until_served
from benchmarks.limits import HUGE, LEVELS
from benchmarks.load import header_script, post_script, wrk
from benchmarks.report import Row

Server = tuple[int, int]


def run() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        upstream = stack.enter_context(peers.nginx_upstream(folder))
        nginx = stack.enter_context(peers.nginx_proxy(folder, upstream))
        floor = stack.enter_context(peers.bare_forwarder(upstream))
        installation = Installation()
        _, secret = installation.new_key()
        path = installation.serve("chat", upstream)
        installation.want_keys("chat")
        # Limits of a size that is leased, and never reached.
        installation.limit("chat", {level: (HUGE, HUGE) for level in LEVELS})
        ours = stack.enter_context(gateway())
        until_served(ours[0], path, bearer(secret))
        script = header_script(folder, bearer(secret))
        yield from _priced("request, 1 KiB JSON", (ours, nginx, floor), path, script)
        (folder / "chat").mkdir()
        completion = header_script(folder / "chat", bearer(secret))
        completion.write_text(post_script(folder, COMPLETION).read_text() + completion.read_text())
        yield from _priced("chat completion, 1 KiB in and out", (ours, nginx, floor), COMPLETIONS, completion)


def _priced(what: str, servers: tuple[Server, Server, Server], path: str, script: Path) -> Iterator[Row]:
    """Rounds that alternate between the three: a slow second is slow for all parts of its round."""
    rounds = [[_spent(server, path, script) for server in servers] for _ in range(ROUNDS)]
    mine, nginx, floor = (_Cost.median_of([costs[index] for costs in rounds]) for index in range(3))
    least = median(costs[2].total / costs[1].total for costs in rounds)
    ratio = median(costs[0].total / costs[1].total for costs in rounds)
    above = median(costs[0].user - costs[2].user for costs in rounds)
    target = 1.5 if path != COMPLETIONS else 2.0
    yield Row(f"Floor: CPU per {what}, a bare forwarder", str(floor), f"nginx {nginx}", least)
    yield Row(f"CPU per {what}, key, limits, metered", str(mine), f"nginx {nginx}", ratio, target)
    yield Row(
        "  of it user time above the floor's, in µs", f"{mine.user:.1f} µs", f"floor {floor.user:.1f} µs", above, 7
    )


class _Cost:
    """Microseconds of a request."""

    def __init__(self, user: float, system: float) -> None:
        self.user, self.system = user, system
        self.total = user + system

    @classmethod
    def of(cls, spent: Spent, requests: int) -> "_Cost":
        return cls(spent.user_s / requests * 1e6, spent.system_s / requests * 1e6)

    @classmethod
    def median_of(cls, costs: "list[_Cost]") -> "_Cost":
        return cls(median(cost.user for cost in costs), median(cost.system for cost in costs))

    def __str__(self) -> str:
        return f"{self.total:.1f} µs ({self.user:.1f} user, {self.system:.1f} system)"


def _spent(server: Server, path: str, script: Path) -> _Cost:
    with spent_by(server[1]) as spent:
        load = wrk(f"http://127.0.0.1:{server[0]}{path}", connections=CONNECTIONS, seconds=SECONDS, script=script)
    if load.errors:
        raise RuntimeError(f"{load.errors} of {load.requests} requests failed")
    return _Cost.of(spent, load.requests)
