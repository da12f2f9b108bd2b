"""Frames of metrics: nothing is lost or made up, however rows are cut, packed and added up."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import sketch
from common.request_outcomes import LATENCIES
from monitoring.packing import pack, unpack
from monitoring.request_frame import COUNTS, RequestFrame
from monitoring.system_frame import NO_DEVICE, SystemFrame
from monitoring.tiers import MAX_POINTS, TIERS, finest, fitting_width, serving

FRACTIONS = (0.5, 0.75, 0.9, 0.95, 0.99)
START = 1_763_640_000


def row(bucket: int, uid: str, seconds: np.ndarray) -> dict[str, Any]:
    """A gateway's row of requests that took `seconds`."""
    found: dict[str, Any] = dict.fromkeys(COUNTS, 0)
    found |= {
        "bucket": bucket,
        "instance_uid": uid,
        "status_2xx": len(seconds),
        "completed": len(seconds),
        "output_tokens": 3 * len(seconds),
    }
    for name in LATENCIES:
        values = seconds if name != "first_token" else seconds[:0]
        found[f"{name}_sum"], found[f"{name}_max"] = float(values.sum()), float(values.max(initial=0))
        found[f"{name}_sketch"] = sketch.of_values(values).hex()
    return found  # fmt: skip


def frame_of(parts: list[tuple[int, str, np.ndarray]]) -> RequestFrame:
    """With a row of all instances at each time, as gateways make it."""
    numbers = {"": 0} | {uid: index + 1 for index, uid in enumerate(sorted({uid for _, uid, _ in parts}))}
    rows = [row(*part) for part in parts]
    for bucket in sorted({part[0] for part in parts}):
        rows.append(row(bucket, "", np.concatenate([part[2] for part in parts if part[0] == bucket])))
    return RequestFrame.from_rows(rows, numbers)


def exact(values: np.ndarray) -> np.ndarray:
    return np.quantile(values, FRACTIONS, method="inverted_cdf")


def durations(kind: str, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "log-normal":
        return rng.lognormal(-1, 1.2, count)
    if kind == "bimodal":
        return np.where(rng.random(count) < 0.7, rng.normal(0.05, 0.004, count), rng.normal(8, 0.5, count)).clip(1e-4)
    if kind == "heavy tail":
        return rng.pareto(1.1, count) + 0.001
    return np.full(count, 0.25)


@given(
    kind=st.sampled_from(["log-normal", "bimodal", "heavy tail", "constant"]),
    count=st.integers(1, 3000), instances=st.integers(1, 5), buckets=st.integers(1, 40), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_percentiles_are_within_one_percent_over_any_range_and_tier(kind, count, instances, buckets, seed):
    values = durations(kind, count, seed)
    rng = np.random.default_rng(seed)
    bucket, instance = rng.integers(0, buckets, count) * 10, rng.integers(0, instances, count)
    parts = [
        (START + int(at), f"i{number}", values[(bucket == at) & (instance == number)])
        for at in np.unique(bucket)
        for number in np.unique(instance)
        if ((bucket == at) & (instance == number)).any()
    ]
    frame = RequestFrame.unpack(frame_of(parts).pack())
    for tier in TIERS:
        rolled = RequestFrame.unpack(frame.by_width(tier.seconds).pack())
        merged = rolled.pick(rolled.instance == 0)
        total = merged.regroup(np.zeros(len(merged), np.int64))
        np.testing.assert_allclose(total.quantiles("end_to_end", FRACTIONS)[0], exact(values), rtol=0.01)
        assert total.column("status_2xx")[0] == count and total.column("output_tokens")[0] == 3 * count
        assert total.sums[0, 0] / total.measured("end_to_end")[0] == pytest.approx(values.mean(), rel=1e-5)
        assert total.maxima[0, 0] == pytest.approx(values.max(), rel=1e-6)
        assert (total.quantiles("end_to_end", FRACTIONS)[0] <= total.maxima[0, 0]).all()
        assert np.isnan(total.quantiles("first_token", FRACTIONS)).all()
        # Any part of the range, and one instance alone.
        for at in merged.at[:3]:
            place = np.flatnonzero(merged.at == at)[0]
            expected = values[(START + bucket) // tier.seconds == at // tier.seconds]
            np.testing.assert_allclose(merged.quantiles("queue", FRACTIONS)[place], exact(expected), rtol=0.01)
        own = rolled.pick(rolled.instance == 1)
        own = own.regroup(np.zeros(len(own), np.int64))
        mine = values[instance == np.unique(instance)[0]]
        np.testing.assert_allclose(own.quantiles("inference", FRACTIONS)[0], exact(mine), rtol=0.01)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from("ab"), st.integers(1, 20)), min_size=1, max_size=30),
    st.randoms(),
)
@settings(deadline=None, max_examples=60)
def test_rows_add_up_to_the_same_in_any_order_and_grouping(parts, random):
    made = [(START + 10 * bucket, uid, np.full(count, 0.1 + bucket)) for bucket, uid, count in parts]
    whole = frame_of(made)
    shuffled = list(made)
    random.shuffle(shuffled)
    numbers = {"": 0} | {uid: index + 1 for index, uid in enumerate(sorted({uid for _, uid, _ in parts}))}
    cut = random.randrange(len(shuffled) + 1)
    pieces = [
        RequestFrame.from_rows([row(*part) for part in group] + [row(part[0], "", part[2]) for part in group], numbers)
        for group in (shuffled[:cut], shuffled[cut:])
    ]
    joined = RequestFrame.concatenate(
        RequestFrame.unpack(piece.without_sums().pack()).with_sums() for piece in pieces
    ).by_width(10)
    for name in ("instance", "at", "counts", "cell_place", "cell_index", "cell_count"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name), err_msg=name)
    np.testing.assert_allclose(joined.sums, whole.sums, rtol=1e-5)
    assert whole.pick(whole.instance == 0).column("completed").sum() == sum(count for _, _, count in parts)


