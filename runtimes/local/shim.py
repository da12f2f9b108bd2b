"""The parent of one local instance: `python -m runtimes.local.shim FOLDER` with the launch plan on standard input.

It runs in a session of its own, so that no end of a Slipway process ends the instance. It starts the program,
stamps and stores its output, asks for its health, restarts it with back-off, limits its memory, and writes what
it sees into state.json. The plan comes over standard input because it holds secrets, which never touch the disk.
When the shim itself is killed, the kernel kills the program with it: an instance without a shim can't exist.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from common.backoff import restart_delay
from runtimes import observation
from runtimes.cause import Cause
from runtimes.driver import LAST_LINES
from runtimes.engines.registry import engine
from runtimes.launch_plan import PORT_PLACEHOLDER, LaunchPlan
from runtimes.local import identity
from runtimes.local.instance_folder import InstanceFolder, LogWriter
from runtimes.local.limits import ControlGroup
from runtimes.local.probe import free_port, port_is_free, probe

TICK_S = 0.2
# Once ready there is nothing to hurry for but the memory's limit.
READY_TICK_S = 0.5
READY_PROBE_INTERVAL_S = 2.0
PROBE_FAILURES_BEFORE_UNREADY = 3
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


class StopSignal:
    """An event that a signal's handler may set. threading.Event may not: a signal that comes while the same thread is about to
    leave `wait` would find its lock taken, and the shim would hang for ever. Nor may queues be waited for: in Python 3.11 one
    that is held up for longer than its timeout, just before it waits, waits without any."""

    def __init__(self) -> None:
        self._is_set = False
        self._sleeper, self._waker = socket.socketpair()
        self._waker.setblocking(False)

    def set(self) -> None:
        self._is_set = True
        # Full of earlier ones, or closed: then nobody sleeps.
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def is_set(self) -> bool:
        return self._is_set

    def wake_on_signals(self) -> None:
        """A signal that comes in the very moment before `wait` begins wakes it, too, and not only when its time is over."""
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

    def wait(self, timeout: float) -> bool:
        if not self._is_set:
            select.select([self._sleeper], [], [], timeout)
        return self._is_set


class Shim:
    def __init__(self, folder: InstanceFolder, plan: LaunchPlan) -> None:
        self._folder, self._plan = folder, plan
        self._state: dict[str, Any] = folder.read_state() or {}
        self._log = LogWriter(folder)
        self._group = ControlGroup(self._state["uid"])
        self._program: subprocess.Popen[bytes] | None = None
        self._crashes = 0
        self._stop = StopSignal()
        self._killed_for_memory = self._killed_for_silence = self._has_been_ready = False

    def run(self) -> None:
        if self._state.get("phase") != observation.SCHEDULED:
            # It took so long to start that it was given up; another instance may be in its place.
            return
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        self._stop.wake_on_signals()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        limited = self._group.create(cpu=self._plan.cpu, memory=self._plan.memory)
        note = "" if limited else "CPU is not limited: this machine lets Slipway make no control group."
        self._update(shim=identity.describe(os.getpid()), limits_note=note)
        self._limited = limited
        while not self._stop.is_set():
            cause = self._run_once()
            if self._stop.is_set():
                break
            self._crashes += 1
            words = _of_this_run(self._folder.log_tail(LAST_LINES))
            self._folder.write_last_words(self._state.get("ends", 0) + 1, words)
            ended = {"ends": self._state.get("ends", 0) + 1, "crashes": self._crashes, "last_end_at": time.time()}
            self._log.say(f"{cause.message} {f'Restart {self._crashes} follows.' if cause.retryable else 'Given up.'}")
            if not cause.retryable:
                self._update(**ended)
                self._finish(observation.FAILED, cause)
                return
            # It goes on trying, less and less often: whether that is enough is not for the shim to say.
            self._update(
                phase=observation.BACKING_OFF,
                cause=cause.to_json(),
                ready_at=None,
                restarts=self._state["restarts"] + 1,
                **ended,
            )
            self._stop.wait(restart_delay(self._crashes))
        self._finish(observation.GONE, None)

    def _run_once(self) -> Cause:
        """Start the program and stay with it until it ends; why it ended."""
        port = self._plan.fixed_port or free_port()
        if self._plan.fixed_port and not port_is_free(port):
            return Cause(
                "port_in_use",
                f"Port {port} is in use{_holder(port)}.",
                "Stop that program, or start a version without a fixed port.",
                field="engine_port",
                retryable=True,
            )
        try:
            self._program = self._start(port)
        except (OSError, subprocess.SubprocessError) as error:
            return Cause(
                "command_not_found",
                f"The program “{self._plan.command[0]}” can't be started: {getattr(error, 'strerror', None) or error}.",
                "Correct the command in a new version.",
                field="engine_command",
            )
        self._has_been_ready = False
        started = time.time()
        reader = threading.Thread(target=self._copy_output, args=(self._program,), daemon=True)
        reader.start()
        # The earlier cause stays on show until the program is ready: a crash loop must not look new at each turn.
        self._update(
            phase=observation.STARTING,
            port=port,
            program=identity.describe(self._program.pid),
            started_at=started,
            listening_at=None,
        )
        kills_before = self._group.out_of_memory_kills()
        self._watch(self._program, port)
        code = self._program.wait()
        self._end_leftovers()
        reader.join(timeout=2)
        self._log.finish_line()
        oom = self._killed_for_memory or self._group.out_of_memory_kills() > kills_before
        self._killed_for_memory = False
        self._update(exit_code=code, program=None)
        if self._killed_for_silence:
            self._killed_for_silence = False
            return _silence_cause(self._state.get("probe") or "", self._plan.hang_after_s)
        return self._cause_of_end(code, out_of_memory=oom)

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        def fill(text: str) -> str:
            return text.replace(PORT_PLACEHOLDER, str(port))

        inherited = {
            name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ", "LD_LIBRARY_PATH") if name in os.environ
        }
        own = {"PORT": str(port), identity.TOKEN_VARIABLE: self._state["uid"]}
        if self._state["gpus"] or not self._plan.gpu:
            own["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self._state["gpus"]))
        given = self._plan.environment | self._plan.secret_environment
        environment = inherited | {name: fill(value) for name, value in given.items()} | own

        def in_child() -> None:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if self._limited:
                self._group.enter()

        return subprocess.Popen(
            [fill(word) for word in self._plan.command],
            env=environment,
            cwd=self._plan.working_directory or self._folder.work_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=in_child,
        )

    def _copy_output(self, program: subprocess.Popen[bytes]) -> None:
        assert program.stdout is not None  # noqa: S101
        while data := os.read(program.stdout.fileno(), 65536):
            self._log.feed(data)

    def _watch(self, program: subprocess.Popen[bytes], port: int) -> None:
        """Probe and limit the program until it ends; end it when the shim is told to stop."""
        failures, next_probe = 0, 0.0
        silent_since: float | None = None
        while program.poll() is None:
            if self._stop.wait(READY_TICK_S if self._state["phase"] == observation.READY else TICK_S):
                self._end(program)
                return
            self._limit_memory(program)
            if not self._folder.state_path.exists():
                # Nobody can find this instance any more.
                self._stop.set()
                _signal_group(program.pid, signal.SIGKILL)
                return
            now = time.monotonic()
            if now < next_probe:
                continue
            listening, ready, answer = probe(port, self._plan.health_path)
            failures = 0 if ready else failures + 1
            next_probe = now + (
                READY_PROBE_INTERVAL_S if self._state["phase"] == observation.READY and ready else TICK_S
            )
            self._note_probe(listening, ready, answer, failures)
            if ready or not self._has_been_ready or self._answers_otherwise(port):
                silent_since = None
            elif silent_since is None:
                silent_since = now
            elif now - silent_since >= self._plan.hang_after_s:
                self._log.say(f"no answer for {self._plan.hang_after_s:g} s ({answer}): killed, and started again")
                self._killed_for_silence = True
                _signal_group(program.pid, signal.SIGKILL)
                return

    def _answers_otherwise(self, port: int) -> bool:
        """Whether it lives, though it is not ready: only where that is asked for by a path of its own."""
        path = self._plan.liveness_path
        return bool(path) and path != self._plan.health_path and probe(port, path)[1]

    def _note_probe(self, listening: bool, ready: bool, answer: str, failures: int) -> None:
        """Move the phase as the probe says."""
        is_ready = self._state["phase"] == observation.READY
        if ready and not is_ready:
            self._has_been_ready = True
            self._update(
                phase=observation.READY,
                ready_at=time.time(),
                cause=None,
                probe=answer,
                listening_at=self._state["listening_at"] or time.time(),
            )
            self._log.say(f"ready on port {self._state['port']}")
        elif is_ready and failures >= PROBE_FAILURES_BEFORE_UNREADY:
            self._log.say(f"not ready any more: {answer}")
            self._update(phase=observation.LOADING, ready_at=None, probe=answer, cause=_probe_cause(answer).to_json())
        elif is_ready and self._crashes and time.time() - self._state["ready_at"] >= observation.SERVING_CLEARS_S:
            self._crashes = 0
            self._update(crashes=0)
        elif not is_ready and listening and self._state["phase"] == observation.STARTING:
            self._update(phase=observation.LOADING, listening_at=time.time(), probe=answer)
        elif not is_ready and answer != self._state.get("probe"):
            self._update(probe=answer)

    def _limit_memory(self, program: subprocess.Popen[bytes]) -> None:
        try:
            leader = psutil.Process(program.pid)
            used = sum(process.memory_info().rss for process in [leader, *leader.children(recursive=True)])
        except psutil.Error:
            return
        if used > self._plan.memory:
            self._log.say(f"{used / 2**20:,.0f} MiB used, {self._plan.memory / 2**20:,.0f} MiB allowed: ended")
            self._killed_for_memory = True
            _signal_group(program.pid, signal.SIGKILL)

    def _end(self, program: subprocess.Popen[bytes]) -> None:
        self._log.say("stopping")
        self._update(phase=observation.ENDING, ready_at=None)
        _signal_group(program.pid, signal.SIGTERM)
        try:
            program.wait(timeout=self._plan.drain_s)
        except subprocess.TimeoutExpired:
            self._log.say(f"not ended within {self._plan.drain_s:g} s: killed")
            _signal_group(program.pid, signal.SIGKILL)

    def _end_leftovers(self) -> None:
        """End what the program started and left behind; as subreaper the shim is now their parent."""
        children = psutil.Process().children(recursive=True)
        for child in children:
            _signal(child, signal.SIGKILL)
        psutil.wait_procs(children, timeout=2)

    def _cause_of_end(self, code: int, *, out_of_memory: bool) -> Cause:
        tail = _of_this_run(self._folder.log_tail(LAST_LINES))
        if out_of_memory:
            allowed = self._plan.memory / 2**20
            return Cause(
                "out_of_memory",
                f"The program used more than the {allowed:,.0f} MiB of memory it is allowed.",
                "Start a version with more memory.",
                tail[-6:],
                field="memory",
                value=str(self._plan.memory * 2),
                retryable=True,
            )
        told = engine(self._plan.engine).diagnose(tail, code)
        if told:
            return told
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        remedy = "Read its last lines: they say why. Mend it in a new version, or restart this one."
        return Cause("crashed", f"The program {how}.", remedy, tail[-8:], retryable=True)

    def _finish(self, phase: str, cause: Cause | None) -> None:
        self._group.remove()
        self._update(
            phase=phase, cause=cause.to_json() if cause else None, ready_at=None, ended_at=time.time(), program=None
        )

    def _update(self, **changes: Any) -> None:
        self._state |= changes
        if self._folder.path.is_dir():
            self._folder.write_state(self._state)


def _of_this_run(lines: list[str]) -> tuple[str, ...]:
    """Without Slipway's own lines and what an earlier run wrote: evidence that stands there twice only hides the rest."""
    starts = [index + 1 for index, line in enumerate(lines) if line.startswith("[slipway]") and "Restart" in line]
    return tuple(line for line in lines[max(starts, default=0) :] if not line.startswith("[slipway]"))


def _probe_cause(answer: str) -> Cause:
    return Cause(
        "probe_failed",
        f"The program runs but is not ready: {answer}.",
        "Check its health path and its log.",
        (answer,),
        retryable=True,
    )


def _silence_cause(answer: str, within_s: float) -> Cause:
    return Cause(
        "hung",
        f"The program stopped answering for {within_s:g} s and was started again.",
        "Read the log for what it was doing; a busy engine may need more CPU.",
        (answer,),
        retryable=True,
    )


def _holder(port: int) -> str:
    """ " by NAME (pid N)" when the holder of the port can be seen."""
    for connection in psutil.net_connections("tcp"):
        if (
            connection.laddr
            and connection.laddr.port == port
            and connection.status == psutil.CONN_LISTEN
            and connection.pid
        ):
            return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return


def main() -> None:
    folder = InstanceFolder(Path(sys.argv[1]))
    plan = LaunchPlan.from_json(json.load(sys.stdin))
    Shim(folder, plan).run()


if __name__ == "__main__":
    main()
