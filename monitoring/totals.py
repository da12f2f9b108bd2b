"""Sums since ever, per deployment: what Prometheus calls counters and histograms."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common import sketch
from common.request_outcomes import LATENCIES
from monitoring.models import RequestTotals
from monitoring.request_frame import COUNTS, RequestFrame

# In seconds; a duration within 1 % of a bound may be counted on its other side.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 240, 480)
_PLACES = len(BOUNDS) + 1


@dataclass(frozen=True)
class Totals:
    """(len(COUNTS),), (len(LATENCIES),) in seconds, and cumulative counts (len(LATENCIES), len(BOUNDS) + 1)."""

    counts: np.ndarray
    sums: np.ndarray
    buckets: np.ndarray

    @classmethod
    def of_rows(cls, frame: RequestFrame, mask: np.ndarray) -> "Totals":
        """Of the rows of a frame at which `mask` is true."""
        own = frame.pick(mask)
        kind = own.cell_place % len(LATENCIES)
        place = np.searchsorted(BOUNDS, sketch.value_of(own.cell_index))
        buckets = np.bincount(kind * _PLACES + place, weights=own.cell_count, minlength=len(LATENCIES) * _PLACES)
        cumulative = np.cumsum(buckets.reshape(len(LATENCIES), _PLACES), axis=1).astype(np.int64)
        return cls(own.counts.sum(axis=0), own.sums.sum(axis=0), cumulative)

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(self.counts + other.counts, self.sums + other.sums, self.buckets + other.buckets)


def add(news: Mapping[int, Totals]) -> None:
    """Add to what is there, in one transaction with the batch that they come from."""
    if not news:
        return
    nothing = {
        "counts": [0] * len(COUNTS), "sums": [0.0] * len(LATENCIES), "buckets": [0] * (len(LATENCIES) * _PLACES)
    }  # fmt: skip
    RequestTotals.objects.bulk_create(
        [RequestTotals(deployment_id=pk, **nothing) for pk in sorted(news)], ignore_conflicts=True
    )
    # Locked in one order, so that two gateways' batches wait for each other instead of both for ever.
    locked = list(
        RequestTotals.objects.select_for_update().filter(deployment_id__in=list(news)).order_by("deployment_id")
    )
    for row in locked:
        total = read(row) + news[row.deployment_id]
        row.counts, row.sums, row.buckets = total.counts.tolist(), total.sums.tolist(), total.buckets.ravel().tolist()
    RequestTotals.objects.bulk_update(locked, ["counts", "sums", "buckets"])


def read(row: RequestTotals) -> Totals:
    return Totals(np.array(row.counts), np.array(row.sums), np.array(row.buckets).reshape(len(LATENCIES), _PLACES))
