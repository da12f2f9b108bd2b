"""Lines of a container's log, each with a position that survives reconnects, restarts and re-reading.

The kubelet stamps every line with nanoseconds. A line's position is its stamp, or one more than the line before where
several carry the same; reading again from the beginning of a second gives the same positions again.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from runtimes.driver import LogLine


def positioned(lines: Iterable[bytes], *, after: int) -> Iterator[LogLine]:
    """The lines behind position `after` (nanoseconds since the epoch) of a log that was asked for with timestamps."""
    last = 0
    for line in lines:
        stamp, _, text = line.partition(b" ")
        at = _nanoseconds(stamp)
        if at is None:
            # The kubelet's own words, for example that a file was rotated away: kept, behind the line before.
            at, text = last + 1, line
        last = max(at, last + 1)
        if last > after:
            yield LogLine(last, f"{last / 1e9:.3f} {text.decode(errors='replace')}")


def since(after: int) -> str:
    """From when to ask for lines so that none behind `after` is missing; the API knows whole seconds only."""
    return datetime.fromtimestamp(after // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _nanoseconds(stamp: bytes) -> int | None:
    text = stamp.decode(errors="replace")
    if not text.endswith("Z") or len(text) < 20:
        return None
    seconds, _, fraction = text[:-1].partition(".")
    try:
        whole = int(datetime.fromisoformat(seconds).replace(tzinfo=UTC).timestamp())
        return whole * 1_000_000_000 + int(fraction.ljust(9, "0")[:9] or 0)
    except ValueError:
        return None
