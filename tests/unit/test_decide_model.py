"""The state table as a model: random sequences of observations, clicks and steps of the clock against decide().

A small world stands for the cluster: it starts what a plan asks for, ends what a plan ends, and lets anything happen to
what runs. The services' rule (one wanted version) and the reconciler's (a version on its way out keeps the place) are the
world's, too. What must never happen is asserted at each look.
"""

import itertools
from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from deployments.crash_streak import Streak, crashes_in_a_row
from deployments.decide import ERROR, PREPARING, RUNNING, SHUTTING_DOWN, STOPPED, Plan, Wanted, decide
from runtimes import observation
from runtimes.cause import OUTSIDE, Cause
from runtimes.observation import CRASHES_IN_A_ROW, InstanceObservation

INSIDE = ("crashed", "out_of_memory", "probe_failed")
DEADLINE_S = 300.0
VERSIONS = (1, 2)


@dataclass
class Version:
    """What the database holds."""

    status: str = STOPPED
    running: bool = False
    replicas: int = 1
    generation: int = 0
    start_requested_at: float = 0.0
    unready_since: float | None = None
    lost: int = 0
    instances: dict[str, InstanceObservation] = field(default_factory=dict)
    streaks: dict[str, Streak] = field(default_factory=dict)


class World(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.versions = {number: Version() for number in VERSIONS}
        self.numbers = itertools.count()
        self.room = True
        self.seen_since = 0.0

    # ------------------------------------------------------------ people

    @rule(number=st.sampled_from(VERSIONS))
    def start(self, number: int) -> None:
        version = self.versions[number]
        if version.status not in (STOPPED, ERROR):
            return
        for other in self.versions.values():
            other.running = False
        version.status, version.running, version.unready_since, version.lost = PREPARING, True, None, 0
        version.generation += 1
        version.start_requested_at = self.now

    @rule(number=st.sampled_from(VERSIONS))
    def stop(self, number: int) -> None:
        self.versions[number].running = False

    @rule(number=st.sampled_from(VERSIONS), replicas=st.integers(1, 4))
    def scale(self, number: int, replicas: int) -> None:
        self.versions[number].replicas = replicas

    # ------------------------------------------------------------ the world

    @rule(seconds=st.floats(0.1, 7200))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(room=st.booleans())
    def room_changes(self, room: bool) -> None:
        self.room = room

    @rule()
    def cluster_was_away(self) -> None:
        self.now += 600
        self.seen_since = self.now

    @rule(pick=st.integers(0, 50))
    def becomes_ready(self, pick: int) -> None:
        self._change(pick, phase=observation.READY, ready_at=self.now, cause=None)

    @rule(pick=st.integers(0, 50), code=st.sampled_from(sorted(OUTSIDE)))
    def is_troubled_from_outside(self, pick: int, code: str) -> None:
        self._change(pick, phase=observation.LOADING, ready_at=None, cause=Cause(code, code))

    @rule(pick=st.integers(0, 50), code=st.sampled_from(sorted(OUTSIDE)))
    def is_taken_away(self, pick: int, code: str) -> None:
        self._change(pick, phase=observation.GONE, ready_at=None, ended_at=self.now, cause=Cause(code, code))

    @rule(pick=st.integers(0, 50), code=st.sampled_from(INSIDE))
    def crashes(self, pick: int, code: str) -> None:
        found = self._pick(pick)
        if found is not None and found[1].phase not in (observation.ENDING, observation.GONE):
            ends = found[1].ends + 1
            self._change(pick, phase=observation.BACKING_OFF, ready_at=None, ends=ends, last_end_at=self.now, cause=Cause(code, code))  # fmt: skip

    @rule(pick=st.integers(0, 50))
    def hangs(self, pick: int) -> None:
        self._change(pick, phase=observation.LOADING, ready_at=None, cause=Cause("probe_failed", "It hangs."))

    # ------------------------------------------------------------ Slipway

    @rule()
    def look(self) -> None:
        places = [
            number
            for number, item in self.versions.items()
            if not item.running
            and (item.status not in (STOPPED, ERROR) or any(one.is_alive for one in item.instances.values()))
        ]
        for number, version in self.versions.items():
            if version.status == STOPPED and not version.instances:
                continue
            may_start = not any(other != number for other in places)
            self._reconcile(number, version, may_start=may_start)

    def _reconcile(self, number: int, version: Version, *, may_start: bool) -> None:
        instances = []
        for uid, item in version.instances.items():
            seen = replace(item, crashes=crashes_in_a_row(version.streaks.get(uid), item, self.now))
            version.streaks[uid] = Streak(seen.crashes or 0, seen.ends, seen.ready_at)
            instances.append(seen)
        wanted = Wanted(
            version.status, version.running, version.replicas, version.generation, version.start_requested_at,
            version.unready_since, DEADLINE_S, may_start=may_start, lost=version.lost, seen_since=self.seen_since,
            blocked=None if self.room else Cause("unschedulable", "No room."),
        )  # fmt: skip
        plan = decide(wanted, instances, self.now)
        self._judge(number, version, wanted, instances, plan)
        version.status, version.unready_since = plan.status, plan.unready_since
        if plan.give_up:
            version.running = False
        for uid in plan.end:
            version.instances[uid] = replace(version.instances[uid], phase=observation.ENDING, ready_at=None)
        for uid in plan.discard:
            version.lost += version.instances[uid].generation == version.generation
            del version.instances[uid]
        for _ in range(plan.create if self.room else 0):
            uid = f"{number}-{next(self.numbers)}"
            version.instances[uid] = InstanceObservation(
                uid, uid, observation.SCHEDULED, version.generation, started_at=self.now
            )

    def _judge(
        self, number: int, version: Version, wanted: Wanted, instances: list[InstanceObservation], plan: Plan
    ) -> None:
        ready = {item.uid for item in instances if item.is_ready and item.generation == version.generation}
        if wanted.running and plan.status != ERROR and ready:
            assert ready - set(plan.end), "the last ready instance is ended by nobody but a person"
        if wanted.running and ready:
            assert plan.status == RUNNING, "with one ready a version runs"
        if plan.give_up:
            assert not ready
            if wanted.status == RUNNING:
                living = [item for item in instances if item.is_alive and item.phase != observation.ENDING]
                mine = [item for item in living if item.generation == version.generation]
                assert mine and all((item.crashes or 0) >= CRASHES_IN_A_ROW for item in mine)
                assert plan.cause and not plan.cause.is_outside, "what has run never ends from outside"
        has_begun = any(item.generation == version.generation for item in instances)
        if plan.create and wanted.status == PREPARING and not has_begun:
            others = [item for key, item in self.versions.items() if key != number]
            alive = [one for item in others for one in item.instances.values() if one.is_alive]
            assert not alive, "a start waits for the one before it"
        if not wanted.running and wanted.status != ERROR:
            assert plan.status in (SHUTTING_DOWN, STOPPED) and not plan.create

    # ------------------------------------------------------------ what holds at every moment

    @invariant()
    def one_is_wanted_at_most(self) -> None:
        assert sum(version.running for version in self.versions.values()) <= 1

    @invariant()
    def error_wants_nothing(self) -> None:
        assert not any(version.running and version.status == ERROR for version in self.versions.values())

    def teardown(self) -> None:
        """Whatever has happened: a stop comes to its end, when the cluster ends what it was told to."""
        for version in self.versions.values():
            version.running = False
        for _ in range(4):
            self.now += 10
            self.look()
            for version in self.versions.values():
                for uid, item in version.instances.items():
                    if item.phase == observation.ENDING:
                        version.instances[uid] = replace(item, phase=observation.GONE, ended_at=self.now)
        for version in self.versions.values():
            assert version.status in (STOPPED, ERROR) and not version.instances

    # ------------------------------------------------------------ helpers

    def _pick(self, pick: int) -> tuple[Version, InstanceObservation] | None:
        found = [(version, item) for version in self.versions.values() for item in version.instances.values()]
        return found[pick % len(found)] if found else None

    def _change(self, pick: int, **changes: object) -> None:
        found = self._pick(pick)
        if found is None or found[1].phase in (observation.ENDING, observation.GONE):
            return
        version, item = found
        version.instances[item.uid] = replace(item, **changes)


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)


def test_a_crash_each_day_for_thirty_days_is_never_an_error():
    now, ready_at, streak = 0.0, 60.0, None
    base = Wanted(RUNNING, True, 1, 1, 0.0, None, DEADLINE_S)
    for day in range(30):
        now = day * 86_400.0 + 3600
        serving = InstanceObservation("a", "a", observation.READY, 1, ready_at=ready_at, ends=day, started_at=0.0)
        crashes = crashes_in_a_row(streak, serving, now)
        streak = Streak(crashes, day, ready_at)
        assert decide(base, [replace(serving, crashes=crashes)], now).status == RUNNING
        end = now + 70_000
        down = replace(
            serving, phase=observation.BACKING_OFF, ready_at=None, ends=day + 1, last_end_at=end,
            cause=Cause("crashed", "It crashed."),
        )  # fmt: skip
        crashes = crashes_in_a_row(streak, down, end)
        assert crashes == 1
        streak = Streak(crashes, day + 1, None)
        assert decide(base, [replace(down, crashes=crashes)], end).status == RUNNING
        ready_at = end + 30
