"""Whether a process on record is still that process: pids are reused, and a reboot forgets them all."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

TOKEN_VARIABLE = "SLIPWAY_INSTANCE"  # noqa: S105


@lru_cache(maxsize=1)
def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def describe(pid: int) -> dict[str, Any]:
    """What to keep on record of a process of ours."""
    return {"pid": pid, "start_ticks": _start_ticks(pid), "boot_id": boot_id()}


def find(record: dict[str, Any] | None) -> psutil.Process | None:
    """The recorded process when it still runs, else None."""
    if not record or record["boot_id"] != boot_id() or _start_ticks(record["pid"]) != record["start_ticks"]:
        return None
    try:
        process = psutil.Process(record["pid"])
        return process if process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def _start_ticks(pid: int) -> int | None:
    """Clock ticks from the machine's start to the process's: unlike a time of day it moves with no clock."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The program's name stands in brackets and may hold anything, spaces and brackets included.
    return int(stat.rpartition(")")[2].split()[19])


def leftovers(token: str) -> list[psutil.Process]:
    """Processes that carry the instance's token in their environment: what an instance left behind."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(TOKEN_VARIABLE) == token:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found
