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
    return {"pid": pid, "create_time": psutil.Process(pid).create_time(), "boot_id": boot_id()}


def find(record: dict[str, Any] | None) -> psutil.Process | None:
    """The recorded process when it still runs, else None."""
    if not record or record["boot_id"] != boot_id():
        return None
    try:
        process = psutil.Process(record["pid"])
        # Clock steps move create_time by less than a second; a reused pid is younger by far more.
        same = abs(process.create_time() - record["create_time"]) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


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
