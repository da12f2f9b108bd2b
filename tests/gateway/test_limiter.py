"""Limits as gateways count them: exact alone, shared through Valkey, by share without it."""

import asyncio
import time

import pytest
import pytest_asyncio

from gateway.access.callers import ANONYMOUS, Caller
from gateway.limits.buckets import REQUESTS, Bucket
from gateway.limits.counters import Counters
from gateway.limits.limiter import Limiter
from gateway.routing.target import Target

pytestmark = pytest.mark.asyncio
CALLER = Caller(3, 20, 40)


def target(*limits, pk: int = 7) -> Target:
    return Target(pk, 3, "acme/chat", "main", "chat", 11, "running", "Running", "", "", 0, (), limits=limits)


@pytest_asyncio.fixture
async def fleet(valkey):
    """`await fleet(n)`: n gateways' limiters that count in one Valkey."""
    opened = []

    async def make(count: int) -> list[Limiter]:
        limiters = []
        for _ in range(count):
            counters = Counters(valkey.url)
            await counters.start()
            assert not counters.is_away
            limiter = Limiter(asyncio.get_running_loop(), counters)
            limiter.gateways = count
            limiters.append(limiter)
            opened.append(counters)
        return limiters

    yield make
    for counters in opened:
        counters.stop()


async def take(limiter: Limiter, deployment: Target, tokens: int = 0, caller: Caller = CALLER):
    """None when it was let through, else the refusal."""
    allowance = limiter.allowance(deployment, caller)
    if allowance.take(tokens, time.monotonic()):
        return None
    decision = asyncio.get_running_loop().create_future()
    limiter.ask(allowance, tokens, decision.set_result)
    return await decision


async def hammer(limiters, deployment: Target, per_minute: int, seconds: float) -> tuple[int, float]:
    """Ask at least ten times as much as is allowed for a while, of all gateways at once: (let through, how long)."""
    started = time.monotonic()
    end = started + seconds
    passed = asked = 0

    async def one(limiter: Limiter) -> None:
        nonlocal passed, asked
        while time.monotonic() < end:
            answers = await asyncio.gather(*[take(limiter, deployment) for _ in range(20)])
            asked += len(answers)
            passed += answers.count(None)
            await asyncio.sleep(0)

    await asyncio.gather(*[one(limiter) for limiter in limiters])
    elapsed = time.monotonic() - started
    assert asked >= 10 * per_minute / 60 * elapsed
    return passed, elapsed


@pytest.mark.parametrize("gateways", [1, 3])
@pytest.mark.parametrize("per_minute", [10, 600, 60_000])
async def test_no_more_and_hardly_less_than_the_limit_passes_under_ten_times_the_load(fleet, per_minute, gateways):
    limiters = await fleet(gateways)
    deployment = target(("key", per_minute, 0))
    passed, elapsed = await hammer(limiters, deployment, per_minute, 4.0)
    # A full bucket at first, then what refills.
    allowed = per_minute + per_minute * elapsed / 60
    assert passed <= allowed + 1
    assert passed >= min(allowed * 0.98, allowed - 1) - 1


async def test_one_gateway_alone_is_exact(fleet):
    (limiter,) = await fleet(1)
    deployment = target(("key", 10, 0))
    answers = [await take(limiter, deployment) for _ in range(15)]
    assert answers[:10] == [None] * 10 and all(answers[10:])
    assert 5 < answers[10].wait_s <= 6


async def test_a_bucket_counts_exactly_by_the_clock_that_it_is_given():
    bucket = Bucket(7, "key", 40, REQUESTS, 600)
    passed = []
    for step in range(1200):
        now = 1000 + step * 0.05
        if bucket.wait_alone(1, 600, now) <= 0:
            bucket.take_alone(1, 600, now)
            passed.append(now)
    assert len(passed) == 600 + 599, "a full bucket at first, then what refills in 59.95 s"
    burst = [bucket.wait_alone(1, 600, 2000.0) <= 0 and (bucket.take_alone(1, 600, 2000.0) or True) for _ in range(700)]
    assert burst.count(True) == 600
    assert bucket.wait_alone(1, 600, 2000.05) == pytest.approx(0.05, abs=1e-3)
    assert bucket.wait_alone(1, 600, 2000.1 + 1e-6) <= 0


