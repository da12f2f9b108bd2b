"""How finely metrics are kept, and for how long. Pure."""

from dataclasses import dataclass

HOUR, DAY = 3600, 86_400
# More points than pixels help nobody; a curve has at most this many.
MAX_POINTS = 740


@dataclass(frozen=True)
class Tier:
    """Buckets of `seconds`; a stored block holds `span` seconds of them, a partition `partition` seconds of blocks.

    A block is written when its span is over, from those of the next finer tier: once, so that tables hold no dead rows.
    """

    seconds: int
    span: int
    kept: int
    partition: int

    @property
    def table(self) -> str:
        return f"monitoring_block_{self.seconds}"


# Each one's width and span divide the next one's, spans divide partitions; each is kept until the next one's span is over.
TIERS = (
    Tier(10, span=600, kept=3 * HOUR, partition=HOUR),
    Tier(60, span=HOUR, kept=2 * DAY, partition=DAY),
    Tier(300, span=6 * HOUR, kept=8 * DAY, partition=DAY),
    Tier(HOUR, span=DAY, kept=100 * DAY, partition=7 * DAY),
    Tier(6 * HOUR, span=4 * DAY, kept=400 * DAY, partition=28 * DAY),
)
WIDTHS = (10, 30, 60, 120, 300, 600, 900, 1800, HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 7 * DAY)


def finest(start: int, now: int) -> Tier:
    """The finest tier that still has what was at `start` (seconds since the epoch)."""
    return next((tier for tier in TIERS if start >= now - tier.kept), TIERS[-1])


def fitting_width(start: int, end: int, now: int, oldest: int) -> int:
    """The width in seconds of a curve's points over [start, end), of what is still there since `oldest`."""
    least = finest(oldest, now).seconds
    return next((width for width in WIDTHS if width >= least and (end - start) / width <= MAX_POINTS), WIDTHS[-1])


def serving(width: int, start: int, now: int) -> Tier:
    """The coarsest tier that adds up to buckets of `width`; the finest one there is where none does."""
    least = finest(start, now)
    return next(
        (tier for tier in reversed(TIERS) if tier.seconds >= least.seconds and width % tier.seconds == 0), least
    )
