"""Enforces rate limits: from leases in memory, from the shared counters, or, without them, from this gateway's share."""

import asyncio
import math
from collections.abc import Callable
from time import monotonic

from gateway.access.callers import Caller
from gateway.errors import GatewayError
from gateway.limits.buckets import REQUESTS, TOKENS, WHOSE, Bucket, Refusal
from gateway.limits.counters import Ask, SharedCounters
from gateway.routing.target import Target

# How long what was used differently than reserved may wait before the shared counters know.
SETTLE_S = 0.05
# How old the figures in answers' headers may be while units come from leases.
LINES_S = 0.1
MOST_ALLOWANCES = 50_000
# A script takes only so many words.
TOLD_AT_ONCE = 500

Decision = Callable[[Refusal | None], None]


class Allowance:
    """The buckets that one caller's requests to one deployment are taken from."""

    __slots__ = (
        "_ending", "_lines_at", "_until", "api_id", "deployment_id", "is_current", "limits", "owed", "requests", "smallest", "tokens",
    )  # fmt: skip

    def __init__(self, target: Target, requests: tuple[Bucket, ...], tokens: tuple[Bucket, ...]) -> None:
        self.deployment_id = target.deployment_id
        self.api_id = target.api_id
        # Those that it was made by.
        self.limits = target.limits
        self.requests = requests
        self.tokens = tokens
        # What no token bucket's limit is below; and what all of them are owed.
        self.smallest = min((bucket.per_minute for bucket in tokens), default=0)
        self.owed = 0
        # False when its buckets have been forgotten: others may have been made since.
        self.is_current = True
        # Until when all leases hold, at least.
        self._until = 0.0
        self._ending = b""
        self._lines_at = 0.0

    def take(self, tokens: int, now: float) -> bool:
        """Take one request from what is leased; False, with nothing taken, when somebody must be asked."""
        if now >= self._until:
            # Leases only ever get longer, so what was the shortest once is never too long.
            leased = self.requests + self.tokens if tokens else self.requests
            self._until = min([bucket.until for bucket in leased], default=math.inf)
            if now >= self._until:
                return False
        if tokens:
            for bucket in self.tokens:
                if bucket.left < tokens or bucket.left <= bucket.low or now >= bucket.until:
                    return False
        for bucket in self.requests:
            # At half of a lease the next one is asked for.
            if bucket.left <= bucket.low:
                return False
        for bucket in self.requests:
            bucket.left -= 1
        if tokens:
            for bucket in self.tokens:
                bucket.left -= tokens
        return True

    def costs(self, tokens: int) -> list[tuple[Bucket, int]]:
        """What a request takes from each bucket."""
        asked = [(bucket, 1) for bucket in self.requests]
        return asked + [(bucket, bucket.price(tokens)) for bucket in self.tokens] if tokens else asked

    def forget_lines(self) -> None:
        self._lines_at = 0.0

    def ending(self, now: float) -> bytes:
        """The end of an answer's head: a line's end, the headers that tell how much is left, and an empty line.

        Remembered for a moment.
        """
        if now - self._lines_at > LINES_S:
            self._ending = b"".join([b"\r\n", *(b"%b: %b\r\n" % line for line in self.headers(now)), b"\r\n"])
            self._lines_at = now
        return self._ending

    def headers(self, now: float, hit: Bucket | None = None) -> list[tuple[bytes, bytes]]:
        """`x-ratelimit-…` of the bucket with the least left, for requests and for tokens; of the one that was hit."""
        lines = []
        for unit, buckets in ((REQUESTS, self.requests), (TOKENS, self.tokens)):
            if not buckets:
                continue
            tight = min(buckets, key=lambda item: (item.remaining(now) / item.per_minute, item.per_minute))
            if hit is not None and hit.unit == unit:
                tight = hit
            reset = max(0.0, tight.full_at - now)
            lines += [
                (b"x-ratelimit-limit-%b" % unit.encode(), b"%d" % tight.per_minute),
                (b"x-ratelimit-remaining-%b" % unit.encode(), b"%d" % tight.remaining(now)),
                (b"x-ratelimit-reset-%b" % unit.encode(), b"%.3fs" % reset if reset < 1 else b"%ds" % math.ceil(reset)),
            ]
        return lines

    def error(self, refusal: Refusal) -> GatewayError:
        """The 429 that names the limit which was hit."""
        bucket = refusal.bucket
        wait_s = max(1, math.ceil(refusal.wait_s))
        message = (
            f"The limit of {bucket.per_minute:,} {bucket.unit} a minute for {WHOSE[bucket.level]} on {self.api_id} is "
            f"used up. Try again in {wait_s} {'second' if wait_s == 1 else 'seconds'}."
        )
        details = {"limit": f"{bucket.level}_{bucket.unit}_per_minute"}
        return GatewayError(429, "rate_limit_exceeded", message, wait_s, details)