async def test_each_level_has_its_own_bucket_and_all_apply(fleet):
    (limiter,) = await fleet(1)
    deployment = target(("organization", 6, 0), ("user", 4, 0), ("key", 3, 0), ("public", 2, 0))
    mine, other_key, colleague = CALLER, Caller(3, 20, 41), Caller(3, 21, 42)

    async def passed(caller: Caller, count: int = 5) -> tuple[int, str]:
        answers = [await take(limiter, deployment, caller=caller) for _ in range(count)]
        refusal = next(item for item in answers if item)
        return answers.count(None), refusal.bucket.level

    assert await passed(mine) == (3, "key")
    assert await passed(other_key) == (1, "user"), "the user's other key finds one left"
    assert await passed(colleague) == (2, "organization"), "and the organization had six"
    assert await passed(ANONYMOUS) == (2, "public")
    assert await passed(Caller(9, 30, 50)) == (3, "key"), "another organization has its own"
    console = Caller(3, 22, 0)
    assert (await take(limiter, deployment, caller=console)).bucket.level == "organization", (
        "no key, but an organization"
    )


async def test_a_request_that_one_limit_refuses_takes_nothing_from_the_others(fleet):
    (limiter,) = await fleet(1)
    deployment = target(("user", 100, 0), ("key", 2, 0))
    for _ in range(10):
        await take(limiter, deployment)
    others = [await take(limiter, deployment, caller=Caller(3, 20, key)) for key in range(60, 110) for _ in range(2)]
    assert others.count(None) == 98


async def test_tokens_are_reserved_and_settled(fleet):
    first, second = await fleet(2)
    deployment = target(("key", 0, 6000))
    allowance = first.allowance(deployment, CALLER)
    assert await take(first, deployment, 5000) is None
    refused = await take(second, deployment, 5000)
    assert refused and refused.wait_s == pytest.approx(40, abs=1.5)
    first.settle(allowance, 5000, 100)
    async with asyncio.timeout(5):
        while await take(second, deployment, 5000):
            await asyncio.sleep(0.02)
    second.settle(allowance, 5000, 9000)
    await asyncio.sleep(0.1)
    refused = await take(first, deployment, 1)
    assert refused and refused.wait_s > 25, "more was used than a minute's worth: it waits until that is made up"
    assert await take(first, deployment, 0) is None, "what uses no tokens isn't concerned"


async def test_a_request_larger_than_the_limit_passes_when_the_bucket_is_full(fleet):
    (limiter,) = await fleet(1)
    deployment = target(("key", 0, 1000))
    assert await take(limiter, deployment, 50_000) is None
    assert (await take(limiter, deployment, 1)).wait_s < 1


@pytest.mark.parametrize("fault", ["kill", "hang"])
async def test_without_valkey_each_gateway_keeps_to_its_share(fleet, valkey, fault):
    limiters = await fleet(3)
    deployment = target(("key", 90, 0))
    getattr(valkey, fault)()
    passed, elapsed = await hammer(limiters, deployment, 90, 2.0)
    assert passed <= 90 + 90 * elapsed / 60 + 3
    assert passed >= 87
    assert all(limiter.is_alone for limiter in limiters)


async def test_after_valkeys_return_what_was_used_without_it_stays_used(fleet, valkey):
    limiters = await fleet(3)
    deployment = target(("key", 90, 0))
    valkey.kill()
    await hammer(limiters, deployment, 90, 1.0)
    await valkey.start()
    async with asyncio.timeout(20):
        while any(limiter.is_alone for limiter in limiters):
            await asyncio.sleep(0.05)
    await asyncio.sleep(1.0)
    passed, _ = await hammer(limiters, deployment, 90, 1.0)
    assert passed <= 9, "Valkey came back empty, but the gateways told it"


