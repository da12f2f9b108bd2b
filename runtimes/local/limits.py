"""CPU and memory limits of a local instance: a control group where the kernel lets us make one.

Where it doesn't, memory is still limited by the shim's own watch over the processes; CPU is not, and the
instance's state says so.
"""

import contextlib
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PERIOD_US = 100_000


class ControlGroup:
    """One group per instance, under version 2 or version 1 of the kernel's interface."""

    def __init__(self, name: str) -> None:
        self._unified = (CGROUP / "cgroup.controllers").exists()
        parents = [_own_group()] if self._unified else [CGROUP / "cpu", CGROUP / "memory"]
        self._folders = [parent / f"slipway-{name}" for parent in parents]

    def create(self, *, cpu: float, memory: int) -> bool:
        """Make the group with limits in cores and bytes; False where that isn't possible."""
        quota = max(1000, int(cpu * PERIOD_US))
        try:
            for folder in self._folders:
                folder.mkdir(exist_ok=True)
            if self._unified:
                (self._folders[0] / "cpu.max").write_text(f"{quota} {PERIOD_US}")
                (self._folders[0] / "memory.max").write_text(str(memory))
            else:
                (self._folders[0] / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (self._folders[0] / "cpu.cfs_quota_us").write_text(str(quota))
                (self._folders[1] / "memory.limit_in_bytes").write_text(str(memory))
        except OSError:
            self.remove()
            return False
        return True

    def enter(self) -> None:
        """Put the calling process in. Runs between fork and exec of the instance's program."""
        for folder in self._folders:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    def out_of_memory_kills(self) -> int:
        """How often the kernel ended a process of this group for its memory."""
        path = self._folders[-1] / ("memory.events" if self._unified else "memory.oom_control")
        with contextlib.suppress(OSError):
            for line in path.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0

    def remove(self) -> None:
        for folder in self._folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _own_group() -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return CGROUP / line[3:].strip("/")
    return CGROUP
