"""The local driver on real processes: readiness, crashes, limits, kills, leftovers."""

import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from runtimes import observation
from runtimes.driver import UnschedulableError
from runtimes.engines.registry import engine
from runtimes.launch_plan import LaunchPlan
from runtimes.local import identity
from runtimes.local.driver import LocalDriver
from runtimes.specification import Specification
from tests.waiting import wait_for

SERVER = "import http.server,sys;http.server.test(http.server.SimpleHTTPRequestHandler,port={port},bind='127.0.0.1')"


@pytest.fixture
def driver(tmp_path):
    subject = LocalDriver(tmp_path / "instances")
    yield subject
    subject.end_all(timeout_s=20)


def start(driver: LocalDriver, *command: str, **plan) -> str:
    values = {"engine": "custom_command", "health_path": "/", "drain_s": 2.0, "cpu": 1, "memory": 512 << 20}
    known = {item.uid for item in driver.observe().instances.get("v1", [])}
    driver.run("v1", 1, LaunchPlan(command=command, **values | plan), len(known) + 1, name="it")
    (uid,) = {item.uid for item in driver.observe().instances["v1"]} - known
    return uid


def only(driver: LocalDriver) -> observation.InstanceObservation:
    (found,) = driver.observe().instances["v1"]
    return found


def phase_is(
    driver: LocalDriver, *phases: str, within_s: float = 30, when=lambda _: True
) -> observation.InstanceObservation:
    def reached() -> observation.InstanceObservation | None:
        item = only(driver)
        return item if item.phase in phases and when(item) else None

    return wait_for(reached, within_s=within_s, what=f"phase {phases}")


def log_text(driver: LocalDriver, uid: str) -> str:
    return "\n".join(line.text for line in driver.read_log("v1", uid, after=0))


def test_becomes_ready_serves_and_ends(driver):
    uid = start(driver, sys.executable, "-c", SERVER)
    ready = phase_is(driver, observation.READY)
    assert [step.at is not None for step in ready.steps] == [True] * 4
    host, _, port = ready.address.partition(":")
    socket.create_connection((host, int(port)), timeout=2).close()
    driver.end_instance("v1", uid)
    phase_is(driver, observation.GONE)
    with pytest.raises(OSError):
        socket.create_connection((host, int(port)), timeout=2)
    driver.discard("v1", uid)
    assert driver.observe().instances == {}


def test_a_program_that_ignores_the_end_is_killed_after_its_drain(driver):
    code = f"import signal;signal.signal(signal.SIGTERM, signal.SIG_IGN);{SERVER}"
    uid = start(driver, sys.executable, "-c", code, drain_s=1.0)
    phase_is(driver, observation.READY)
    driver.end_instance("v1", uid)
    phase_is(driver, observation.GONE)
    assert "killed" in log_text(driver, uid)


def test_repeated_crashes_are_counted_and_their_last_lines_kept(driver):
    """Whether they are too many is for the state table to say: the instance goes on trying, less and less often."""
    uid = start(driver, "sh", "-c", "echo the reason is here; for n in $(seq 60); do echo noise $n; done; exit 4")
    crashed = phase_is(driver, observation.BACKING_OFF, when=lambda item: item.crashes == 5)
    assert crashed.exit_code == 4 and crashed.restarts == crashed.ends == 5 and crashed.is_exhausted
    assert crashed.cause.code == "crashed" and "noise 60" in crashed.cause.evidence[-1]
    assert driver.last_words("v1", crashed)[0] == "the reason is here"
    assert log_text(driver, uid).count("the reason is here") == 5


def test_a_command_that_does_not_exist_fails_at_once(driver):
    start(driver, "/no/such/program")
    failed = phase_is(driver, observation.FAILED, within_s=10)
    assert (failed.cause.code, failed.restarts) == ("command_not_found", 0)


def test_a_port_in_use_is_told_with_its_holder(driver, free_port):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port))
        listener.listen()
        start(driver, "sleep", "100", fixed_port=free_port)
        waiting = phase_is(driver, observation.BACKING_OFF, observation.FAILED)
        assert waiting.cause.code == "port_in_use"
        assert f"pid {os.getpid()}" in waiting.cause.message


