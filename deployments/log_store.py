"""Stored logs: sealed chunks in PostgreSQL, the live tail in a capped stream of the scratch Valkey.

A line's position is its end in the instance's log, so chunks and tail join without gap or repetition.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import zstandard
from django.db import transaction

from common import partitions
from common.stores import scratch
from deployments.log_bounds import KeptToday
from deployments.models import Instance, LogChunk
from runtimes.driver import LogLine

TAIL_LINES = 2000
# However long its lines are: one chatty instance must not push out the others' tails.
TAIL_CHARACTERS = 1 << 20
TAIL_SECONDS = 3600
_TABLE = "deployments_log_chunk"
# A chatty instance fills a chunk in seconds, and one moment is no reason to read all of its log.
_CHUNKS_AROUND = 4


_kept_today = KeptToday()


@dataclass(frozen=True)
class Page:
    """Lines in order, whether earlier ones exist, and whether earlier ones were written but are not kept any more."""

    lines: list[LogLine]
    has_earlier: bool
    is_cut: bool


def tail_key(instance_uid: str) -> str:
    return f"slipway:log:{instance_uid}"


def publish_tail(instance_uid: str, lines: list[LogLine]) -> None:
    """Append lines to the live tail; each reader takes them from there."""
    pipeline = scratch().pipeline(transaction=False)
    longest = max((len(line.text) for line in lines), default=1)
    most = max(1, min(TAIL_LINES, TAIL_CHARACTERS // max(1, longest)))
    for line in lines:
        pipeline.xadd(tail_key(instance_uid), {"p": line.position, "t": line.text}, maxlen=most, approximate=True)
    pipeline.expire(tail_key(instance_uid), TAIL_SECONDS)
    pipeline.execute()


def seal(instance: Instance, lines: list[LogLine], *, complete: bool, now: datetime) -> None:
    """Store lines for good and move the instance's position; doing it twice stores them once."""
    partitions.ensure_day(_TABLE, now.date())
    size = 0
    with transaction.atomic():
        locked = Instance.objects.select_for_update().filter(pk=instance.pk).first()
        if locked is None:
            return
        fresh = [line for line in lines if line.position > locked.log_position]
        if fresh:
            text = "\n".join(f"{line.position} {line.text}" for line in fresh)
            data = zstandard.compress(text.encode())
            size = len(data)
            LogChunk.objects.create(
                instance_uid=instance.uid,
                first_position=locked.log_position,
                last_position=fresh[-1].position,
                sealed_at=now,
                line_count=len(fresh),
                data=data,
            )
        position = fresh[-1].position if fresh else locked.log_position
        Instance.objects.filter(pk=instance.pk).update(log_position=position, log_complete=complete)
    instance.log_position, instance.log_complete = position, complete
    if size:
        _kept_today.add(instance.uid, now.date(), size)


def read_before(instance_uid: str, before: int | None, count: int) -> Page:
    """The last `count` stored lines up to position `before` (exclusive); None reads from the end."""
    chunks = LogChunk.objects.filter(instance_uid=instance_uid)
    if before is not None:
        chunks = chunks.filter(first_position__lt=before)
    lines: list[LogLine] = []
    for chunk in chunks.order_by("-first_position").iterator(chunk_size=4):
        found = [line for line in _lines(chunk) if before is None or line.position < before]
        lines = found + lines
        if len(lines) >= count:
            break
    has_earlier = len(lines) > count or (
        bool(lines) and chunks.filter(first_position__lt=lines[0].position).count() > 1
    )
    return Page(lines[-count:], has_earlier, is_cut=not has_earlier and is_cut(instance_uid))


def is_cut(instance_uid: str) -> bool:
    """Whether the log's beginning is not kept any more: the first chunk doesn't begin where logs do."""
    first = LogChunk.objects.filter(instance_uid=instance_uid).order_by("first_position")
    return bool(first.values_list("first_position", flat=True).first())


def read_all(instance_uid: str):  # type: ignore[no-untyped-def]
    """Every stored line in order, chunk by chunk: for downloads."""
    for chunk in LogChunk.objects.filter(instance_uid=instance_uid).order_by("first_position").iterator(chunk_size=4):
        yield from _lines(chunk)


def _lines(chunk: LogChunk) -> list[LogLine]:
    text = zstandard.decompress(bytes(chunk.data)).decode()
    lines = []
    for row in text.split("\n"):
        position, _, line = row.partition(" ")
        lines.append(LogLine(int(position), line))
    return lines


def read_around(instance_uid: str, moment: float, within_s: float, count: int) -> list[LogLine]:
    """The `count` lines written nearest to `moment` (seconds since the epoch), none further away than `within_s`."""
    # A line is sealed soon after it was written: those around the moment lie in the chunks sealed around it.
    first, middle = (datetime.fromtimestamp(at, UTC) for at in (moment - within_s, moment))
    chunks = LogChunk.objects.filter(instance_uid=instance_uid)
    before = chunks.filter(sealed_at__gte=first, sealed_at__lt=middle).order_by("-first_position")[:_CHUNKS_AROUND]
    behind = chunks.filter(sealed_at__gte=middle).order_by("first_position")[:_CHUNKS_AROUND]
    lines = [line for chunk in (*reversed(before), *behind) for line in _lines(chunk)]
    sealed = lines[-1].position if lines else 0
    for _, fields in scratch().xrange(tail_key(instance_uid)):
        line = LogLine(int(fields[b"p"]), fields[b"t"].decode("utf-8", "replace"))
        if line.position > sealed:
            lines.append(line)
    near = [line for line in lines if abs(_written(line) - moment) <= within_s]
    nearest = sorted(near, key=lambda line: abs(_written(line) - moment))[:count]
    return sorted(nearest, key=lambda line: line.position)


def _written(line: LogLine) -> float:
    try:
        return float(line.text.partition(" ")[0])
    except ValueError:
        return 0.0
