"""One minute of all deployments as columns. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monitoring.packing import pack, unpack
from monitoring.request_frame import CLASSES, RequestFrame, bounds

_HEAD = np.dtype([("rows", "<u4")])


@dataclass(frozen=True)
class FleetColumns:
    """n deployments, sorted by id: requests and those of them that failed, p95 in seconds, GPU utilization and memory in
    use of the instance that has most of it, as shares. NaN where nothing was measured."""

    deployment: np.ndarray
    requests: np.ndarray
    failed: np.ndarray
    p95: np.ndarray
    gpu: np.ndarray
    memory: np.ndarray

    @classmethod
    def of(cls, frame: RequestFrame, gpu: dict[int, float], memory: dict[int, float]) -> "FleetColumns":
        """From a frame whose instances are deployments, and the pressures by deployment."""
        ids = np.array(sorted({*frame.instance.tolist(), *gpu, *memory}), np.int64)
        place = np.searchsorted(ids, frame.instance)
        requests, failed, p95 = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64), np.full(len(ids), np.nan)
        requests[place] = frame.counts[:, : len(CLASSES)].sum(axis=1)
        failed[place] = frame.column("status_5xx")
        p95[place] = frame.quantiles("end_to_end", [0.95])[:, 0]
        return cls(ids, requests, failed, p95, _column(ids, gpu), _column(ids, memory))

    def pack(self) -> bytes:
        shares = [self.p95, self.gpu, self.memory]
        return pack([
            np.array([(len(self.deployment),)], _HEAD), self.deployment.astype("<u4"), self.requests.astype("<u4"),
            self.failed.astype("<u4"), *(column.astype("<f4") for column in shares),
        ])  # fmt: skip

    @classmethod
    def unpack(cls, data: bytes) -> "FleetColumns":
        head, reader = unpack(data, _HEAD)
        rows = int(head["rows"])
        numbers = [reader.take("<u4", rows).astype(np.int64) for _ in range(3)]
        return cls(*numbers, *(reader.take("<f4", rows).astype(np.float64) for _ in range(3)))

    def at(self, wanted: np.ndarray, name: str, missing: float) -> np.ndarray:
        """The column `name` for the deployments `wanted` (sorted ids)."""
        found = np.full(len(wanted), missing)
        if len(self.deployment):
            place = np.searchsorted(self.deployment, wanted).clip(max=len(self.deployment) - 1)
            known = self.deployment[place] == wanted
            found[known] = getattr(self, name)[place[known]]
        return found


def _column(ids: np.ndarray, values: dict[int, float]) -> np.ndarray:
    return np.array([values.get(int(pk), np.nan) for pk in ids], np.float64)


def sparkline(values: Sequence[float], width: int = 96, height: int = 22) -> list[str]:
    """The points of an SVG's lines, one for each stretch without a gap; nothing where nothing is known."""
    known = np.asarray(values, float)
    if np.isnan(known).all():
        return []
    highest = float(np.nanmax(known)) or 1.0
    across = (np.arange(len(known)) * width / max(1, len(known) - 1)).tolist()
    down = (height - 1 - known / highest * (height - 2)).tolist()
    lines: list[str] = []
    for first, last in bounds(np.isnan(known)):
        if np.isnan(known[first]):
            continue
        points = [f"{x:.1f},{y:.1f}" for x, y in zip(across[first:last], down[first:last], strict=True)]
        # A point alone is drawn as a short line: else it would not be seen.
        lines.append(" ".join(points if len(points) > 1 else [*points, f"{across[first] + 1:.1f},{down[first]:.1f}"]))
    return lines
