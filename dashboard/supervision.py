"""Runs supervisord as a child and talks to it."""

import ctypes
import signal
import subprocess
import time
import xmlrpc.client
from collections.abc import Callable
from typing import Any

import psutil
from supervisor.options import NotExecutable
from supervisor.xmlrpc import SupervisorTransport

from dashboard.home import Home
from dashboard.processes import supervisord_command

PR_SET_PDEATHSIG = 1


class Progress:
    """Whether a process that is waited for still gets somewhere: it works, and does not start anew again and again.

    On a busy machine a start may take minutes; a clock alone would give up what only needs its turn.
    """

    PATIENCE_S, STARTS = 60.0, 5
    # What a process that waits for nothing more uses by itself.
    _LEAST_WORK_S = 0.05

    def __init__(
        self, work_of: Callable[[], tuple[int, float] | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._work_of, self._clock = work_of, clock
        self._since = clock()
        self._pids: set[int] = set()
        self._work = 0.0

    def has_ended(self) -> bool:
        """Asked after each attempt that failed."""
        now, found = self._clock(), self._work_of()
        if found is not None:
            pid, work = found
            if pid not in self._pids:
                self._pids.add(pid)
                self._work = 0.0
            if work - self._work >= self._LEAST_WORK_S:
                self._work, self._since = work, now
        return now - self._since > self.PATIENCE_S or len(self._pids) > self.STARTS


class Supervision:
    """supervisord restarts whatever dies. When `up` itself is killed, the kernel ends supervisord in order."""

    def __init__(self, home: Home, configuration: str) -> None:
        self._home = home
        self._path = home.path / "supervisord.conf"
        self._configuration = configuration
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._await_earlier()
        self._path.touch(mode=0o600)
        self._path.write_text(self._configuration)
        self._daemon = subprocess.Popen(
            supervisord_command(self._path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
        )
        self._wait_for(self._answers, 15, "supervisord did not start; see .slipway/log/supervisord.log")

    def start_processes(self, names: list[str]) -> None:
        for name in names:
            self._call("startProcess", name, False)

    def stop_processes(self, names: list[str]) -> None:
        """Stop them side by side and wait until all have ended."""
        for name in names:
            try:
                self._call("stopProcess", name, False)
            except xmlrpc.client.Fault:
                continue
        self._wait_for(
            lambda: all(self.state(name) in ("STOPPED", "EXITED", "FATAL") for name in names),
            60,
            "some processes did not stop",
        )

    def state(self, name: str) -> str:
        return self._call("getProcessInfo", name)["statename"]

    def work_of(self, name: str) -> tuple[int, float] | None:
        """(process id, seconds of CPU that it and its children have used); None where it isn't ours, or doesn't run now."""
        try:
            pid = self._call("getProcessInfo", name)["pid"]
            leader = psutil.Process(pid) if pid else None
            if leader is None:
                return None
            times = [process.cpu_times() for process in [leader, *leader.children(recursive=True)]]
        except (xmlrpc.client.Fault, psutil.Error, OSError):
            return None
        return pid, sum(item.user + item.system for item in times)

    def is_alive(self) -> bool:
        return self._daemon is not None and self._daemon.poll() is None

    def shut_down(self) -> None:
        if self._daemon is None:
            return
        self._daemon.terminate()
        try:
            self._daemon.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._daemon.kill()

    def _await_earlier(self) -> None:
        """A supervisord whose `up` was killed is ending: its processes must be gone before ours start."""
        pid_file = self._home.path / "supervisord.pid"
        if not pid_file.exists():
            return
        try:
            earlier = psutil.Process(int(pid_file.read_text()))
            if "supervisor.supervisord" in " ".join(earlier.cmdline()):
                earlier.terminate()
                earlier.wait(timeout=60)
        except (psutil.Error, ValueError):
            return

    def _answers(self) -> bool:
        try:
            return self._call("getState")["statename"] == "RUNNING"
        except (OSError, xmlrpc.client.Error, NotExecutable):
            return False

    def _call(self, method: str, *arguments: Any) -> Any:
        # A connection per call: the transport keeps a broken one for ever otherwise.
        transport = SupervisorTransport(None, None, f"unix://{self._home.supervisor_socket}")
        server = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
        try:
            return getattr(server.supervisor, method)(*arguments)
        finally:
            transport.close()

    @staticmethod
    def _wait_for(condition: Any, seconds: float, message: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(message)
            time.sleep(0.1)
