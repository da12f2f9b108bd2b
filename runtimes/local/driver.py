"""The local driver: instances are processes on this machine, each under a shim of its own.

It keeps no state but the instances' folders, so that any process may use it and a killed one loses nothing.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from runtimes import observation
from runtimes.cause import Cause
from runtimes.driver import Capacity, Driver, LogLine, UnschedulableError
from runtimes.launch_plan import LaunchPlan
from runtimes.local import identity
from runtimes.local.gpus import read_gpus
from runtimes.local.instance_folder import InstanceFolder
from runtimes.observation import InstanceObservation, Observation, Step

PROJECT_ROOT = Path(__file__).resolve().parents[2]
# A shim says who it is within this time, or its start was lost with the process that started it.
SHIM_START_S = 15.0
# What an instance has left behind is read by the watcher within this time, or never.
KEEP_ENDED_S = 3600.0


class LocalDriver(Driver):
    def __init__(self, root: Path) -> None:
        self._root = root

    def observe(self) -> Observation:
        instances: dict[str, list[InstanceObservation]] = {}
        for folder in self.folders():
            version_key = folder.path.parent.name
            state = folder.read_state()
            if state is None:
                continue
            if (
                state["phase"] in (observation.GONE, observation.FAILED)
                and time.time() - state["ended_at"] > KEEP_ENDED_S
            ):
                shutil.rmtree(folder.path, ignore_errors=True)
                continue
            instances.setdefault(version_key, []).append(_observed(self._checked(folder, state)))
        return Observation(time.time(), instances)

    def run(
        self,
        version_key: str,
        generation: int,
        plan: LaunchPlan,
        replicas: int,
        *,
        name: str,
        description: str = "",
        known_as: str = "",
    ) -> None:
        living = [
            state
            for state in self._states_of(version_key)
            if state["generation"] == generation and state["phase"] not in (observation.GONE, observation.FAILED)
        ]
        for _ in range(replicas - len(living)):
            self._start(version_key, generation, plan, name=f"{name}-{secrets.token_hex(3)}")

    def end(self, version_key: str, *, up_to: int | None = None) -> None:
        for state in self._states_of(version_key):
            if up_to is None or state["generation"] <= up_to:
                self.end_instance(version_key, state["uid"])

    def remove_stranger(self, stranger: str) -> None:
        self.end(stranger)

    def _start(self, version_key: str, generation: int, plan: LaunchPlan, *, name: str) -> str:
        """Start one instance and return its uid."""
        _check_memory(plan.memory)
        gpus = self._choose_gpus(plan.gpu)
        uid = uuid.uuid4().hex
        folder = InstanceFolder(self._root / version_key / uid)
        folder.create()
        state = {
            "uid": uid, "name": name, "generation": generation, "phase": observation.SCHEDULED, "scheduled_at": time.time(),
            "boot_id": identity.boot_id(), "gpus": gpus, "restarts": 0, "port": None, "cause": None, "exit_code": None,
            "started_at": None, "listening_at": None, "ready_at": None, "ended_at": None, "shim": None, "program": None,
        }  # fmt: skip
        folder.write_state(state)
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in ("PATH", "HOME", "LANG", "TZ", "LD_LIBRARY_PATH")
        }
        shim = subprocess.Popen(
            [sys.executable, "-m", "runtimes.local.shim", str(folder.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=(folder.path / "shim.log").open("ab"),
            cwd=PROJECT_ROOT,
            env=environment | {"PYTHONPATH": str(PROJECT_ROOT)},
            start_new_session=True,
        )
        assert shim.stdin is not None  # noqa: S101
        shim.stdin.write(json.dumps(plan.to_json()).encode())
        shim.stdin.close()
        return uid

    def end_instance(self, version_key: str, uid: str) -> None:
        folder = InstanceFolder(self._root / version_key / uid)
        state = folder.read_state()
        if state is None or state["phase"] in (observation.GONE, observation.FAILED):
            return
        shim = identity.find(state["shim"])
        if shim is not None:
            shim.send_signal(signal.SIGTERM)
        elif state["shim"] is not None or time.time() - state["scheduled_at"] > SHIM_START_S:
            self._bury(folder, state)

    def capacity(self) -> list[Capacity]:
        memory = psutil.virtual_memory()
        gpus, reason = read_gpus()
        return [
            Capacity(
                os.uname().nodename, float(psutil.cpu_count() or 1), memory.total, memory.available, len(gpus), reason
            )
        ]

    def read_log(self, version_key: str, uid: str, *, after: int) -> Iterator[LogLine]:
        return InstanceFolder(self._root / version_key / uid).read_log(after)

    def last_words(self, version_key: str, item: InstanceObservation) -> list[str]:
        return InstanceFolder(self._root / version_key / item.uid).read_last_words(item.ends)

    def discard(self, version_key: str, uid: str) -> None:
        shutil.rmtree(self._root / version_key / uid, ignore_errors=True)

    def folders(self) -> list[InstanceFolder]:
        return [InstanceFolder(path.parent) for path in sorted(self._root.glob("*/*/state.json"))]

    def end_all(self, *, timeout_s: float) -> None:
        """End every instance and wait for it: what Ctrl-C does."""
        deadline = time.monotonic() + timeout_s
        alive = True
        while alive and time.monotonic() < deadline:
            alive = False
            for folder in self.folders():
                state = folder.read_state()
                if state and state["phase"] not in (observation.GONE, observation.FAILED):
                    alive = True
                    self.end_instance(folder.path.parent.name, folder.path.name)
            if alive:
                time.sleep(0.2)

    def programs(self) -> list[tuple[str, dict[str, Any]]]:
        """(version key, state) of each instance whose program runs: what the metrics collector samples."""
        running = []
        for folder in self.folders():
            state = folder.read_state()
            if state and state["program"] and identity.find(state["program"]):
                running.append((folder.path.parent.name, state))
        return running

    def _states_of(self, version_key: str) -> list[dict[str, Any]]:
        folders = [InstanceFolder(path.parent) for path in sorted((self._root / version_key).glob("*/state.json"))]
        return [self._checked(folder, state) for folder in folders if (state := folder.read_state())]

    def _living_states(self) -> list[dict[str, Any]]:
        """Of all local clusters: they share this machine's devices, and an instance that waits to restart keeps its own."""
        states = [InstanceFolder(path.parent).read_state() for path in self._root.parent.glob("*/*/*/state.json")]
        return [state for state in states if state and state["phase"] not in (observation.GONE, observation.FAILED)]

    def _checked(self, folder: InstanceFolder, state: dict[str, Any]) -> dict[str, Any]:
        """The state, corrected where its shim can't speak any more."""
        if state["phase"] in (observation.GONE, observation.FAILED):
            return state
        if (
            state["shim"] is None
            and time.time() - state["scheduled_at"] < SHIM_START_S
            and state["boot_id"] == identity.boot_id()
        ):
            return state
        if identity.find(state["shim"]) is not None:
            return state
        # Read again: the shim may have written its last words and ended between the two looks.
        fresh = folder.read_state() or state
        return fresh if fresh["phase"] in (observation.GONE, observation.FAILED) else self._bury(folder, fresh)

    def _bury(self, folder: InstanceFolder, state: dict[str, Any]) -> dict[str, Any]:
        for process in identity.leftovers(state["uid"]):
            process.kill()
        said = (
            (folder.path / "shim.log").read_text(errors="replace").splitlines()
            if (folder.path / "shim.log").exists()
            else []
        )
        cause = Cause(
            "instance_lost",
            "The process that kept this instance was killed, or the machine restarted.",
            "Nothing to do: a new instance takes its place.",
            tuple(said[-6:]),
            retryable=True,
        )
        state |= {
            "phase": observation.GONE,
            "cause": cause.to_json(),
            "ended_at": time.time(),
            "ready_at": None,
            "program": None,
        }
        folder.write_state(state)
        return state

    def _choose_gpus(self, count: int) -> list[int]:
        if not count:
            return []
        gpus, reason = read_gpus()
        taken = {index for state in self._living_states() for index in state["gpus"]}
        free = [gpu.index for gpu in gpus if gpu.index not in taken]
        if len(free) < count:
            have = f"{len(gpus)} GPUs, {len(free)} of them free" if gpus else f"no GPU: {reason}"
            raise UnschedulableError(f"The version asks for {count} GPUs per instance; this machine has {have}.")
        return free[:count]


def _check_memory(wanted: int) -> None:
    """Cores that there aren't make an instance slow; memory that there isn't would be promised in vain."""
    there = psutil.virtual_memory().total
    if wanted > there:
        raise UnschedulableError(
            f"The version asks for {wanted / 2**30:,.0f} GiB of memory per instance; this machine has {there / 2**30:,.1f} GiB."
        )


def _observed(state: dict[str, Any]) -> InstanceObservation:
    port = state["port"]
    return InstanceObservation(
        uid=state["uid"],
        name=state["name"],
        phase=state["phase"],
        generation=state["generation"],
        address=f"127.0.0.1:{port}" if port else None,
        restarts=state["restarts"],
        started_at=state["scheduled_at"],
        ready_at=state["ready_at"],
        ended_at=state["ended_at"],
        exit_code=state["exit_code"],
        # A shim of before an upgrade counts none.
        ends=state.get("ends", 0),
        last_end_at=state.get("last_end_at"),
        crashes=state.get("crashes", 0),
        steps=(
            Step("scheduled", state["scheduled_at"]),
            Step("process_started", state["started_at"]),
            Step("listening", state["listening_at"]),
            Step("ready", state["ready_at"]),
        ),
        cause=Cause.from_json(state["cause"]),
    )
