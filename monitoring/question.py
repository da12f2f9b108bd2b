"""What a reader of the charts chose, as it stands in the address, so that a link reopens exactly the same view."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from common.numbers import whole
from monitoring.tiers import DAY, HOUR
from monitoring.window import Window

RANGES = {
    "5m": ("Last 5 minutes", 300), "15m": ("Last 15 minutes", 900), "1h": ("Last hour", HOUR), "6h": ("Last 6 hours", 6 * HOUR),
    "24h": ("Last 24 hours", DAY), "7d": ("Last 7 days", 7 * DAY), "30d": ("Last 30 days", 30 * DAY), "90d": ("Last 90 days", 90 * DAY),
}  # fmt: skip
DEFAULT_RANGE = "15m"
INTERVALS = {"": 0, "1m": 60, "5m": 300, "15m": 900, "30m": 1800, "1h": HOUR, "1d": DAY}
LONGEST = 400 * DAY
SHORTEST = 60
SIDE_BY_SIDE, AVERAGE = "each", "average"


class UnclearQuestionError(Exception):
    """What was asked can't be answered; the message names the field and the remedy."""


@dataclass(frozen=True)
class Question:
    """A preset `range`, or a free one from `start` to `end` (seconds since the epoch, both set or both None)."""

    range: str = DEFAULT_RANGE
    start: int | None = None
    end: int | None = None
    zone: str = "UTC"
    interval: str = ""
    version_id: int | None = None
    instance_uid: str = ""
    instances: str = SIDE_BY_SIDE
    compare: bool = False
    dark: bool = False

    @classmethod
    def from_query(cls, query: Any) -> "Question":
        """Raises UnclearQuestionError."""
        zone = query.get("tz", "") or "UTC"
        clock = _zone(zone)
        chosen, interval = query.get("range", "") or DEFAULT_RANGE, query.get("interval", "")
        if chosen not in RANGES:
            raise UnclearQuestionError(f"Range: “{chosen[:20]}” is none of {', '.join(RANGES)}.")
        version = query.get("version", "")
        if version and whole(version) is None:
            raise UnclearQuestionError(f"Version: “{version[:20]}” is no version of this deployment.")
        if interval not in INTERVALS:
            raise UnclearQuestionError(f"Bars: “{interval[:20]}” is none of {', '.join(list(INTERVALS)[1:])}.")
        start, end = _moment(query.get("from", ""), clock, "From"), _moment(query.get("to", ""), clock, "To")
        if (start is None) != (end is None):
            raise UnclearQuestionError("A free range needs both: From and To.")
        if start is not None and end is not None:
            _check_range(start, end)
        return cls(
            range=chosen, start=start, end=end, zone=zone, interval=interval, version_id=whole(version),
            instance_uid=query.get("instance", "").replace("\0", "")[:64],
            instances=AVERAGE if query.get("instances") == AVERAGE else SIDE_BY_SIDE,
            compare=query.get("compare") == "previous", dark=query.get("theme") == "dark",
        )  # fmt: skip

    @property
    def is_live(self) -> bool:
        """Whether the range ends now and moves on."""
        return self.start is None

    def window(self, now: int) -> Window:
        start, end = (self.start, self.end) if self.start and self.end else (now + 1 - RANGES[self.range][1], now + 1)
        oldest = start - (end - start) if self.compare else start
        return Window.of(start, end, now, _zone(self.zone), INTERVALS[self.interval], oldest=oldest)

    def undressed(self) -> "Question":
        """Without what changes only how it looks: by this, pages that show the same data are known."""
        return replace(self, dark=False)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UnclearQuestionError(
            f"Time zone: “{name[:60]}” is unknown. Choose one as Europe/Berlin, or UTC."
        ) from None


def _moment(text: str, zone: ZoneInfo, label: str) -> int | None:
    """Local time in `zone`, or seconds since the epoch."""
    if not text:
        return None
    number = whole(text)
    if number is not None:
        return _within(number, label)
    try:
        found = datetime.fromisoformat(text)
        return _within(int((found if found.tzinfo else found.replace(tzinfo=zone)).timestamp()), label)
    except (ValueError, OverflowError):
        raise UnclearQuestionError(f"{label}: “{text[:40]}” is no moment, as 2026-01-31T14:05 is one.") from None


def _within(moment: int, label: str) -> int:
    if not datetime(2020, 1, 1, tzinfo=UTC).timestamp() <= moment < datetime(2037, 1, 1, tzinfo=UTC).timestamp():
        raise UnclearQuestionError(f"{label}: only the years 2020 to 2036 are known here.")
    return moment


def _check_range(start: int, end: int) -> None:
    if end - start < SHORTEST:
        raise UnclearQuestionError(
            "From lies behind To. Swap them." if end <= start else f"The range is shorter than {SHORTEST} s. Choose a longer one."
        )  # fmt: skip
    if end - start > LONGEST:
        raise UnclearQuestionError(f"At most {LONGEST // DAY} days can be shown at once. Choose fewer.")
