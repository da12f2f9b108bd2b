"""Charts of what instances and their engines use. Pure: frames in, charts out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from monitoring import advice
from monitoring.charts import PALETTE, STEP, Chart, Curve
from monitoring.request_frame import bounds
from monitoring.system_frame import FIGURES, NO_DEVICE, SystemFrame
from monitoring.window import Window

MIB = 1 << 20
# More curves than this are no help; those that use most are drawn.
MAX_INSTANCES = 8
SLOWEST_S = 20
_NO_SAMPLES = "No samples in this time. The first ones come within twenty seconds of an instance's start."


@dataclass(frozen=True)
class Subjects:
    """What the frames' numbers stand for. Cores and bytes are what one instance may use."""

    names: Mapping[int, str]
    cores: float
    memory: int
    asks_for_gpu: bool
    gpu_reason: str = ""
    engine_reason: str = ""
    usage_reason: str = ""
    reserves_gpu_memory: bool = False
    averaged: bool = False


def charts(frame: SystemFrame, subjects: Subjects, window: Window) -> list[Chart]:
    """All charts of the window's samples."""
    points = frame.by_width(window.width)
    # Of a quarter of an hour that is shown, an instance may have lived for a minute.
    shown_s = int(points.at.max() - points.at.min()) + window.width if len(points) else 0
    return [
        _replicas(points, window),
        _cpu(points, subjects, window, shown_s),
        _memory(points, subjects, window, shown_s),
        _gpu(points, subjects, window, shown_s),
        _vram(points, subjects, window, shown_s),
        _engine(points, subjects, window),
        _cache(points, subjects, window),
    ]


def _replicas(points: SystemFrame, window: Window) -> Chart:
    active, starting = points.of("replicas_active"), points.of("replicas_starting")
    if not len(active):
        return Chart("replicas", "replicas", absent="No instance was seen in this time.")
    # Two versions at once, as in an update without downtime, are added up.
    sums = {name: _summed(found) for name, found in (("active", active), ("starting", starting))}
    colours = {"active": PALETTE[2], "starting": PALETTE[1]}
    drawn = [
        Curve(name, name, window.drawn(at), values, colours[name], STEP, step=_step(window))
        for name, (at, values) in sums.items()
    ]
    last = sums["active"][1][-1], sums["starting"][1][-1] if len(starting) else 0
    return Chart("replicas", "replicas", tuple(drawn), facts=f"last seen: {last[0]:g} active, {last[1]:g} starting")


def _cpu(points: SystemFrame, subjects: Subjects, window: Window, shown_s: int) -> Chart:
    parts = [
        ("user", points.of("cpu_user"), False),
        ("system", points.of("cpu_system"), True),
        ("total", points.of("cpu_total"), False),
    ]
    parts = [part for part in parts if len(part[1])]
    if not parts:
        return Chart("cpu", "cores", absent=_no_usage(subjects))
    busiest = _busiest(parts[0][1])
    drawn: list[Curve] = []
    for name, found, dashed in parts:
        drawn += _curves(found, subjects, window, busiest, name, dashed=dashed)
    used = _per_instance(SystemFrame.concatenate([found for _, found, _ in parts]))
    average, peak = float(used.mean()), float(used.max())
    cores = subjects.cores
    facts = (
        f"average {average:.3g}, peak {peak:.3g} of {cores:g} {'core' if cores == 1 else 'cores'} each" if cores else ""
    )
    if parts[0][0] == "total":
        facts += "; the cluster's metrics API tells no split into user and system"
    return Chart(
        "cpu", "cores", tuple(drawn), facts=facts + _left_out(parts[0][1], subjects), advice=advice.cpu(average, peak, cores, shown_s),
        limit=cores or None, limit_name=f"{cores:g} {'core' if cores == 1 else 'cores'}",
    )  # fmt: skip


def _no_usage(subjects: Subjects) -> str:
    if not subjects.usage_reason:
        return _NO_SAMPLES
    return f"No figures from the cluster: {subjects.usage_reason}"


