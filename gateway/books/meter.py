"""Folds the journal's records, bucket by bucket, into the rows that the tables hold. Each record is folded once."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from common import sketch
from common.request_outcomes import COMPLETED, ESTIMATED, ESTIMATES, LATENCIES, OUTCOMES, REJECTED, SOURCES, TOKENS
from gateway.books.journal import ADMITTED, FINISHED, NO_INSTANCE

BUCKET_S = 10
# The key of requests that never reached an instance.
NOWHERE = NO_INSTANCE.hex()
_USAGE_KEY = ["deployment", "organization", "user", "key", "source"]


# Of one batch so many requests of a deployment, and of all, are told one by one, the largest first.
MOST_OF_ONE, MOST_NOTABLE = 20, 200


@dataclass(frozen=True)
class Batch:
    """What one bucket (or one replay) adds to the tables; its id makes a second arrival harmless."""

    id: str
    position: int
    series: list[dict[str, Any]]
    usage: list[dict[str, Any]]
    books: list[dict[str, Any]]
    notable: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Series:
    """One row of the request series while it grows."""

    classes: np.ndarray = field(default_factory=lambda: np.zeros(6, np.int64))
    outcomes: np.ndarray = field(default_factory=lambda: np.zeros(len(OUTCOMES), np.int64))
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(LATENCIES, 0.0))
    maxima: dict[str, float] = field(default_factory=lambda: dict.fromkeys(LATENCIES, 0.0))
    sketches: dict[str, bytes] = field(default_factory=lambda: dict.fromkeys(LATENCIES, b""))

    def add(self, records: np.ndarray) -> None:
        self.classes += np.bincount(np.minimum(records["status"] // 100, 5), minlength=6)
        self.outcomes += np.bincount(records["outcome"], minlength=len(OUTCOMES))
        self.tokens += [records["input_tokens"].sum(dtype=np.int64), records["output_tokens"].sum(dtype=np.int64)]
        # Rejected requests never reached an instance and would drag every latency down.
        served = _pick(records, records["outcome"] != REJECTED) if self.outcomes[REJECTED] else records
        for name in LATENCIES:
            values = served[name][served[name] >= 0].astype(np.float64)
            if len(values):
                self.sums[name] += float(values.sum())
                self.maxima[name] = max(self.maxima[name], float(values.max()))
                self.sketches[name] = sketch.merge([self.sketches[name], sketch.of_values(values)])

    def merge(self, other: "_Series") -> None:
        self.classes += other.classes
        self.outcomes += other.outcomes
        self.tokens += other.tokens
        for name in LATENCIES:
            self.sums[name] += other.sums[name]
            self.maxima[name] = max(self.maxima[name], other.maxima[name])
            self.sketches[name] = sketch.merge([self.sketches[name], other.sketches[name]])

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = {f"status_{number}xx": int(self.classes[number]) for number in (2, 3, 4, 5)}
        row |= {name: int(self.outcomes[index]) for index, name in enumerate(OUTCOMES)}
        row |= {"input_tokens": int(self.tokens[0]), "output_tokens": int(self.tokens[1])}
        for name in LATENCIES:
            row[f"{name}_sum"], row[f"{name}_max"] = self.sums[name], self.maxima[name]
            row[f"{name}_sketch"] = self.sketches[name].hex()
        return row


class Meter:
    """What has been folded and is in no batch yet."""

    def __init__(self) -> None:
        self._series: dict[tuple[int, int, str, int], _Series] = {}
        self._usage: dict[tuple[int, ...], dict[str, int]] = {}
        self._books: dict[int, Counter[str]] = {}
        self._notable: list[np.ndarray] = []

    def fold(self, records: np.ndarray) -> None:
        """Add records of the journal, in any order, each exactly once."""
        admitted = _pick(records, records["kind"] == ADMITTED)
        if len(admitted):
            for indexes in _groups([admitted["deployment"]]):
                deployment = int(admitted["deployment"][indexes[0]])
                self._books.setdefault(deployment, Counter())["admitted"] += len(indexes)
        finished = _pick(records, records["kind"] == FINISHED)
        if len(finished):
            self._fold_series(finished)
            self._fold_usage(finished)
            self._keep_notable(finished)

    @property
    def is_empty(self) -> bool:
        return not self._books and not self._usage

    def series(self, source: str) -> list[dict[str, Any]]:
        """One row per version, instance and bucket, and one merged over the version's instances."""
        merged: dict[tuple[int, int, str, int], _Series] = {}
        for (deployment, version, _, bucket), series in self._series.items():
            merged.setdefault((deployment, version, "", bucket), _Series()).merge(series)
        rows = merged | {key: series for key, series in self._series.items() if key[2] != NOWHERE}
        names = ("deployment_id", "version_id", "instance_uid", "bucket")
        return [
            {**dict(zip(names, key, strict=True)), "tier": BUCKET_S, "source": source, **series.row()}
            for key, series in rows.items()
        ]

    def usage(self) -> list[dict[str, Any]]:
        """One ledger row per minute, deployment, organization, user, key and source."""
        rows = []
        for (minute, deployment, organization, user, key, source), sums in self._usage.items():
            rows.append({
                "minute": minute, "deployment_id": deployment, "organization_id": organization, "user_id": user,
                "key_id": key, "key_label": "", "source": SOURCES[source], **sums,
            })  # fmt: skip
        return rows

    def books(self, in_flight: dict[int, int]) -> list[dict[str, Any]]:
        """Per deployment what was admitted and how it ended since the last batch, and what is in flight at its end."""
        counts = self._books | {deployment: Counter() for deployment in in_flight if deployment not in self._books}
        return [
            {"deployment_id": deployment, "in_flight": in_flight.get(deployment, 0)}
            | {name: count[name] for name in ("admitted", *OUTCOMES)}
            for deployment, count in counts.items()
        ]

    def notable(self, id_of: Callable[[int], str]) -> list[dict[str, Any]]:
        """Requests whose tokens an engine may have counted otherwise, or in another hour; `id_of` their number."""
        if not self._notable:
            return []
        found = np.concatenate(self._notable)
        tokens = found["input_tokens"].astype(np.int64) + found["output_tokens"]
        largest = [
            indexes[np.argsort(-tokens[indexes], kind="stable")[:MOST_OF_ONE]]
            for indexes in _groups([found["deployment"]])
        ]
        kept = np.concatenate(largest)
        kept = kept[np.argsort(-tokens[kept], kind="stable")[:MOST_NOTABLE]]
        return [
            {
                "at": float(row["at"]), "deployment_id": int(row["deployment"]), "version_id": int(row["version"]),
                "instance_uid": bytes(row["instance"]).hex(), "organization_id": int(row["organization"]),
                "key_id": int(row["key"]), "request_id": id_of(int(row["sequence"])),
                "why": "crosses_hour" if row["outcome"] == COMPLETED else OUTCOMES[row["outcome"]],
                "input_tokens": int(row["input_tokens"]), "output_tokens": int(row["output_tokens"]),
                "seconds": max(0.0, float(row["end_to_end"])),
            }
            for row in found[kept]
        ]  # fmt: skip

    def clear(self) -> None:
        """Start the next batch."""
        self._series, self._usage, self._books, self._notable = {}, {}, {}, []

    def _keep_notable(self, records: np.ndarray) -> None:
        """Those that reached an instance and used tokens, and that didn't complete, or crossed an hour. What an engine never
        tells is no news of single requests: the ledger sums it."""
        uses = (records["input_tokens"] > 0) | (records["output_tokens"] > 0)
        begun = records["at"] - np.maximum(records["end_to_end"], 0)
        crosses = (records["at"] // 3600) != (begun // 3600)
        which = uses & ((records["outcome"] != COMPLETED) | crosses)
        if which.any():
            self._notable.append(_pick(records, which))

    def _fold_series(self, records: np.ndarray) -> None:
        bucket = records["at"].astype(np.int64) // BUCKET_S * BUCKET_S
        halves = records["instance"].view([("high", ">u8"), ("low", ">u8")])
        columns = [records["version"], halves["high"], halves["low"], bucket]
        for indexes in _groups(columns):
            first = records[indexes[0]]
            key = (
                int(first["deployment"]),
                int(first["version"]),
                bytes(first["instance"]).hex(),
                int(bucket[indexes[0]]),
            )
            self._series.setdefault(key, _Series()).add(_pick(records, indexes))

    def _fold_usage(self, records: np.ndarray) -> None:
        minute = records["at"].astype(np.int64) // 60 * 60
        for indexes in _groups([minute, *(records[name] for name in _USAGE_KEY)]):
            group = _pick(records, indexes)
            key = (int(minute[indexes[0]]), *(int(group[name][0]) for name in _USAGE_KEY))
            sums = self._usage.setdefault(key, dict.fromkeys((*OUTCOMES, *TOKENS, *ESTIMATED), 0))
            ended = np.bincount(group["outcome"], minlength=len(OUTCOMES))
            books = self._books.setdefault(key[1], Counter())
            for index, name in enumerate(OUTCOMES):
                sums[name] += int(ended[index])
                books[name] += int(ended[index])
            for name in TOKENS:
                sums[name] += int(group[name].sum(dtype=np.int64))
            if group["estimated"].any():
                self._add_estimated(sums, group)

    def _add_estimated(self, sums: dict[str, int], group: np.ndarray) -> None:
        tokens = group["input_tokens"].astype(np.int64) + group["output_tokens"]
        for reason in range(1, len(ESTIMATES)):
            amount = int(tokens[group["estimated"] == reason].sum())
            sums["estimated_tokens"] += amount
            sums[ESTIMATED[reason]] += amount


def _groups(columns: list[np.ndarray]) -> list[np.ndarray]:
    """The indexes of each group of rows that agree in all `columns`. Most columns hold one value in most seconds."""
    groups = [np.arange(len(columns[0]))]
    for column in columns:
        if (column == column[0]).all():
            continue
        split = []
        for indexes in groups:
            values = column[indexes]
            order = np.argsort(values, kind="stable")
            bounds = np.flatnonzero(np.diff(values[order])) + 1
            split += [indexes[part] for part in np.split(order, bounds)]
        groups = split
    return groups


def _pick(records: np.ndarray, which: np.ndarray) -> np.ndarray:
    """The records at `which`, indexes or a mask. As plain bytes: field by field the copy takes ten times as long."""
    if which.dtype != bool and len(which) == len(records):
        return records
    return records.view(f"V{records.dtype.itemsize}")[which].view(records.dtype)
