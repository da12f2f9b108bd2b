"""Collecting: rates that can't be negative, targets that hang, and a round that costs little."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import connection
from django.utils import timezone

from deployments.models import Instance, Status
from monitoring import collect, scrape, series
from monitoring.collect import Reading
from monitoring.models import CpuReading, IngestedBatch, MeteredInstance
from monitoring.tiers import TIERS
from runtimes.local.usage import Usage
from runtimes.observation import READY

pytestmark = pytest.mark.django_db(transaction=True)
PAGE = b"vllm:num_requests_running 2\nvllm:num_requests_waiting 1\n"


@pytest.fixture(autouse=True)
def _empty_tables(db):
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE monitoring_fresh")


@contextmanager
def engines() -> Iterator[dict[str, str]]:
    """Addresses of servers that answer, hang after the connect, send for ever, redirect, and refuse."""
    found: dict[str, str] = {}
    ready, stopped = threading.Event(), threading.Event()

    async def answer(writer, data: bytes, *, ends: bool = True) -> None:
        writer.write(data)
        await writer.drain()
        if ends:
            writer.close()

    async def good(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await answer(writer, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + PAGE)

    async def hanging(reader, writer):
        await asyncio.sleep(60)

    async def endless(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x" * 65_536)
            await writer.drain()

    async def redirecting(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await answer(
            writer,
            f"HTTP/1.1 302 Found\r\nLocation: http://{found['good']}/metrics\r\nContent-Length: 0\r\n\r\n".encode(),
        )

    async def serve() -> None:
        for handler in (good, hanging, endless, redirecting):
            server = await asyncio.start_server(handler, "127.0.0.1", 0)
            found[handler.__name__] = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        found["dead"] = "127.0.0.1:1"
        ready.set()
        while not stopped.is_set():
            await asyncio.sleep(0.05)

    # Its end cancels whoever still hangs.
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(5)
    try:
        yield found
    finally:
        stopped.set()
        thread.join(5)


def instance(version, name: str, address: str) -> Instance:
    made = Instance.objects.create(
        version=version, uid=f"{abs(hash(name)):032x}"[:32], name=name, generation=1, phase=READY, address=address,
        started_at=timezone.now(), ready_at=timezone.now(),
    )  # fmt: skip
    return Instance.objects.select_related("version__deployment__endpoint__cluster").get(pk=made.pk)


def test_a_slow_or_dead_target_delays_no_other_and_each_reason_is_told(deploy):
    version = deploy().versions.get()
    with engines() as addresses:
        instances = {name: instance(version, name, address) for name, address in addresses.items()}
        instances["unready"] = instance(version, "unready", addresses["good"])
        instances["unready"].phase = "starting"
        crowd = [instance(version, f"hanging-{number}", addresses["hanging"]) for number in range(100)]
        started = time.monotonic()
        outcomes = scrape.scrape([*crowd, *instances.values()])
        assert time.monotonic() - started < scrape.TIMEOUT_S + 2
    found = {name: outcomes[item.uid] for name, item in instances.items()}
    assert (found["good"].sample.running, found["good"].sample.waiting) == (2, 1)
    assert found["hanging"].reason == "its metrics page did not answer within 3 s"
    assert found["endless"].reason == "its metrics page is longer than 2 MiB"
    # Where it leads could be any address of our network.
    assert found["redirecting"].reason == "its metrics page answers 302"
    assert found["dead"].reason == "its metrics page can't be reached from here"
    assert found["unready"].reason == "the instance is not ready"
    assert all(outcomes[item.uid].reason for item in crowd)


def usage(user_s: float, *, since: float = 1000.0) -> Usage:
    return Usage("u", since, user_s, user_s / 2, 100 << 20, (), ())


@pytest.mark.parametrize(
    ("clock", "user_s", "since", "rate"),
    [
        (110.0, 15.0, 1000.0, 0.5),
        # A clock that stepped back or forth, the same look twice, a long pause: nothing is known of the time between.
        (90.0, 15.0, 1000.0, None),
        (100.0, 10.0, 1000.0, None),
        (100.0 + 3600, 15.0, 1000.0, None),
        # The program restarted and counts from zero again.
        (110.0, 1.0, 2000.0, None),
        # A counter that went down without a restart.
        (110.0, 9.0, 1000.0, 0.0),
    ],
)
def test_rates_are_of_the_time_between_two_looks_or_not_at_all(clock, user_s, since, rate):
    last = CpuReading(instance_uid="u", at=100.0, since=1000.0, cpu_user_s=10.0, cpu_system_s=5.0)
    assert collect._cpu_rates(usage(user_s, since=since), clock, last).get("cpu_user") == rate


def test_a_round_takes_the_same_statements_for_many_instances(deploy, django_assert_max_num_queries):
    deployment = deploy()
    version = deployment.versions.get()
    cluster = deployment.endpoint.cluster
    readings = [
        Reading(instance(version, f"i{number}", ""), 100.0, usage(10.0), None, "", "no page") for number in range(200)
    ]
    # Else the first round of an hour makes them.
    series.ensure_fresh_partition()
    with django_assert_max_num_queries(20):
        assert collect._store(cluster, readings, int(time.time())) == 200
    later = [Reading(item.instance, 110.0, usage(15.0), None, "", "no page") for item in readings]
    with django_assert_max_num_queries(16):
        collect._store(cluster, later, int(time.time()) + 10)
    frame = series.system([version.pk], int(time.time()) - 60, int(time.time()) + 60, TIERS[0])
    assert len(frame.of("cpu_user")) == 200 and set(frame.of("cpu_user").average) == {0.5}
    assert frame.of("replicas_active").average.tolist() == [200, 200]
    assert MeteredInstance.objects.filter(engine_reason="no page").count() == 200
    assert IngestedBatch.objects.count() == 2


def test_a_version_that_ended_is_not_sampled(deploy):
    version = deploy().versions.get()
    instance(version, "gone", "").delete()
    ended = instance(version, "ended", "")
    Instance.objects.filter(pk=ended.pk).update(ended_at=timezone.now())
    version.status = Status.STOPPED
    version.save()
    assert collect.collect_local() == 0
    assert not IngestedBatch.objects.exists()
