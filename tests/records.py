"""Records of the gateway's journal for tests."""

from typing import Any

import numpy as np

from gateway.books.journal import ADMITTED, FINISHED, RECORD, File, Journal, parties

PARTIES = ("deployment", "version", "organization", "user", "key", "source")
FIELDS = tuple(name for name in RECORD.names if name not in ("kind", "_", "_2"))
DEFAULTS: dict[str, Any] = {
    "outcome": 0, "status": 200, "source": 1, "estimated": 0, "sequence": 1, "deployment": 1, "version": 2, "instance": b"\x01" * 16,
    "organization": 3, "user": 4, "key": 0, "at": 1000.5, "end_to_end": 0.5, "inference": 0.25, "queue": 0.125, "first_token": -1.0,
    "input_tokens": 7, "output_tokens": 9, "cached_tokens": 0, "reasoning_tokens": 0, "audio_tokens": 0, "search_units": 0,
}  # fmt: skip


def records(*changes: dict[str, Any], admitted: bool = True) -> np.ndarray:
    """One admission and one end per item of `changes`, as the journal has them."""
    rows = np.zeros(len(changes) * 2, RECORD)
    for index, change in enumerate(changes):
        for offset, kind in ((0, ADMITTED), (1, FINISHED)):
            row = rows[index * 2 + offset]
            row["kind"] = kind
            for name, value in (DEFAULTS | change).items():
                row[name] = np.void(value) if name == "instance" else value
    return rows if admitted else rows[1::2]


def admit(journal: Journal, sequence: int) -> File:
    return journal.admitted(sequence, 999.0, parties(1, 2, 3, 4, 0, 1))


def finish(journal: Journal, file: File, sequence: int) -> None:
    values = DEFAULTS | {"sequence": sequence}
    packed = parties(*(values[name] for name in PARTIES))
    before, behind = FIELDS[: FIELDS.index(PARTIES[0])], FIELDS[FIELDS.index(PARTIES[-1]) + 1 :]
    journal.finished(file, *(values[name] for name in before), packed, *(values[name] for name in behind))


def ended(rows: np.ndarray) -> list[Any]:
    """The finished requests among `rows`, with their fields as attributes."""
    return list(rows[rows["kind"] == FINISHED].view(np.recarray))