async def test_a_hung_valkey_holds_nobody_up_for_long(fleet, valkey):
    (limiter,) = await fleet(1)
    deployment = target(("key", 100, 0))
    await take(limiter, deployment)
    valkey.hang()
    started = time.monotonic()
    assert await take(limiter, deployment) is None
    assert time.monotonic() - started < 2
    valkey.go_on()
    async with asyncio.timeout(20):
        while limiter.is_alone:
            await asyncio.sleep(0.02)
    assert await take(limiter, deployment) is None


async def test_what_is_full_again_is_forgotten(fleet, valkey):
    (limiter,) = await fleet(1)
    deployment = target(("key", 60_000, 60_000))
    for key in range(50):
        await take(limiter, deployment, 10, caller=Caller(3, 20, 100 + key))
    assert len(limiter._buckets) == 100
    async with asyncio.timeout(10):
        while limiter._buckets:
            await asyncio.sleep(0.05)
            limiter.forget_full(time.monotonic())
    assert not limiter._allowances
    reader, writer = await asyncio.open_connection("127.0.0.1", valkey.port)
    async with asyncio.timeout(10):
        while True:
            writer.write(b"DBSIZE\r\n")
            if await reader.readline() == b":0\r\n":
                break
            await asyncio.sleep(0.1)
    writer.close()


async def test_many_keys_of_one_organization_get_its_whole_limit(fleet):
    (limiter,) = await fleet(1)
    deployment = target(("organization", 60_000, 0), ("key", 60_000, 0))
    passed = 0
    for key in range(2000):
        passed += await take(limiter, deployment, caller=Caller(3, 20, 100 + key % 500)) is None
    bucket = next(item for item in limiter._buckets.values() if item.level == "organization")
    assert passed == 2000 and bucket.remaining(time.monotonic()) >= 60_000 - 2000 - bucket.lease


async def test_each_refusal_tells_the_true_wait(fleet):
    (limiter,) = await fleet(1)
    deployment = target(("key", 10, 0))
    waits = [refusal.wait_s for _ in range(14) if (refusal := await take(limiter, deployment))]
    assert len(waits) == 4 and min(waits) > 5


async def test_thousands_of_debts_are_told_after_an_outage(fleet, valkey):
    (limiter,) = await fleet(1)
    deployment = target(("key", 100, 0))
    valkey.kill()
    for key in range(5000):
        await take(limiter, deployment, caller=Caller(3, 20, 100 + key))
    await valkey.start()
    async with asyncio.timeout(30):
        while limiter.is_alone or limiter._owing:
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    assert not limiter.is_alone
    answers = [await take(limiter, deployment, caller=Caller(3, 20, 4000)) for _ in range(100)]
    assert answers.count(None) in (99, 100)


async def test_one_request_that_fails_to_take_its_answer_harms_no_other(fleet, valkey):
    (limiter,) = await fleet(1)
    deployment = target(("key", 100, 0))
    valkey.hang()
    allowance = limiter.allowance(deployment, CALLER)

    def fail(refusal) -> None:
        raise OSError("no space left on device")

    limiter.ask(allowance, 0, fail)
    assert await take(limiter, deployment) is None
    valkey.go_on()
    async with asyncio.timeout(10):
        while limiter.is_alone:
            await asyncio.sleep(0.05)


async def test_another_limit_counts_from_the_next_request(fleet):
    (limiter,) = await fleet(1)
    before, after = target(("key", 10, 0)), target(("key", 20, 0))
    for _ in range(12):
        await take(limiter, before)
    limiter.forget_allowances()
    answers = [await take(limiter, after) for _ in range(3)]
    assert answers.count(None) == 0, "an empty bucket stays empty: what was used is a share of the limit"
    limiter.forget_allowances()
    unlimited = limiter.allowance(target(), CALLER)
    assert unlimited.take(0, time.monotonic()) and unlimited.headers(time.monotonic()) == []
