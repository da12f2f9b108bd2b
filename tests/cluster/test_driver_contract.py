"""What every runtime driver promises, on each of them for real."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from runtimes import observation
from runtimes.driver import Driver
from runtimes.engines.registry import engine
from runtimes.kubernetes.driver import KubernetesDriver
from runtimes.launch_plan import LaunchPlan
from runtimes.local.driver import LocalDriver
from runtimes.observation import InstanceObservation
from runtimes.specification import Specification
from tests.cluster.conftest import IMAGE, end_now
from tests.waiting import wait_for

KEY = "v1"


@dataclass
class Place:
    """A driver and how its programs are named."""

    driver: Driver
    kind: str
    python: str

    def simulator(self, **settings: Any) -> LaunchPlan:
        quick = {"time_to_first_token_ms": 5, "inter_token_ms": 1, "load_time_s": 0}
        specification = Specification(
            "simulator", "acme/chat", image=IMAGE, cpu=0.2, memory=128 << 20, engine_settings=quick | settings,
            secret_environment={"TOKEN": "planted-secret"},
        )  # fmt: skip
        return engine("simulator").plan(specification, self.kind)

    def program(self, text: str, **values: Any) -> LaunchPlan:
        plan = {"image": IMAGE, "cpu": 0.1, "memory": 64 << 20, "drain_s": 1.0, "health_path": "/"} | values
        return LaunchPlan("custom_command", (self.python, "-uc", text), **plan)

    def run(self, plan: LaunchPlan, replicas: int = 1, generation: int = 1) -> None:
        self.driver.run(KEY, generation, plan, replicas, name="contract-test")

    def instances(self) -> list[InstanceObservation]:
        return self.driver.observe().instances.get(KEY, [])

    def living(self) -> list[InstanceObservation]:
        return [item for item in self.instances() if item.is_alive]

    def until(
        self, condition: Callable[[list[InstanceObservation]], bool], what: str, within_s: float = 90
    ) -> list[InstanceObservation]:
        wait_for(lambda: condition(self.instances()), within_s=within_s, what=what)
        return self.instances()

    def until_cause(self, code: str) -> InstanceObservation:
        """The first instance that has it; on the way there others may be told."""
        self.until(lambda found: any(item.cause and item.cause.code == code for item in found), code)
        return next(item for item in self.instances() if item.cause and item.cause.code == code)

    def until_ready(self, count: int) -> list[InstanceObservation]:
        self.until(lambda found: sum(item.is_ready for item in found) == count, f"{count} ready")
        return [item for item in self.instances() if item.is_ready]


@pytest.fixture(params=["local", "kubernetes"])
def place(request: pytest.FixtureRequest, tmp_path) -> Iterator[Place]:
    if request.param == "local":
        made = Place(LocalDriver(tmp_path / "instances"), "local", sys.executable)
    else:
        made = Place(request.getfixturevalue("kubernetes"), "kubernetes", "python3")
    yield made
    if isinstance(made.driver, KubernetesDriver):
        end_now(made.driver, request.getfixturevalue("api"), request.getfixturevalue("namespace"), KEY)
    made.driver.end(KEY)
    wait_for(lambda: not made.living(), within_s=120, what="the end of all instances")


class TestContract:
    def test_instances_become_ready_answer_and_tell_their_steps(self, place):
        place.run(place.simulator())
        (ready,) = place.until_ready(1)
        answer = httpx.get(f"http://{ready.address}/v1/models", timeout=10, trust_env=False)
        assert answer.json()["data"][0]["id"] == "acme/chat"
        assert ready.generation == 1 and ready.restarts == 0 and ready.cause is None
        times = [step.at for step in ready.steps]
        assert all(times) and ready.steps[-1].name == "ready"

    def test_asking_again_changes_nothing(self, place):
        for _ in range(3):
            place.run(place.simulator())
        (first,) = place.until_ready(1)
        place.run(place.simulator())
        assert [item.uid for item in place.living()] == [first.uid]

    def test_more_instances_leave_the_first_alone(self, place):
        place.run(place.simulator())
        (first,) = place.until_ready(1)
        place.run(place.simulator(), replicas=3)
        assert first.uid in {item.uid for item in place.until_ready(3)}
        assert len({item.address for item in place.living()}) == 3

    def test_the_end_is_orderly_and_complete_and_may_be_asked_for_twice(self, place):
        place.run(place.simulator(), replicas=2)
        place.until_ready(2)
        place.driver.end(KEY)
        place.driver.end(KEY)
        place.until(lambda found: not any(item.is_alive for item in found), "the end")
        place.driver.end("v999")

    def test_one_start_can_be_told_from_the_next(self, place):
        place.run(place.simulator(), generation=1)
        place.until_ready(1)
        place.driver.end(KEY)
        place.until(lambda found: not any(item.is_alive for item in found), "the end")
        place.run(place.simulator(), generation=2)
        assert [item.generation for item in place.until_ready(1)] == [2]

    def test_a_program_that_ends_is_started_again_and_its_words_are_kept(self, place):
        place.run(place.program("print('the last words'); raise SystemExit(7)"))
        found = place.until(lambda found: any(item.restarts for item in found), "a restart")
        (crashed,) = [item for item in found if item.restarts]
        assert crashed.cause.code == "crashed" and crashed.exit_code == 7
        assert "the last words" in "\n".join(crashed.cause.evidence)
        assert crashed.phase in (observation.BACKING_OFF, observation.STARTING, observation.LOADING)

    def test_one_that_hangs_is_started_again_and_says_so(self, place):
        text = (
            "import http.server, os, time\n"
            "answered = 0\n"
            "class Handler(http.server.BaseHTTPRequestHandler):\n"
            "    def do_GET(self):\n"
            "        global answered\n"
            "        answered += 1\n"
            "        time.sleep(0 if answered < 8 else 600)\n"
            "        self.send_response(200); self.end_headers()\n"
            "http.server.HTTPServer(('', int(os.environ['PORT'])), Handler).serve_forever()"
        )
        place.run(place.program(text, hang_after_s=10.0))
        (ready,) = place.until_ready(1)
        found = place.until(lambda found: any(item.restarts for item in found), "another start", within_s=120)
        assert [item.uid for item in found if item.restarts] == [ready.uid], "the same instance"
        hung = place.until(
            lambda found: (
                any(item.cause and item.cause.code == "hung" for item in found) or any(item.is_ready for item in found)
            ),
            "its cause, or an answer again",
        )
        assert hung

    def test_the_last_words_of_a_run_are_all_there(self, place):
        place.run(place.program("print('the root'); [print('noise', n) for n in range(99)]; raise SystemExit(3)"))
        found = place.until(lambda found: any(item.ends for item in found), "an end")
        (ended,) = [item for item in found if item.ends]
        words = wait_for(lambda: place.driver.last_words(KEY, ended), within_s=20)
        assert words[0] == "the root" and words[-1] == "noise 98"

    def test_memory_is_enforced(self, place):
        place.run(
            place.program("x = bytearray(300 << 20); x[::4096] = b'x' * len(x[::4096]); import time; time.sleep(60)")
        )
        assert place.until_cause("out_of_memory").cause.field == "memory"

    def test_a_program_that_is_not_there_is_named(self, place):
        place.run(LaunchPlan("custom_command", ("/no/such/program",), image=IMAGE, cpu=0.1, memory=64 << 20))
        assert "/no/such/program" in str(place.until_cause("command_not_found").cause)

    def test_the_log_is_read_behind_any_position(self, place):
        place.run(place.program("for n in range(20): print('line', n)\nimport time; time.sleep(600)"))
        (alive,) = place.until(lambda found: len(found) == 1, "an instance")

        def lines(after: int = 0) -> list[Any]:
            return list(place.driver.read_log(KEY, alive.uid, after=after))

        wait_for(lambda: len(lines()) >= 20, within_s=30, what="the lines")
        found = lines()
        stamped = [line.text.partition(" ") for line in found[-20:]]
        assert [text for _, _, text in stamped] == [f"line {number}" for number in range(20)]
        assert all(abs(float(at) - time.time()) < 120 for at, _, _ in stamped)
        assert lines(found[-3].position) == found[-2:]
        assert lines(found[-1].position) == []

    def test_capacity_tells_what_there_is(self, place):
        node = place.driver.capacity()[0]
        assert node.cpu >= 1 and node.memory >= node.memory_available > 0 and node.gpus == 0 and node.gpu_reason