def month_is_spent() -> GatewayError:
    """The 429 of an organization that has used up its tokens of the month."""
    message = (
        "Your organization has used up its tokens of this month. The next ones come on the first, "
        "or when an operator raises the quota."
    )
    # Asked again now and then: an operator may raise it at any time.
    return GatewayError(429, "quota_exceeded", message, 60, {"limit": "organization_tokens_per_month"})


class Limiter:
    """All buckets of this gateway. Lives on its loop. Without `counters` one gateway counts for itself alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, counters: SharedCounters | None = None) -> None:
        self._loop = loop
        self._counters = counters
        # How many gateways live, this one included.
        self.gateways = 1
        # By deployment, organization, user and key.
        self._allowances: dict[tuple[int, int, int, int], Allowance] = {}
        self._buckets: dict[tuple[int, bytes], Bucket] = {}
        # Buckets of which the shared counters have to be told something.
        self._owing: set[Bucket] = set()
        # Allowances of whose token buckets all are owed the same.
        self._owing_together: set[Allowance] = set()
        self._settling: asyncio.TimerHandle | None = None

    @property
    def is_alone(self) -> bool:
        """Whether shared counters are wanted and away."""
        return self._counters is not None and self._counters.is_away

    def use(self, counters: SharedCounters) -> None:
        self._counters = counters

    def allowance(self, target: Target, caller: Caller) -> Allowance:
        """The buckets for a request of `caller` to `target`."""
        place = target.deployment_id, caller.organization_id, caller.user_id, caller.key_id
        found = self._allowances.get(place)
        if found is None or found.limits != target.limits:
            if len(self._allowances) >= MOST_ALLOWANCES:
                self.forget_allowances()
            found = self._allowances[place] = self._make(target, caller)
        return found

    def forget_allowances(self) -> None:
        """Limits may have changed."""
        self._spread()
        for allowance in self._allowances.values():
            allowance.is_current = False
        self._allowances.clear()

    def forget_full(self, now: float) -> None:
        """Drop what nothing has to be remembered of. Called once a second."""
        self._spread()
        full = {place for place, bucket in self._buckets.items() if bucket.is_full(now)}
        if full:
            gone = {self._buckets.pop(place) for place in full}
            for place, allowance in list(self._allowances.items()):
                if not gone.isdisjoint(allowance.requests) or not gone.isdisjoint(allowance.tokens):
                    allowance.is_current = False
                    del self._allowances[place]

    def ask(self, allowance: Allowance, tokens: int, decide: Decision) -> None:
        """Take one request and its tokens from all buckets or from none, then call `decide`, perhaps at once."""
        now = monotonic()
        costs = allowance.costs(tokens)
        allowance.forget_lines()
        if self._counters is None or self._counters.is_away:
            decide(self._take_alone(costs, now))
            return
        for bucket, cost in costs:
            if now < bucket.refused_until and cost >= bucket.cost_refused and not bucket.has(cost, now):
                decide(Refusal(bucket, bucket.enough_at - now))
                return
        lacking = [item for item in costs if not item[0].has(item[1], now)]
        held = [item for item in costs if item[0].has(item[1], now)]
        for bucket, cost in held:
            bucket.left -= cost
        # Ahead of need: the next lease is asked for while this one lasts.
        ahead = [(bucket, 0) for bucket, _ in held if bucket.left <= bucket.low and bucket.lease and not bucket.asking]
        if not lacking:
            decide(None)
            if ahead:
                self._ask_shared(allowance.deployment_id, ahead, lambda refusal: None)
            return

        def answered(refusal: Refusal | None) -> None:
            allowance.forget_lines()
            if refusal is not None:
                for bucket, cost in held:
                    bucket.left += cost
            decide(refusal)

        self._ask_shared(allowance.deployment_id, lacking + ahead, answered)

    def settle(self, allowance: Allowance, reserved: int, used: int) -> None:
        """Correct what was taken from the token buckets. They may go below nothing, and block until they refill."""
        if reserved <= allowance.smallest and allowance.is_current and not self.is_alone and self._counters is not None:
            # The same for each bucket: told to them together.
            if used != reserved:
                if not allowance.owed:
                    self._owing_together.add(allowance)
                    self._settle_soon()
                allowance.owed += used - reserved
            return
        now = monotonic()
        for reserved_from in allowance.tokens:
            difference = used - reserved_from.price(reserved)
            if not difference:
                continue
            bucket = reserved_from
            if not allowance.is_current:
                # A long answer may outlive what was remembered of the bucket.
                bucket = self._buckets.setdefault((bucket.deployment_id, bucket.member), bucket)
            if self._counters is None or self._counters.is_away:
                bucket.take_alone(difference, self._share(bucket), now)
            else:
                bucket.owed += difference
            self._owes(bucket)

    def _make(self, target: Target, caller: Caller) -> Allowance:
        subjects = {"organization": caller.organization_id, "user": caller.user_id, "key": caller.key_id}
        is_public = not any(subjects.values())
        requests, tokens = [], []
        for level, requests_per_minute, tokens_per_minute in target.limits:
            subject = 0 if is_public else subjects.get(level, 0)
            if is_public != (level == "public") or not (subject or is_public):
                continue
            if requests_per_minute:
                requests.append(self._bucket(target, level, subject, REQUESTS, requests_per_minute))
            if tokens_per_minute:
                tokens.append(self._bucket(target, level, subject, TOKENS, tokens_per_minute))
        return Allowance(target, tuple(requests), tuple(tokens))

    def _bucket(self, target: Target, level: str, subject: int, unit: str, per_minute: int) -> Bucket:
        fresh = Bucket(target.deployment_id, level, subject, unit, per_minute)
        bucket = self._buckets.setdefault((target.deployment_id, fresh.member), fresh)
        if bucket.per_minute != per_minute:
            bucket.set_limit(per_minute)
        return bucket

    def _share(self, bucket: Bucket) -> int:
        return -(-bucket.per_minute // self.gateways)

    def _take_alone(self, costs: list[tuple[Bucket, int]], now: float) -> Refusal | None:
        waits = [(bucket.wait_alone(cost, self._share(bucket), now), bucket) for bucket, cost in costs]
        wait_s, bucket = max(waits, key=lambda item: item[0], default=(0.0, None))
        if bucket is not None and wait_s > 0:
            return Refusal(bucket, wait_s)
        for bucket, cost in costs:
            bucket.take_alone(cost, self._share(bucket), now)
            self._owes(bucket)
        return None

    def _ask_shared(
        self, deployment_id: int, wanted: list[tuple[Bucket, int]], decide: Decision, *, leases: bool = True
    ) -> None:
        asked_at = monotonic()
        asks: list[Ask] = []
        debits: list[int] = []
        for bucket, cost in wanted:
            # One lease at a time: a hundred requests that wait for the same bucket are not a hundred leases.
            lease = bucket.lease if leases and not bucket.asking else 0
            bucket.asking = True
            debits.append(bucket.debt(self._share(bucket), asked_at))
            asks.append((bucket.member, bucket.interval, cost, max(cost, lease), debits[-1]))

        def answered(reply: list[int] | None) -> None:
            now = monotonic()
            for bucket, _ in wanted:
                bucket.asking = False
            if reply is None:
                for (bucket, _), debit in zip(wanted, debits, strict=True):
                    if debit:
                        # Nobody knows whether it was heard. Told again it may count twice; forgotten it would be free.
                        bucket.take_alone(debit, self._share(bucket), now)
                        self._owes(bucket)
                decide(self._take_alone([item for item in wanted if item[1]], now))
                return
            refused, wait_us, *rest = reply
            for index, (bucket, cost) in enumerate(wanted):
                bucket.granted(rest[2 * index], rest[2 * index + 1] / 1e6, asked_at, now)
                if not refused:
                    bucket.left -= cost
            if refused:
                bucket, cost = wanted[refused - 1]
                bucket.refused(cost, wait_us / 1e6, now)
                decide(Refusal(bucket, wait_us / 1e6))
            else:
                decide(None)

        assert self._counters is not None  # noqa: S101
        self._counters.ask(deployment_id, asks, answered)

    def _owes(self, bucket: Bucket) -> None:
        if self._counters is None:
            bucket.alone = 0
            return
        self._owing.add(bucket)
        self._settle_soon()

    def _settle_soon(self) -> None:
        if self._settling is None:
            self._settling = self._loop.call_later(SETTLE_S, self._tell)

    def _spread(self) -> None:
        """To each bucket what is owed to all of an allowance's."""
        for allowance in self._owing_together:
            owed, allowance.owed = allowance.owed, 0
            for bucket in allowance.tokens if owed else ():
                bucket.owed += owed
                self._owing.add(bucket)
        self._owing_together.clear()

    def _tell(self) -> None:
        """Settle with the shared counters; while they are away what is owed is kept."""
        self._settling = None
        self._spread()
        if self._counters is None or self._counters.is_away:
            self._settling = self._loop.call_later(SETTLE_S * 10, self._tell)
            return
        by_deployment: dict[int, list[Bucket]] = {}
        for bucket in self._owing:
            if bucket.owed or bucket.alone:
                by_deployment.setdefault(bucket.deployment_id, []).append(bucket)
        self._owing = set()
        for deployment_id, buckets in by_deployment.items():
            for first in range(0, len(buckets), TOLD_AT_ONCE):
                told = [(bucket, 0) for bucket in buckets[first : first + TOLD_AT_ONCE]]
                self._ask_shared(deployment_id, told, lambda refusal: None, leases=False)