def test_what_reached_no_instance_is_in_the_row_of_all_only():
    frame = frame_of([(START, "a", np.ones(3))])
    unserved = row(START, "", np.ones(3)) | {"status_5xx": 2, "rejected": 2}
    frame = RequestFrame.from_rows([row(START, "a", np.ones(3)), unserved], {"": 0, "a": 1})
    again = RequestFrame.unpack(frame.without_sums().pack()).with_sums()
    assert again.column("status_5xx").tolist() == [2, 0] and again.instance.tolist() == [0, 1]
    assert RequestFrame.unpack(RequestFrame.empty().pack()).by_width(60).quantiles("queue", FRACTIONS).shape == (0, 5)


def test_ranks_are_the_nearest_and_not_one_more():
    """0.07 × 100 is a hair above 7 for a computer: the seventh value is meant."""
    values = np.arange(1, 101, dtype=float)
    frame = RequestFrame.from_rows([row(START, "", values)], {"": 0})
    assert frame.quantiles("end_to_end", [0.07, 0.29])[0].tolist() == pytest.approx([7, 29], rel=0.01)


def test_samples_are_averaged_by_weight_and_gaps_stay_gaps():
    cpu = [
        (1, "cpu_user", NO_DEVICE, START + offset, value)
        for offset, value in ((0, 1.0), (10, 3.0), (20, 2.0), (600, 8.0))
    ]
    gpus = [(1, "gpu_utilization", device, START, 0.5 * device) for device in (0, 1)]
    frame = SystemFrame.of_samples(cpu + gpus)
    rolled = SystemFrame.unpack(SystemFrame.unpack(frame.pack()).by_width(60).pack())
    user = rolled.of("cpu_user")
    assert user.at.tolist() == [START, START + 600]
    assert user.average.tolist() == pytest.approx([2.0, 8.0]) and user.highest.tolist() == [3.0, 8.0]
    assert rolled.by_width(3600).of("cpu_user").average.tolist() == pytest.approx([14 / 4])
    assert rolled.of("gpu_utilization").device.tolist() == [0, 1]
    assert rolled.of("gpu_utilization").merged().average.tolist() == [0.25]
    assert len(SystemFrame.unpack(SystemFrame.empty().pack())) == 0


def test_bytes_do_not_grow_with_requests():
    """A sketch fills up: a thousand times the requests is not even ten times the bytes."""
    rng = np.random.default_rng(1)
    few, many = (len(frame_of([(START, "a", rng.lognormal(0, 0.5, count))]).pack()) for count in (100, 100_000))
    assert many < 6 * few


def test_packed_columns_come_back_as_they_were():
    head = np.array([(3,)], [("rows", "<u4")])
    data = pack([head, np.array([1, 2, 3], "<i8"), np.array([0.5, np.nan], "<f4"), np.array([7], "u1")])
    first, reader = unpack(data, head.dtype)
    assert first["rows"] == 3 and reader.take("<i8", 3).tolist() == [1, 2, 3]
    np.testing.assert_array_equal(reader.take("<f4", 2), np.array([0.5, np.nan], "<f4"))
    assert reader.take("u1", 1).tolist() == [7]


@given(st.integers(60, 400 * 86_400), st.integers(0, 380 * 86_400))
@settings(max_examples=200)
def test_every_range_has_a_tier_that_has_it_and_few_enough_points(length, age):
    now = START
    start = now - age - length
    width = fitting_width(start, start + length, now, start)
    tier = serving(width, start, now)
    assert width % tier.seconds == 0 and length / width <= MAX_POINTS
    assert tier.seconds >= finest(start, now).seconds
    assert all(wide.seconds % fine.seconds == 0 for fine, wide in pairwise(TIERS))
    assert all(tier.partition % tier.span == 0 and tier.span % tier.seconds == 0 for tier in TIERS)
