"""Rate limits as buckets: each holds a minute's worth, refills evenly, and may be emptied at once.

A bucket's state is the moment at which it will be full again (the generic cell rate algorithm): one number, in time
and not in units, so that it keeps its meaning when the limit changes.
"""

from dataclasses import dataclass

from common.limit_counters import member_of

MINUTE = 60.0
# A gateway holds at most this share of a limit ahead; where that is less than one unit, it asks each time.
LEASE_SHARE = 200
REQUESTS, TOKENS = "requests", "tokens"
# For how long a refusal may be repeated without asking again.
RECALL_S = {REQUESTS: 1.0, TOKENS: 0.1}
# What answers and errors call whose limit it is.
WHOSE = {
    "organization": "your organization", "user": "you", "key": "this API key", "public": "all callers without a key",
}  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """The bucket that has too little, and in how many seconds it will have enough."""

    bucket: "Bucket"
    wait_s: float


class Bucket:
    """What this gateway knows of one limit of one organization, user, key, or of the public. Times are monotonic.

    `left` units are leased and paid for until the moment `until`. `full_at` is when the bucket will be full again. Of
    `owed` units, used or, below 0, not used after all, the shared counters don't know yet, nor of those that were taken
    `alone`, without asking them.
    """

    __slots__ = (
        "alone", "asking", "cost_refused", "deployment_id", "enough_at", "full_at", "interval", "lease", "left", "level", "low",
        "member", "owed", "per_minute", "refused_until", "unit", "until",
    )  # fmt: skip

    def __init__(self, deployment_id: int, level: str, subject: int, unit: str, per_minute: int) -> None:
        self.deployment_id = deployment_id
        self.level = level
        self.unit = unit
        self.member = member_of(level, subject, unit)
        self.left = self.owed = self.alone = 0
        self.until = self.full_at = self.refused_until = self.enough_at = 0.0
        self.cost_refused = 0
        self.asking = False
        self.set_limit(per_minute)

    def set_limit(self, per_minute: int) -> None:
        """Take over another limit. What is leased was leased under the old one and is forgotten."""
        self.per_minute = per_minute
        self.interval = MINUTE / per_minute
        self.lease = per_minute // LEASE_SHARE
        self.low = self.lease // 2
        self.left = 0
        self.refused_until = 0.0

    def price(self, cost: int) -> int:
        """What a request that costs so much takes: never more than a full bucket, else it could never pass."""
        return min(cost, self.per_minute)

    def has(self, cost: int, now: float) -> bool:
        return self.left >= cost and now < self.until

    def remaining(self, now: float) -> int:
        """Units that could be taken now, as far as this gateway knows."""
        free = (MINUTE - max(0.0, self.full_at - now)) / self.interval
        return max(0, min(self.per_minute, int(free + 1e-6) + (self.left if now < self.until else 0)))

    def is_full(self, now: float) -> bool:
        """Whether there is nothing to be remembered of it."""
        return now >= self.full_at and now >= self.until and not (self.asking or self.owed)

    def granted(self, units: int, full_in: float, asked_at: float, now: float) -> None:
        """The shared counters gave `units`. They are good until the bucket would have regained them."""
        if now >= self.until:
            self.left = 0
        if units:
            self.left += units
            self.until = max(self.until, asked_at + units * self.interval)
        self.full_at = now + full_in

    def refused(self, cost: int, wait_s: float, now: float) -> None:
        """Not enough for `cost`; until then nobody who wants as much need ask again."""
        # Asking for each unit that drips in would cost a question for every request let through; and what others give
        # back, as tokens that were reserved for nothing, must be found soon.
        pause = min(max(wait_s, self.lease // 10 * self.interval), RECALL_S[self.unit])
        self.refused_until, self.cost_refused, self.enough_at = now + pause, cost, now + wait_s

    def wait_alone(self, cost: int, share: int, now: float) -> float:
        """Seconds until `cost` can be taken from this gateway's `share` of the limit; 0 or less: now."""
        interval = MINUTE / share
        return max(self.full_at, now) + min(cost, share) * interval - now - MINUTE - 1e-6

    def take_alone(self, cost: int, share: int, now: float) -> None:
        """Take or, with a cost below 0, give back without asking anybody."""
        self.full_at = max(now, max(self.full_at, now) + cost * MINUTE / share)
        self.alone += cost

    def debt(self, share: int, now: float) -> int:
        """What the shared counters have to be told, once. What was taken alone has been regained in part since."""
        missing = max(0, round((self.full_at - now) * share / MINUTE))
        debt = self.owed + min(self.alone, missing)
        self.owed = self.alone = 0
        return debt
