"""What metrics cost: bytes of a day, milliseconds of a chart, of the fleet page and of a scrape."""

import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from django.test import RequestFactory

from benchmarks import peers
from benchmarks.installation import Installation
from benchmarks.report import Row
from common import sketch
from common.request_outcomes import LATENCIES
from deployments.models import Deployment
from monitoring import fleet, panel, queries, request_charts, rollup, scrape, series
from monitoring.charts import Chart
from monitoring.fleet_columns import FleetColumns
from monitoring.fleet_views import fleet_page
from monitoring.instances import numbers_of, uid_of_version
from monitoring.live import Tail
from monitoring.models import FleetMinute
from monitoring.queries import Scope
from monitoring.question import Question
from monitoring.request_frame import COUNTS, RequestFrame
from monitoring.system_frame import NO_DEVICE, SystemFrame
from monitoring.tiers import DAY, HOUR, TIERS, Tier

INSTANCES, VERSIONS = 8, 5
SCALE = 1000 / (INSTANCES * VERSIONS)
ROUNDS = 15
VARIANTS = 400
FLEET = 1000
_BATCHES = count()


def run() -> Iterator[Row]:
    installation = Installation()
    series.ensure_fresh_partition()
    yield from _scrape()
    yield from _fleet(installation)
    yield from _charts(installation)
    yield from _live(installation)
    yield from _bytes_of_a_day(installation)


class Source:
    """Requests and samples of one version with some instances, as gateways and the collector bring them."""

    def __init__(self, installation: Installation, name: str, instances: int, seed: int) -> None:
        self.path = installation.serve(name, *range(9000, 9000 + instances))
        self.deployment = installation.deployment(name)
        self.version = self.deployment.versions.get()
        uids = list(self.version.instances.values_list("uid", flat=True))
        self._numbers = numbers_of(dict.fromkeys([*uids, uid_of_version(self.version.pk)], self.version.pk))
        self._uids, self._rng = uids, np.random.default_rng(seed)
        self._variants: dict[int, list[RequestFrame]] = {}

    def requests(self, bucket: int, each: int) -> bytes:
        """`each` requests of every instance in one bucket: log-normal times, every other one streamed."""
        # A few variants again and again: what they cost is the same, and drawing them would take longer than storing.
        variants = self._variants.setdefault(each, [])
        if len(variants) < VARIANTS:
            frame = RequestFrame.from_rows([self._row(0, uid, each) for uid in self._uids], self._numbers)
            whole = frame.regroup(frame.at, np.zeros(len(frame), np.int64))
            both = RequestFrame.concatenate([frame, whole])
            variants.append(both.regroup(both.at).without_sums())
        chosen = variants[self._rng.integers(len(variants))]
        return replace(chosen, at=np.full(len(chosen), bucket)).pack()

    def samples(self, at: int) -> bytes:
        """CPU, memory and engine figures of every instance at one moment."""
        rows: list[tuple[int, str, int, int, float]] = []
        for uid in self._uids:
            number = self._numbers[uid]
            figures = {
                "cpu_user": self._rng.gamma(2, 0.2), "cpu_system": self._rng.gamma(2, 0.02),
                "memory_used": 3e9 + self._rng.normal(0, 1e7), "requests_running": self._rng.poisson(3),
                "requests_waiting": self._rng.poisson(0.2), "kv_cache_use": self._rng.beta(2, 5),
            }  # fmt: skip
            rows += [(number, name, NO_DEVICE, at, float(value)) for name, value in figures.items()]
        whole = self._numbers[uid_of_version(self.version.pk)]
        rows += [
            (whole, "replicas_active", NO_DEVICE, at, len(self._uids)),
            (whole, "replicas_starting", NO_DEVICE, at, 0),
        ]
        return SystemFrame.of_samples(rows).pack()

    def _row(self, bucket: int, uid: str, number: int) -> dict[str, Any]:
        inference, queue = self._rng.lognormal(0.3, 0.6, number), self._rng.lognormal(-6, 0.5, number)
        times = {
            "end_to_end": inference + queue,
            "inference": inference,
            "queue": queue,
            "first_token": inference[::2] * 0.1,
        }
        row: dict[str, Any] = dict.fromkeys(COUNTS, 0) | {
            "bucket": bucket, "instance_uid": uid, "status_2xx": number, "completed": number,
            "input_tokens": int(number * self._rng.integers(200, 900)), "output_tokens": int(number * self._rng.integers(50, 300)),
        }  # fmt: skip
        for name in LATENCIES:
            row[f"{name}_sum"], row[f"{name}_max"] = float(times[name].sum()), float(times[name].max(initial=0))
            row[f"{name}_sketch"] = sketch.of_values(times[name]).hex()
        return row


