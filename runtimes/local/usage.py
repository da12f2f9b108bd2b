"""What a local instance uses: its processes' CPU seconds and memory, children included, and its GPUs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psutil

from runtimes.gpu_sample import GpuSample
from runtimes.local import identity


@dataclass(frozen=True)
class Usage:
    """Cumulative CPU in seconds since the program's start (`since`, seconds since the epoch), memory in bytes."""

    uid: str
    since: float
    cpu_user_s: float
    cpu_system_s: float
    memory_used: int
    gpus: tuple[GpuSample | None, ...]
    gpu_indexes: tuple[int, ...]


def read_usage(state: dict[str, Any], gpus: Iterable[GpuSample]) -> Usage | None:
    """The usage of the instance in `state`, None when it has just ended."""
    program = identity.find(state["program"])
    if program is None:
        return None
    user = system = 0.0
    memory = 0
    try:
        processes = [program, *program.children(recursive=True)]
        since = program.create_time()
    except psutil.Error:
        return None
    for process in processes:
        try:
            with process.oneshot():
                times = process.cpu_times()
                # With the time of children that ended; a living child is not in it, so nothing counts twice.
                user += times.user + times.children_user
                system += times.system + times.children_system
                memory += process.memory_info().rss
        except psutil.Error:
            continue
    by_index = {gpu.index: gpu for gpu in gpus}
    # One place for each of its devices, also when one of them can't be read now.
    samples = tuple(by_index.get(index) for index in state["gpus"])
    return Usage(state["uid"], since, user, system, memory, samples, tuple(state["gpus"]))
