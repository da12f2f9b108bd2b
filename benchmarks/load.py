"""Load on one address: wrk for plain requests, a small client for streams and for requests at a fixed rate."""

import asyncio
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop


@dataclass(frozen=True)
class Load:
    """What a run of wrk saw. Latencies in milliseconds; `errors` counts answers outside 2xx and 3xx and socket errors."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def wrk(url: str, *, connections: int, seconds: int, script: Path | None = None) -> Load:
    """Keep `connections` busy for `seconds`, from one thread."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "--latency"]
    if script:
        command += ["-s", str(script)]
    text = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
    counted = re.search(r"(\d+) requests in ([\d.]+)(m?s|m)", text)
    if counted is None:
        raise RuntimeError(f"wrk said: {text}")
    socket_errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    errors = sum(map(int, socket_errors.groups())) if socket_errors else 0
    return Load(
        int(counted[1]),
        float(counted[2]) * {"s": 1, "ms": 0.001, "m": 60}[counted[3]],
        _milliseconds(text, "50%"),
        _milliseconds(text, "99%"),
        errors + (int(refused[1]) if refused else 0),
    )


def _milliseconds(text: str, percentile: str) -> float:
    found = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)", text)
    return float(found[1]) * {"us": 0.001, "ms": 1, "s": 1000}[found[2]] if found else float("nan")


def post_script(folder: Path, body: bytes) -> Path:
    """A script for wrk that posts `body` as JSON."""
    path = folder / "post.lua"
    text = body.decode().replace("\\", "\\\\").replace("'", "\\'")
    path.write_text(f"wrk.method='POST'\nwrk.body='{text}'\nwrk.headers['Content-Type']='application/json'\n")
    return path


def pause_script(folder: Path, pause_ms: int) -> Path:
    """A script for wrk that rests between an answer and the next request, so that servers are compared below their limit."""
    path = folder / "pause.lua"
    path.write_text(f"function delay() return math.random({pause_ms // 2}, {pause_ms * 3 // 2}) end\n")
    return path


def header_script(folder: Path, headers: dict[str, str]) -> Path:
    """A script for wrk that sends these headers too."""
    path = folder / "headers.lua"
    path.write_text("".join(f"wrk.headers['{name}']='{value}'\n" for name, value in headers.items()))
    return path


def streams(port: int, path: str, *, connections: int) -> int:
    """Read one stream on each of `connections` at once, to the end; the number of events that came."""
    return uvloop.run(_streams(port, path, connections))


async def _streams(port: int, path: str, connections: int) -> int:
    async def one() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        count, tail = 0, b""
        while not tail.endswith(b"0\r\n\r\n"):
            data = await reader.read(65536)
            if not data:
                raise RuntimeError("the stream was cut")
            count += data.count(b"data: ")
            tail = (tail + data)[-16:]
        writer.close()
        return count

    return sum(await asyncio.gather(*[one() for _ in range(connections)]))


def at_rate(
    port: int, path: str, *, rate: float, seconds: float, connections: int = 64, headers: dict[str, str] | None = None
) -> tuple[float, float]:
    """(p50, p99) in milliseconds of requests sent at a fixed rate, counted from when each should have left."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\n{lines}\r\n".encode()
    return uvloop.run(_at_rate(port, request, rate, seconds, connections))


async def _at_rate(port: int, request: bytes, rate: float, seconds: float, connections: int) -> tuple[float, float]:
    total = int(rate * seconds)
    latencies: list[float] = []
    start = time.perf_counter() + 0.2

    async def one(first: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(first, total, connections):
            due = start + number / rate
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
                # A timer's own lateness is the machine's, not the server's.
                due = max(due, time.perf_counter())
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])  # type: ignore[index]
            await reader.readexactly(length)
            latencies.append(time.perf_counter() - due)
        writer.close()

    await asyncio.gather(*[one(number) for number in range(connections)])
    return float(np.percentile(latencies, 50) * 1000), float(np.percentile(latencies, 99) * 1000)


def background(port: int, path: str, *, rate: float, headers: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """`at_rate` in a process of its own, until it is killed."""
    call = f"at_rate({port}, {path!r}, rate={rate}, seconds=600, headers={headers!r})"
    return subprocess.Popen([sys.executable, "-c", f"from benchmarks.load import at_rate; {call}"])