def store(sources: list[Source], bucket: int, each: int, samples: int = 1, spacing: int = 10) -> None:
    """One batch of requests and its samples."""
    for kind, name in ((series.REQUESTS, "gw"), (series.SYSTEM, "system")):
        number, arrived = series.add_batch(f"{name}.{next(_BATCHES)}") or (0, None)
        assert arrived is not None
        rows = []
        for source in sources:
            if kind == series.REQUESTS:
                rows.append((source.version.pk, bucket, source.requests(bucket, each)))
            else:
                rows += [
                    (source.version.pk, at, source.samples(at))
                    for at in range(bucket, bucket + samples * spacing, spacing)
                ]
        series.add_fresh(number, arrived, kind, rows)


def _bytes_of_a_day(installation: Installation) -> Iterator[Row]:
    """Each tier by a span of its own blocks, whole as they are written, scaled to a day of a thousand instances."""
    for rate in (1, 20):
        sources = [Source(installation, f"day-{rate}-{number}", INSTANCES, number) for number in range(VERSIONS)]
        kept = 0.0
        for tier in TIERS:
            size, fresh, spent = _size_of_span(sources, tier, rate)
            if tier == TIERS[0]:
                yield Row(
                    f"A day of 1,000 instances, {rate} request(s) a second each: as it comes",
                    f"{fresh / 1e6:,.0f} MB",
                    "kept until it is rolled up, for 10 min",
                    None,
                )
                yield Row("  CPU of rolling it up, the finest tier", f"{spent / 864:.2f} % of a core", "", None)
            kept += size if tier.kept > 30 * DAY else 0
            target = 1000 if tier == TIERS[0] else None
            yield Row(
                f"  in buckets of {tier.seconds} s",
                f"{size / 1e6:,.1f} MB",
                f"kept for {tier.kept / DAY:g} days",
                size / 1e6,
                target,
            )
        yield Row(
            "  kept after the roll-ups", f"{kept / 1e6:,.1f} MB", "the tiers that are kept for months", kept / 1e6, 50
        )
    _truncate()