def _memory(points: SystemFrame, subjects: Subjects, window: Window, shown_s: int) -> Chart:
    found = points.of("memory_used")
    if not len(found):
        return Chart("memory", "MiB", absent=_no_usage(subjects))
    drawn = _curves(found, subjects, window, _busiest(found), "")
    total, peak = subjects.memory, float(found.highest.max())
    facts = ""
    if total:
        last = float(found.average[found.at == found.at.max()].max())
        facts = f"now {last / MIB:,.0f}, peak {peak / MIB:,.0f} of {total / MIB:,.0f} MiB ({peak / total * 100:.0f} %)"
    return Chart(
        "memory", "MiB", tuple(drawn), facts=facts + _left_out(found, subjects), advice=advice.memory(peak, total, shown_s),
        scale=1 / MIB, limit=total or None, limit_name=f"{total / MIB:,.0f} MiB allowed",
    )  # fmt: skip


def _gpu(points: SystemFrame, subjects: Subjects, window: Window, shown_s: int) -> Chart:
    found = points.of("gpu_utilization")
    if not len(found):
        return Chart("gpu", "%", absent=_no_gpu(subjects))
    drawn = _curves(found, subjects, window, _busiest(found), "")
    average = float(found.total.sum() / found.samples.sum())
    facts = f"average {average * 100:.0f} %, peak {found.highest.max() * 100:.0f} %"
    return Chart("gpu", "%", tuple(drawn), facts=facts, advice=advice.gpu(average, shown_s), scale=100, limit=1.0, limit_name="100 %")  # fmt: skip


def _vram(points: SystemFrame, subjects: Subjects, window: Window, shown_s: int) -> Chart:
    found, totals = points.of("gpu_memory_used"), points.of("gpu_memory_total")
    if not len(found):
        return Chart("vram", "MiB", absent=_no_gpu(subjects))
    total, peak = float(totals.highest.max()) if len(totals) else 0.0, float(found.highest.max())
    facts = f"peak {peak / MIB:,.0f} of {total / MIB:,.0f} MiB on each device"
    words = advice.vram(peak, total, shown_s, reserves=subjects.reserves_gpu_memory)
    drawn = _curves(found, subjects, window, _busiest(found), "")
    return Chart("vram", "MiB", tuple(drawn), facts=facts, advice=words, scale=1 / MIB, limit=total or None, limit_name=f"{total / MIB:,.0f} MiB")  # fmt: skip


def _no_gpu(subjects: Subjects) -> str:
    if not subjects.asks_for_gpu:
        return "Not available: this version asks for no GPU."
    return f"Not available: {subjects.gpu_reason or 'no samples in this time'}."


def _engine(points: SystemFrame, subjects: Subjects, window: Window) -> Chart:
    drawn = []
    averages = []
    for name, label, colour in (
        ("requests_running", "running", PALETTE[0]),
        ("requests_waiting", "waiting", PALETTE[1]),
    ):
        at, values = _summed(points.of(name))
        if len(at):
            drawn.append(Curve(label, label, window.drawn(at), values, colour, step=_step(window)))
            averages.append((label, float(values.mean())))
    if not drawn:
        return Chart("engine", "requests", absent=_no_engine(subjects))
    found = dict(averages)
    return Chart(
        "engine", "requests", tuple(drawn), facts="on average " + ", ".join(f"{value:.3g} {label}" for label, value in averages),
        advice=advice.waiting(found.get("waiting", 0.0), found.get("running", 0.0)),
    )  # fmt: skip


def _cache(points: SystemFrame, subjects: Subjects, window: Window) -> Chart:
    use, hits, asked = points.of("kv_cache_use"), points.of("prefix_hits"), points.of("prefix_queries")
    drawn = _curves(use, subjects, window, _busiest(use), "in use") if len(use) else []
    words = []
    average = float(use.total.sum() / use.samples.sum()) if len(use) else 0.0
    if len(use):
        words.append(f"{average * 100:.0f} % in use on average")
    asked_at, asked_sum = _summed(asked, totals=True)
    hit_sum = _summed(hits, totals=True)[1]
    if len(asked_at) and asked_sum.sum():
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(asked_sum > 0, hit_sum / asked_sum, np.nan)
        drawn.append(Curve("prefix", "prefix hits", window.drawn(asked_at), share, PALETTE[5], dashed=True))
        words.append(
            f"{hit_sum.sum() / asked_sum.sum() * 100:.0f} % of the prompts' tokens were found in the prefix cache"
        )
    if not drawn:
        reason = _no_engine(subjects) if subjects.engine_reason else "This engine tells nothing of its KV cache."
        return Chart("cache", "%", absent=reason)
    return Chart("cache", "%", tuple(drawn), facts="; ".join(words), advice=advice.kv_cache(average), scale=100)


