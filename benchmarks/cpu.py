"""CPU time and memory of a process with its children, read from the kernel."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil


@dataclass
class Spent:
    """CPU and wall-clock seconds, filled in when the measured block ends."""

    user_s: float = 0.0
    system_s: float = 0.0
    wall_s: float = 0.0

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s


@contextmanager
def spent_by(pid: int) -> Iterator[Spent]:
    """Measure what the process `pid` and its children spend while the block runs."""
    spent = Spent()
    (user, system), started = _cpu_seconds(pid), time.monotonic()
    yield spent
    spent.wall_s = time.monotonic() - started
    spent.user_s, spent.system_s = (now - before for now, before in zip(_cpu_seconds(pid), (user, system), strict=True))


def memory_of(pid: int) -> int:
    """Private memory in bytes (unique set size), children included."""
    return sum(process.memory_full_info().uss for process in _tree(pid))


def _cpu_seconds(pid: int) -> tuple[float, float]:
    """In user space, and in the kernel."""
    times = [process.cpu_times() for process in _tree(pid)]
    return sum(item.user for item in times), sum(item.system for item in times)


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]