def _size_of_span(sources: list[Source], tier: Tier, rate: int) -> tuple[float, float, float]:
    """Bytes of a day of 1,000 instances in the tier's table and as they come, and CPU seconds of rolling them up."""
    _truncate()
    # An hour at least: partitions of less would be mostly empty pages.
    length = max(tier.span, HOUR)
    scale = DAY / length * SCALE
    start = (int(time.time()) - 8 * DAY) // length * length
    for bucket in range(start, start + length, tier.seconds):
        store(sources, bucket, rate * tier.seconds, samples=1 if tier == TIERS[0] else 2, spacing=tier.seconds // 2)
    fresh = _size("monitoring_fresh") * scale
    spent = -time.process_time()
    rollup.roll_up(start + length + 5 * DAY)
    return _size(tier.table) * scale, fresh, (spent + time.process_time()) * scale


def _charts(installation: Installation) -> Iterator[Row]:
    now = int(time.time())
    source = Source(installation, "chart", INSTANCES, 7)
    for bucket in range(now // HOUR * HOUR - 91 * DAY, now - HOUR, HOUR):
        store([source], bucket, 3600, samples=12, spacing=300)
    rollup.roll_up(now)
    # What came since the last roll-up.
    for bucket in range(now // 10 * 10 - 600, now, 10):
        store([source], bucket, 10)
    for name in ("15m", "24h", "7d", "30d", "90d"):
        question = Question(range=name)
        spent = _median(lambda question=question: panel.build(source.deployment, question, now))
        points = max(
            len(trace["x"]) for chart in panel.build(source.deployment, question, now)["charts"].values() if "figure" in chart
            for trace in chart["figure"]["data"]
        )  # fmt: skip
        yield Row(
            f"All charts of {name}, {INSTANCES} instances, 1 request a second each",
            f"{spent * 1000:.1f} ms",
            f"{points} points a curve",
            None,
        )
    yield from _one_chart(source.deployment, now)


def _one_chart(deployment: Deployment, now: int) -> Iterator[Row]:
    """The charts of requests alone: one question to the tables serves all six."""
    scope, question = Scope.of(deployment), Question(range="30d")

    def draw() -> list[Chart]:
        window = question.window(now)
        frame = queries.requests(scope, window, now)
        return request_charts.charts(frame, request_charts.whole(frame), None, window, now)

    spent = _median(draw)
    yield Row(
        "The six request charts of 30d alone",
        f"{spent * 1000:.1f} ms",
        "all percentiles of four times",
        spent * 1000,
        50,
    )


def _median(action: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Of the process' own time: two noisy cores say little else."""
    action()
    found = []
    for _ in range(rounds):
        gc.collect()
        started = time.perf_counter()
        action()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def _truncate() -> None:
    with series.binary_cursor() as cursor:
        cursor.execute(f"TRUNCATE monitoring_fresh, monitoring_rollup, {', '.join(tier.table for tier in TIERS)}")


def _size(table: str) -> int:
    with series.binary_cursor() as cursor:
        cursor.execute(
            "SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits WHERE inhparent = %s::regclass",
            [table],
        )
        row = cursor.fetchone()
        return int(row[0] or 0) if row else 0


def _fleet(installation: Installation) -> Iterator[Row]:
    """A thousand deployments, each with some requests in each of the last sixty minutes."""
    source = Source(installation, "fleet", 1, 9)
    made = installation.many(FLEET)
    now = int(time.time())
    frame = RequestFrame.unpack(source.requests(0, 30))
    frame = frame.pick(frame.instance > 0)
    ids = np.array(sorted(made), np.int64)
    for minute in range(now // 60 * 60 - 3600, now // 60 * 60, 60):
        rows = RequestFrame.concatenate(
            [replace(frame, instance=np.full(len(frame), pk), at=np.full(len(frame), minute)) for pk in ids]
        )
        shares = dict(zip(ids.tolist(), np.random.default_rng(minute).random(len(ids)).tolist(), strict=True))
        FleetMinute.objects.create(
            minute=minute, columns=FleetColumns.of(rows, shares, shares).pack(), requests=rows.pack()
        )
    request = RequestFactory().get("/console/fleet/")
    request.user = installation.operator
    spent = _median(lambda: fleet_page(request))
    yield Row(
        f"The fleet page with {FLEET:,} deployments",
        f"{spent * 1000:.0f} ms",
        "the first 50 of them drawn",
        spent * 1000,
        200,
    )
    spent = _median(lambda: fleet.make(now), rounds=3)
    yield Row("  made once a minute, three minutes each time", f"{spent * 1000:.0f} ms", "whoever looks", None)


def _scrape() -> Iterator[Row]:
    """A thousand metrics pages as long as vLLM's, a tenth of them of targets that hang."""
    with (
        tempfile.TemporaryDirectory() as name,
        peers.silent_server() as silent,
        peers.nginx_page(Path(name), _vllm_page()) as port,
    ):
        targets = {
            f"i{number}": f"http://127.0.0.1:{silent if number % 10 == 0 else port}/metrics" for number in range(1000)
        }
        spent, started = -time.process_time(), time.perf_counter()
        outcomes = asyncio.run(scrape.read_all(targets))
        spent += time.process_time()
        lasted = time.perf_counter() - started
    good = sum(outcome.sample is not None for outcome in outcomes.values())
    beside = f"{good} answered; {lasted:.1f} s in all, every 10 s"
    yield Row("CPU of scraping 1,000 instances, 100 of them hanging", f"{spent:.2f} s", beside, spent, 5)


def _vllm_page() -> str:
    """As many lines as a vLLM server's page has, of which a few matter."""
    names = (
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
    )
    lines = [
        f'vllm:{name}_bucket{{engine="0",le="{bound}",model_name="meta-llama/Llama-3.1-8B-Instruct"}} {bound * 7}.0'
        for name in names for bound in range(120)
    ]  # fmt: skip
    figures = (
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "prefix_cache_queries_total",
        "prefix_cache_hits_total",
    )
    lines += [f'vllm:{name}{{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"}} 0.5' for name in figures]
    return "\n".join(lines) + "\n"


def _live(installation: Installation) -> Iterator[Row]:
    """What one reading costs, which serves all open pages of a view."""
    tail = Tail(installation.deployment("chart"), Question())
    sizes = []
    spent = _median(lambda: sizes.append(len(tail.read(int(time.time())))))
    yield Row(
        "One second of a live view, for all its pages together",
        f"{spent * 1000:.1f} ms",
        f"{sizes[-1] / 1024:.0f} KiB to each page",
        None,
    )
