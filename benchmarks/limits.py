"""What limits cost a gateway, and how exactly several gateways keep to one under ten times the load."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import peers
from benchmarks.gateway_cost import COMPLETION, COMPLETIONS, ROUNDS, paired_costs
from benchmarks.installation import Installation, gateway, until_served
from benchmarks.load import header_script, post_script
from benchmarks.report import Row

GATEWAYS, MINUTE = 3, 60
HUGE = 900_000_000
LEVELS = ("organization", "user", "key")


def run() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        upstream = stack.enter_context(peers.nginx_upstream(folder))
        nginx = stack.enter_context(peers.nginx_proxy(folder, upstream))
        installation = Installation()
        gateways = [stack.enter_context(gateway(f"gw-{number}")) for number in range(GATEWAYS)]
        _, secret = installation.new_key()
        bearer = {"Authorization": f"Bearer {secret}"}
        path = installation.serve("chat", upstream)
        installation.want_keys("chat")
        # Limits of a size that is leased, and never reached.
        installation.limit("chat", {level: (HUGE, HUGE) for level in LEVELS})
        for port, _ in gateways:
            until_served(port, path, bearer)
        script = header_script(folder, bearer)
        what = "CPU per request with a key, three levels of limits, metered"
        yield paired_costs(what, gateways[0], nginx, path, script, ROUNDS, 1.5)
        (folder / "chat").mkdir()
        completion = header_script(folder / "chat", bearer)
        completion.write_text(post_script(folder, COMPLETION).read_text() + completion.read_text())
        what = "The same per chat completion, tokens reserved and settled"
        yield paired_costs(what, gateways[0], nginx, COMPLETIONS, completion, ROUNDS, None)
        for per_minute in (10, 600, 60_000):
            limited = f"limited-{per_minute}"
            own = installation.serve(limited, upstream)
            installation.limit(limited, {"key": (per_minute, None)})
            yield _kept(installation, [port for port, _ in gateways], own, secret, per_minute)


def _kept(installation: Installation, ports: list[int], path: str, secret: str, per_minute: int) -> Row:
    """A minute at ten times the limit, spread over all gateways. A bucket that begins full holds a minute's worth."""
    installation.await_acknowledged()
    passed, asked, elapsed = asyncio.run(_hammer(ports, path, secret, 10 * per_minute / MINUTE))
    allowed = per_minute + per_minute * elapsed / MINUTE
    return Row(
        f"Let through by {len(ports)} gateways in a minute at 10 × {per_minute:,} a minute",
        f"{passed:,} of {asked:,}",
        f"allowed {allowed:,.1f} (a full bucket, then what refills)",
        abs(passed - allowed) / allowed,
        max(0.02, 1 / allowed),
    )


async def _hammer(ports: list[int], path: str, secret: str, rate: float) -> tuple[int, int, float]:
    """(let through, asked, seconds) of requests sent at a fixed rate, each on the next gateway's connection."""
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {secret}\r\n\r\n".encode()
    connections = max(3, min(48, int(rate / 20) // 3 * 3))
    total = int(rate * MINUTE)
    started = time.monotonic()
    passed = 0

    async def one(first: int) -> None:
        nonlocal passed
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[first % len(ports)])
        for number in range(first, total, connections):
            wait = started + number / rate - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            passed += head.startswith(b"HTTP/1.1 200")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()

    await asyncio.gather(*[one(number) for number in range(connections)])
    return passed, total, time.monotonic() - started
