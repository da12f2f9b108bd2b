"""The last lines of each run of a program: kept when it ends, read by what diagnoses the end, and shown beside the log."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import zstandard
from django.utils import timezone

from deployments.models import Instance, LastWords, Version
from runtimes.driver import LAST_LINES, Driver, DriverError
from runtimes.engines.registry import UnknownEngineError, engine
from runtimes.observation import InstanceObservation

# Of an instance whose program ends again and again, those of the latest ends.
KEPT_PER_INSTANCE = 50
_LONGEST_LINE = 4000
# Causes of a program's end that its own words may tell more of.
_UNEXPLAINED = ("crashed",)


@dataclass(frozen=True)
class Heard:
    """What the ends of this look's instances have left, by instance: written once the instance has its row."""

    item: InstanceObservation
    lines: tuple[str, ...]


def hear(version: Version, driver: Driver, item: InstanceObservation, before: Instance | None) -> Heard | None:
    """The last lines of a run that has ended since the last look; None when none has. One request at most."""
    if item.ends <= (before.ends if before else 0):
        return None
    try:
        lines = driver.last_words(version.key, item)
    except DriverError:
        # The pod is gone, or the cluster doesn't answer: the log has what was read until then.
        lines = []
    return Heard(item, tuple(line[:_LONGEST_LINE] for line in lines[-LAST_LINES:]))


def explained(
    version: Version, item: InstanceObservation, before: Instance | None, heard: Heard | None
) -> InstanceObservation:
    """With the engine's own reading of its last words. What was read once is not read again until the next end."""
    if item.cause is None or item.cause.code not in _UNEXPLAINED:
        return item
    if heard is None:
        is_same_end = before is not None and before.ends == item.ends and before.exit_code == item.exit_code
        known = before.cause if before is not None and is_same_end else None
        return replace(item, cause=known) if known and known.code != "probe_failed" else item
    try:
        cause = engine(version.specification.engine).diagnose(heard.lines or item.cause.evidence, item.exit_code)
    except UnknownEngineError:
        return item
    return replace(item, cause=cause) if cause else item


def keep(heard: Heard) -> None:
    """Write them down; twice is once."""
    instance = Instance.objects.filter(uid=heard.item.uid).first()
    if instance is None or not heard.lines:
        return
    at = datetime.fromtimestamp(heard.item.last_end_at, UTC) if heard.item.last_end_at else timezone.now()
    LastWords.objects.get_or_create(
        instance=instance,
        end=heard.item.ends,
        defaults={
            "at": at,
            "exit_code": heard.item.exit_code,
            "line_count": len(heard.lines),
            "data": zstandard.compress("\n".join(heard.lines).encode(errors="replace")),
        },
    )
    LastWords.objects.filter(instance=instance, end__lte=heard.item.ends - KEPT_PER_INSTANCE).delete()


def lines_of(words: LastWords) -> list[str]:
    return zstandard.decompress(bytes(words.data)).decode().split("\n")