def _no_engine(subjects: Subjects) -> str:
    return f"Not available: {subjects.engine_reason or 'no samples in this time'}."


def _step(window: Window) -> int:
    """In milliseconds. A round comes a little late now and then, and the kubelet looks each 10 to 15 s only."""
    return max(window.width, SLOWEST_S) * 1000


def _curves(
    found: SystemFrame, subjects: Subjects, window: Window, busiest: list[int], label: str, *, dashed: bool = False
) -> list[Curve]:
    """One curve for each instance and device, or their average. `label` tells several of one instance apart."""
    if subjects.averaged:
        mean = found.merged()
        key = f"average-{label}" if label else "average"
        return [
            Curve(
                key,
                f"average {label}".strip(),
                window.drawn(mean.at),
                mean.average,
                PALETTE[0],
                dashed=dashed,
                step=_step(window),
            )
        ]
    drawn, averages = [], found.average
    for first, last in bounds(found.instance, found.device):
        instance, device = int(found.instance[first]), int(found.device[first])
        if instance in busiest:
            part = slice(first, last)
            words = [short(subjects.names.get(instance, str(instance)))]
            words += [f"GPU {device}"] if device != NO_DEVICE else []
            words += [label] if label else []
            colour = PALETTE[(busiest.index(instance) + (device if device != NO_DEVICE else 0)) % len(PALETTE)]
            key = f"{instance}-{device}-{label}"
            drawn.append(
                Curve(
                    key,
                    " ".join(words),
                    window.drawn(found.at[part]),
                    averages[part],
                    colour,
                    dashed=dashed,
                    step=_step(window),
                )
            )
    return drawn


def _busiest(found: SystemFrame) -> list[int]:
    """The instances that used most, in the order of their numbers."""
    numbers, place = np.unique(found.instance, return_inverse=True)
    order = np.argsort(np.bincount(place, weights=found.total))[::-1][:MAX_INSTANCES]
    return sorted(int(numbers[index]) for index in order)


def _left_out(found: SystemFrame, subjects: Subjects) -> str:
    count = len(np.unique(found.instance))
    if subjects.averaged or count <= MAX_INSTANCES:
        return ""
    return f"; the {MAX_INSTANCES} of {count} instances that used most are drawn"


def _summed(found: SystemFrame, *, totals: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Over instances and versions added up: times, and the sum of their averages (or of their totals)."""
    times, place = np.unique(found.at, return_inverse=True)
    return times, np.bincount(place, weights=found.total if totals else found.average, minlength=len(times))


def _per_instance(both: SystemFrame) -> np.ndarray:
    """User and system together, per instance and moment."""
    _, owner = np.unique(both.instance, return_inverse=True)
    first = both.at.min()
    _, place = np.unique(owner * (both.at.max() - first + 1) + both.at - first, return_inverse=True)
    return np.bincount(place, weights=both.average)


def csv_rows(frame: SystemFrame, window: Window, *, by_bars: bool) -> tuple[list[str], list[list[Any]]]:
    """Each figure's average over the instances and its highest, one row per point; empty where nothing was measured."""
    points = frame.regroup(window.row_starts(frame.at, by_bars=by_bars))
    present = [name for name, number in FIGURES.items() if (points.figure == number).any()]
    times = np.unique(points.at)
    head: list[str] = []
    columns: list[np.ndarray] = []
    for name in present:
        found = points.of(name).merged()
        for label, values in (("avg", found.average), ("max", found.highest)):
            column = np.full(len(times), np.nan)
            column[np.searchsorted(times, found.at)] = values
            head.append(f"{name}_{label}")
            columns.append(column)
    rows = [
        [int(at), *("" if np.isnan(column[index]) else round(float(column[index]), 6) for column in columns)]
        for index, at in enumerate(times)
    ]
    return head, rows


def short(name: str) -> str:
    """`chat-v1-a1b2c3` as `v1-a1b2c3`: the deployment's name is in the page's title already."""
    return "-".join(name.rsplit("-", 2)[-2:])