def test_never_ready_stays_loading(driver):
    start(driver, "sh", "-c", "sleep 100")
    phase_is(driver, observation.STARTING)
    assert not only(driver).is_ready


def test_rubbish_on_the_health_path_is_not_ready(driver):
    code = "import socket;s=socket.create_server(('127.0.0.1',{port}))\nwhile 1:\n c,_=s.accept();c.sendall(b'hello');c.close()"
    start(driver, sys.executable, "-c", code)
    phase_is(driver, observation.LOADING)


def test_memory_above_the_limit_ends_it(driver):
    start(driver, sys.executable, "-c", "x=b'a'*(400<<20)\nimport time;time.sleep(60)", memory=120 << 20)
    hit = phase_is(driver, observation.BACKING_OFF, observation.FAILED)
    assert hit.cause.code == "out_of_memory"
    assert hit.cause.field == "memory" and int(hit.cause.value) == 240 << 20


def test_killing_the_shim_takes_the_program_along_and_is_seen(driver):
    start(driver, sys.executable, "-c", SERVER)
    phase_is(driver, observation.READY)
    state = driver.folders()[0].read_state()
    os.kill(state["shim"]["pid"], signal.SIGKILL)
    lost = phase_is(driver, observation.GONE)
    assert lost.cause.code == "instance_lost"
    wait_for(lambda: identity.find(state["program"]) is None, what="the program's end")


def test_children_that_are_left_behind_are_ended(driver):
    uid = start(driver, "sh", "-c", "setsid sleep 977 & echo started; exit 1")
    phase_is(driver, observation.BACKING_OFF, when=lambda item: item.crashes >= 4)
    assert not [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == ["sleep", "977"]]
    assert "started" in log_text(driver, uid)


def test_another_process_sees_and_ends_the_same_instances(driver, tmp_path):
    uid = start(driver, sys.executable, "-c", SERVER)
    phase_is(driver, observation.READY)
    second = LocalDriver(tmp_path / "instances")
    assert only(second).is_ready
    second.end_instance("v1", uid)
    phase_is(second, observation.GONE)
    second.end_instance("v1", uid)


def test_a_start_that_was_cut_short_is_buried(driver, monkeypatch):
    uid = start(driver, "sleep", "100")
    phase_is(driver, observation.STARTING)
    driver.end_instance("v1", uid)
    phase_is(driver, observation.GONE)
    folder = driver.folders()[0]
    state = folder.read_state() | {"phase": observation.SCHEDULED, "shim": None, "scheduled_at": 1.0}
    folder.write_state(state)
    assert only(driver).phase == observation.GONE


def test_log_positions_resume_exactly(driver):
    uid = start(driver, "sh", "-c", "for i in 1 2 3 4 5; do echo line $i; done; printf 'no newline'; sleep 100")
    wait_for(lambda: "line 5" in log_text(driver, uid))
    lines = list(driver.read_log("v1", uid, after=0))
    for index, line in enumerate(lines):
        assert list(driver.read_log("v1", uid, after=line.position)) == lines[index + 1 :]


def test_no_gpu_is_said_before_starting(driver):
    with pytest.raises(UnschedulableError, match="no GPU"):
        start(driver, "sleep", "1", gpu=1)


def test_more_memory_than_the_machine_has_is_said_before_starting(driver):
    with pytest.raises(UnschedulableError, match="1,024 GiB of memory per instance; this machine has"):
        start(driver, "sleep", "1", memory=1 << 40)


def test_secrets_touch_no_file(driver, tmp_path):
    specification = Specification(
        "simulator", "a/b", secret_environment={"TOKEN": "planted-secret-4711"}, memory=256 << 20
    )
    driver.run("v1", 1, engine("simulator").plan(specification, "local"), 1, name="it")
    phase_is(driver, observation.READY)
    assert not [
        path for path in Path(tmp_path).rglob("*") if path.is_file() and b"planted-secret-4711" in path.read_bytes()
    ]
