"""The shown time and how finely it is drawn. Pure."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from monitoring.tiers import DAY, WIDTHS, Tier, fitting_width, serving

MAX_AUTOMATIC_BARS = 120


@dataclass(frozen=True)
class Window:
    """[start, end) in seconds since the epoch, aligned to `width`, the seconds of a point; `bar` those of a bar."""

    start: int
    end: int
    width: int
    bar: int
    # What was asked for, and couldn't be: bars as narrow as this.
    refused_bar: int
    tier: Tier
    zone: ZoneInfo

    @classmethod
    def of(cls, start: int, end: int, now: int, zone: ZoneInfo, bar: int = 0, *, oldest: int | None = None) -> "Window":
        """`oldest` is the earliest moment that has to be told as finely: of a previous period, for example."""
        oldest = start if oldest is None else oldest
        width = fitting_width(start, end, now, oldest)
        # A narrower bar would be cut out of thin air.
        refused = bar if 0 < bar < width else 0
        chosen = (
            bar
            if bar >= width
            else next(w for w in WIDTHS if w >= width and ((end - start) / w <= MAX_AUTOMATIC_BARS or w == WIDTHS[-1]))
        )
        tier = serving(width, oldest, now)
        return cls(start // width * width, end, width, chosen, refused, tier, zone)

    @property
    def offset(self) -> int:
        """Seconds that the zone's clocks are ahead of UTC at the window's end. One for all of it: time has no folds here."""
        return self.offset_at(self.end)

    def offset_at(self, moment: int) -> int:
        offset = datetime.fromtimestamp(moment, self.zone).utcoffset()
        return int(offset.total_seconds()) if offset else 0

    @property
    def clock_change(self) -> bool:
        """Whether the zone's clocks are set within the window."""
        return self.offset_at(self.start) != self.offset

    @property
    def points(self) -> int:
        return -(-(self.end - self.start) // self.width)

    def previous(self) -> "Window":
        """The period of the same length just before."""
        length = -(-(self.end - self.start) // self.width) * self.width
        return Window(self.start - length, self.start, self.width, self.bar, 0, self.tier, self.zone)

    def drawn(self, moments: np.ndarray) -> np.ndarray:
        """Where moments lie on a chart's axis: milliseconds, as the zone's clocks show them at the window's end."""
        return (moments + self.offset) * 1000

    def place(self, moment: int) -> int:
        """As `drawn`, of one moment."""
        return (moment + self.offset) * 1000

    def since(self, start: int) -> "Window":
        """The end of this window, from `start` on, which `settled_since` chose."""
        return replace(self, start=max(self.start, start), refused_bar=0)

    def settled_since(self, moment: int) -> int:
        """The latest moment at or before `moment` at which both a point and a bar begin; only a point where none is near."""
        found = moment
        for _ in range(8):
            point = max(self.start, found // self.width * self.width)
            found = self.bar_floor(point)
            if found == point:
                return found
        return max(self.start, moment // self.width * self.width)

    def until(self, end: int) -> "Window":
        """This window's part before `end`."""
        return replace(self, end=max(self.start, end))

    def bar_floor(self, moment: int) -> int:
        """The start of the bar that holds the moment, but not before the window's own."""
        return max(self.start, int(self.bar_starts(np.array([moment]))[0]))

    @property
    def drawn_end(self) -> int:
        """Where the axis ends: the last bar has its place, also when it has only just begun."""
        last = int(self.bar_starts(np.array([self.end - 1]))[0])
        return max(self.end, last + self.bar)

    def row_starts(self, moments: np.ndarray, *, by_bars: bool) -> np.ndarray:
        """The start of the table's row of each moment: of a bar, where one was asked for, or of a point."""
        return self.bar_starts(moments) if by_bars else moments // self.width * self.width

    def bar_starts(self, moments: np.ndarray) -> np.ndarray:
        """The start of the bar of each moment. Days are the zone's own, be they 23, 24 or 25 hours long."""
        if self.bar >= DAY:
            days = self._midnights()
            return days[np.searchsorted(days, moments, side="right") - 1]
        offset = self.offset if self.offset % self.tier.seconds == 0 else 0
        return (moments + offset) // self.bar * self.bar - offset

    def _midnights(self) -> np.ndarray:
        day = datetime.fromtimestamp(self.start, self.zone).date()
        starts = []
        step = timedelta(days=self.bar // DAY)
        while not starts or starts[-1] <= self.end:
            starts.append(int(datetime(day.year, day.month, day.day, tzinfo=self.zone).timestamp()))
            day += step
        return np.array(starts, np.int64)
