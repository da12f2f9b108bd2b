"""Collects finished requests and folds them, bucket by bucket, into the rows that the tables hold."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from common import sketch
from gateway.journal import Entry

BUCKET_S = 10
OUTCOMES = ("completed", "failed", "cancelled", "rejected", "expired")
COMPLETED, FAILED, CANCELLED, REJECTED, EXPIRED = range(5)
SOURCES = ("api", "console")
LATENCIES = ("end_to_end", "inference", "queue", "first_token")


@dataclass(frozen=True)
class Batch:
    """What one bucket (or one replay) adds to the tables; its id makes a second arrival harmless."""

    id: str
    position: int
    series: list[dict[str, Any]]
    usage: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Meter:
    """Entries of the open bucket. Used on the gateway's loop only; folding happens elsewhere on what `take` gave."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)

    def take(self) -> list[Entry]:
        """All entries since the last call."""
        entries, self._entries = self._entries, []
        return entries

    def put_back(self, entries: list[Entry]) -> None:
        """Take entries back whose bucket could not be written."""
        self._entries[:0] = entries

    def peek(self) -> list[Entry]:
        return list(self._entries)


def fold_series(entries: list[Entry], source: str) -> list[dict[str, Any]]:
    """One row per version, instance and bucket, and one merged over the version's instances."""
    groups: dict[tuple[int, int, str, int], list[Entry]] = defaultdict(list)
    for entry in entries:
        bucket = int(entry.at) // BUCKET_S * BUCKET_S
        groups[entry.deployment_id, entry.version_id, "", bucket].append(entry)
        if entry.instance.strip(b"\0"):
            groups[entry.deployment_id, entry.version_id, entry.instance.hex(), bucket].append(entry)
    return [_row(key, group, source) for key, group in groups.items()]


def fold_usage(entries: list[Entry]) -> list[dict[str, Any]]:
    """One ledger row per minute, deployment, organization and user."""
    rows: dict[tuple[int, int, int, int, int], dict[str, Any]] = {}
    for entry in entries:
        minute = int(entry.at) // 60 * 60
        key = (minute, entry.deployment_id, entry.organization_id, entry.user_id, entry.source)
        row = rows.get(key)
        if row is None:
            row = rows[key] = {
                "minute": minute, "deployment_id": entry.deployment_id, "organization_id": entry.organization_id,
                "user_id": entry.user_id, "key_id": 0, "key_label": "", "source": SOURCES[entry.source],
                **dict.fromkeys(OUTCOMES, 0), "input_tokens": 0, "output_tokens": 0, "estimated_tokens": 0,
            }  # fmt: skip
        row[OUTCOMES[entry.outcome]] += 1
        row["input_tokens"] += entry.input_tokens
        row["output_tokens"] += entry.output_tokens
        if entry.estimated:
            row["estimated_tokens"] += entry.input_tokens + entry.output_tokens
    return list(rows.values())


def _row(key: tuple[int, int, str, int], entries: list[Entry], source: str) -> dict[str, Any]:
    deployment_id, version_id, instance_uid, bucket = key
    classes = np.bincount([min(5, max(0, entry.status // 100)) for entry in entries], minlength=6)
    outcomes = np.bincount([entry.outcome for entry in entries], minlength=5)
    row: dict[str, Any] = {
        "bucket": bucket, "tier": BUCKET_S, "deployment_id": deployment_id, "version_id": version_id,
        "instance_uid": instance_uid, "source": source,
        **{f"status_{number}xx": int(classes[number]) for number in (2, 3, 4, 5)},
        **{name: int(outcomes[index]) for index, name in enumerate(OUTCOMES)},
        "input_tokens": sum(entry.input_tokens for entry in entries),
        "output_tokens": sum(entry.output_tokens for entry in entries),
    }  # fmt: skip
    for name in LATENCIES:
        values = np.array([getattr(entry, name) for entry in entries if _measured(entry, name)], dtype=np.float64)
        row[f"{name}_sum"] = float(values.sum())
        row[f"{name}_max"] = float(values.max(initial=0.0))
        row[f"{name}_sketch"] = sketch.of_values(values).hex()
    return row


def _measured(entry: Entry, name: str) -> bool:
    """Rejected requests never reached an instance and would drag every latency down; -1 stands for "never"."""
    return entry.outcome != REJECTED and getattr(entry, name) >= 0
