"""CPU time and memory of a process with its children, read from the kernel."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil


@dataclass
class Spent:
    """CPU and wall-clock seconds, filled in when the measured block ends."""

    cpu_s: float = 0.0
    wall_s: float = 0.0


@contextmanager
def spent_by(pid: int) -> Iterator[Spent]:
    """Measure what the process `pid` and its children spend while the block runs."""
    spent = Spent()
    before, started = _cpu_seconds(pid), time.monotonic()
    yield spent
    spent.cpu_s, spent.wall_s = _cpu_seconds(pid) - before, time.monotonic() - started


def memory_of(pid: int) -> int:
    """Private memory in bytes (unique set size), children included."""
    return sum(process.memory_full_info().uss for process in _tree(pid))


def _cpu_seconds(pid: int) -> float:
    times = [process.cpu_times() for process in _tree(pid)]
    return sum(item.user + item.system for item in times)


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]
