"""Every cell of the state table in docs/lifecycle.md."""

from dataclasses import replace

import pytest

from deployments.decide import (
    ERROR,
    LOST_BEFORE_ERROR,
    PREPARING,
    REPLACE_FAILED_AFTER_S,
    REPLACE_LOST_EARLY_AFTER_S,
    RUNNING,
    SHUTTING_DOWN,
    START_AGAIN_AFTER_S,
    STOPPED,
    Wanted,
    decide,
    start_again_at,
)
from runtimes import observation
from runtimes.cause import OUTSIDE, Cause
from runtimes.observation import CRASHES_IN_A_ROW, InstanceObservation, Step

NOW = 10_000.0
BOOM = Cause("crashed", "It crashed.")
OUTSIDE_CAUSES = [Cause(code, "From outside.") for code in sorted(OUTSIDE)]
FULL = Cause("unschedulable", "No GPU is free.", retryable=True)


def wanted(status: str = PREPARING, **changes) -> Wanted:
    base = Wanted(
        status,
        running=True,
        replicas=1,
        generation=1,
        start_requested_at=NOW - 5,
        unready_since=None,
        start_deadline_s=60,
    )
    return replace(base, **changes)


def instance(uid: str = "a", phase: str = observation.READY, **values) -> InstanceObservation:
    return InstanceObservation(
        uid=uid,
        name=uid,
        phase=phase,
        generation=values.pop("generation", 1),
        started_at=values.pop("started_at", NOW - 5),
        **values,
    )


class TestPreparing:
    def test_no_instance_yet_creates_them(self):
        plan = decide(wanted(replicas=3), [], NOW)
        assert (plan.status, plan.create) == (PREPARING, 3)

    @pytest.mark.parametrize(
        "phase", [observation.SCHEDULED, observation.STARTING, observation.LOADING, observation.BACKING_OFF]
    )
    def test_on_its_way_stays(self, phase):
        plan = decide(wanted(), [instance(phase=phase)], NOW)
        assert (plan.status, plan.create, plan.end) == (PREPARING, 0, ())

    def test_one_ready_is_running(self):
        plan = decide(
            wanted(replicas=3),
            [instance("a"), instance("b", observation.STARTING), instance("c", observation.STARTING)],
            NOW,
        )
        assert (plan.status, plan.create) == (RUNNING, 0)

    def test_a_crash_that_is_retried_shows_its_cause_and_stays(self):
        plan = decide(wanted(), [instance(phase=observation.BACKING_OFF, cause=BOOM)], NOW)
        assert (plan.status, plan.cause) == (PREPARING, BOOM)

    def test_all_failed_is_error_with_the_cause(self):
        plan = decide(wanted(), [instance(phase=observation.FAILED, cause=BOOM, ended_at=NOW)], NOW)
        assert (plan.status, plan.cause, plan.give_up) == (ERROR, BOOM, True)

    def test_one_failed_of_two_waits_for_the_other(self):
        plan = decide(
            wanted(replicas=2),
            [instance("a", observation.FAILED, cause=BOOM, ended_at=NOW), instance("b", observation.LOADING)],
            NOW,
        )
        assert (plan.status, plan.create) == (PREPARING, 0)

    def test_past_the_deadline_is_error(self):
        late = wanted(start_requested_at=NOW - 61)
        plan = decide(late, [instance(phase=observation.LOADING, started_at=NOW - 61)], NOW)
        assert (plan.status, plan.cause.code, plan.end) == (ERROR, "start_timeout", ("a",))
        # What was adopted is older than the wish for it, and a cluster's clock may be behind ours.
        assert decide(wanted(), [instance(phase=observation.LOADING, started_at=NOW - 900)], NOW).status == PREPARING

    def test_a_crash_loop_is_error_with_the_fifth_end_in_a_row(self):
        crashed = instance(phase=observation.BACKING_OFF, cause=BOOM, crashes=CRASHES_IN_A_ROW)
        assert decide(wanted(), [crashed], NOW).status == ERROR

    def test_time_in_which_the_cluster_was_not_seen_counts_against_no_start(self):
        loading = [instance(phase=observation.LOADING, started_at=NOW - 600)]
        assert decide(wanted(start_requested_at=NOW - 900, seen_since=NOW - 5), loading, NOW).status == PREPARING
        assert decide(wanted(start_requested_at=NOW - 600, seen_since=NOW - 61), loading, NOW).status == ERROR

    def test_unschedulable_stays_until_the_deadline(self):
        assert decide(wanted(blocked=FULL), [], NOW).status == PREPARING
        late = decide(wanted(blocked=FULL, start_requested_at=NOW - 61), [], NOW)
        assert (late.status, late.cause) == (ERROR, FULL)

    def test_a_start_that_never_had_its_turn_has_not_failed(self):
        assert decide(wanted(start_requested_at=NOW - 9999), [], NOW).status == PREPARING

    def test_too_many_lost_is_error(self):
        plan = decide(wanted(lost=LOST_BEFORE_ERROR), [], NOW)
        assert (plan.status, plan.cause.code) == (ERROR, "instance_lost")

    def test_a_restart_waits_for_the_instances_of_the_earlier_start(self):
        plan = decide(wanted(generation=2), [instance("old", observation.ENDING)], NOW)
        assert (plan.status, plan.create) == (PREPARING, 0)

    def test_waits_for_the_earlier_version(self):
        plan = decide(wanted(may_start=False, start_requested_at=NOW - 999), [], NOW)
        assert (plan.status, plan.create) == (PREPARING, 0)

    def test_a_lost_instance_is_replaced(self):
        plan = decide(
            wanted(), [instance(phase=observation.GONE, ended_at=NOW, steps=(Step("listening", NOW - 1),))], NOW
        )
        assert (plan.status, plan.create, plan.discard) == (PREPARING, 1, ("a",))

    def test_one_that_was_lost_before_it_listened_waits_a_moment(self):
        fresh = decide(wanted(), [instance(phase=observation.GONE, ended_at=NOW - 1)], NOW)
        assert (fresh.status, fresh.create, fresh.discard) == (PREPARING, 0, ())
        later = decide(wanted(), [instance(phase=observation.GONE, ended_at=NOW - REPLACE_LOST_EARLY_AFTER_S)], NOW)
        assert (later.status, later.create, later.discard) == (PREPARING, 1, ("a",))


class TestRunning:
    def test_fewer_than_wanted_is_still_running(self):
        plan = decide(wanted(RUNNING, replicas=2), [instance("a"), instance("b", observation.GONE)], NOW)
        assert (plan.status, plan.create) == (RUNNING, 1)

    def test_scale_up_creates_only_the_missing(self):
        assert decide(wanted(RUNNING, replicas=3), [instance("a")], NOW).create == 2

    def test_scale_down_ends_those_not_ready_first_then_the_youngest(self):
        instances = [
            instance("old", started_at=NOW - 50),
            instance("young", started_at=NOW - 2),
            instance("starting", observation.STARTING, started_at=NOW - 60),
        ]
        assert decide(wanted(RUNNING, replicas=1), instances, NOW).end == ("starting", "young")

    def test_a_failed_instance_is_retried_after_a_while(self):
        fresh = [instance("a"), instance("b", observation.FAILED, cause=BOOM, ended_at=NOW - 1)]
        assert decide(wanted(RUNNING, replicas=2), fresh, NOW).create == 0
        old = [instance("a"), instance("b", observation.FAILED, cause=BOOM, ended_at=NOW - REPLACE_FAILED_AFTER_S)]
        plan = decide(wanted(RUNNING, replicas=2), old, NOW)
        assert (plan.create, plan.discard) == (1, ("b",))

    def test_none_ready_starts_the_clock_and_keeps_it(self):
        plan = decide(wanted(RUNNING), [instance(phase=observation.LOADING, started_at=NOW - 900)], NOW)
        assert (plan.status, plan.unready_since) == (RUNNING, NOW)
        later = decide(
            wanted(RUNNING, unready_since=NOW - 50), [instance(phase=observation.LOADING, started_at=NOW - 900)], NOW
        )
        assert (later.status, later.unready_since) == (RUNNING, NOW - 50)

    @pytest.mark.parametrize("cause", OUTSIDE_CAUSES, ids=lambda cause: cause.code)
    @pytest.mark.parametrize(
        "phase", [observation.SCHEDULED, observation.LOADING, observation.BACKING_OFF, observation.GONE]
    )
    def test_none_ready_for_a_day_through_no_fault_of_its_own_stays_wanted(self, phase, cause):
        since = NOW - 86_400
        held = wanted(RUNNING, unready_since=since, start_requested_at=since, lost=99)
        plan = decide(held, [instance(phase=phase, cause=cause, started_at=since, ended_at=None, crashes=9)], NOW)
        assert (plan.status, plan.unready_since, plan.cause, plan.give_up) == (RUNNING, since, cause, False)

    def test_one_that_hangs_for_an_hour_stays_wanted(self):
        hung = instance(phase=observation.LOADING, cause=Cause("hung", "It hangs."), started_at=NOW - 86_400)
        plan = decide(wanted(RUNNING, unready_since=NOW - 3600), [hung], NOW)
        assert (plan.status, plan.end, plan.cause.code) == (RUNNING, (), "hung")

    def test_no_room_for_a_replacement_is_told_and_asked_for_again(self):
        plan = decide(wanted(RUNNING, replicas=3, unready_since=NOW - 9000, blocked=FULL), [], NOW)
        assert (plan.status, plan.create, plan.cause) == (RUNNING, 3, FULL)

    def test_all_failed_is_error(self):
        plan = decide(wanted(RUNNING), [instance(phase=observation.FAILED, cause=BOOM, ended_at=NOW)], NOW)
        assert (plan.status, plan.cause) == (ERROR, BOOM)

    def test_a_program_that_cant_hold_up_is_given_up(self):
        crashed = instance(phase=observation.BACKING_OFF, cause=BOOM, crashes=CRASHES_IN_A_ROW)
        plan = decide(wanted(RUNNING), [crashed], NOW)
        assert (plan.status, plan.cause, plan.end) == (ERROR, BOOM, ("a",))
        fewer = instance(phase=observation.BACKING_OFF, cause=BOOM, crashes=CRASHES_IN_A_ROW - 1)
        assert decide(wanted(RUNNING), [fewer], NOW).status == RUNNING

    def test_with_one_ready_crashes_of_the_others_end_nothing(self):
        crashed = instance("b", observation.BACKING_OFF, cause=BOOM, crashes=99)
        plan = decide(wanted(RUNNING, replicas=2), [instance("a"), crashed], NOW)
        assert (plan.status, plan.cause, plan.end, plan.create) == (RUNNING, BOOM, (), 0)

    def test_one_that_crashes_while_the_others_find_no_room_says_nothing_of_the_program(self):
        crashed = instance(phase=observation.BACKING_OFF, cause=BOOM, crashes=99)
        assert decide(wanted(RUNNING, replicas=3, blocked=FULL), [crashed], NOW).status == RUNNING

    def test_instances_of_an_earlier_start_are_ended(self):
        plan = decide(wanted(RUNNING, generation=2), [instance("old"), instance("new", generation=2)], NOW)
        assert (plan.status, plan.end, plan.create) == (RUNNING, ("old",), 0)

    def test_an_ending_instance_fills_no_place(self):
        plan = decide(wanted(RUNNING), [instance("a", observation.ENDING)], NOW)
        assert plan.create == 1


class TestStartingAgain:
    def test_pauses_grow_and_stay_at_the_last(self):
        pauses = [start_again_at(attempt, NOW) - NOW for attempt in range(7)]
        assert pauses == [*START_AGAIN_AFTER_S, START_AGAIN_AFTER_S[-1], START_AGAIN_AFTER_S[-1]]
        assert pauses == sorted(pauses)


class TestStopping:
    @pytest.mark.parametrize("status", [PREPARING, RUNNING, SHUTTING_DOWN])
    def test_with_instances_shuts_down(self, status):
        plan = decide(wanted(status, running=False), [instance("a"), instance("b", observation.ENDING)], NOW)
        assert (plan.status, plan.end) == (SHUTTING_DOWN, ("a",))

    @pytest.mark.parametrize("status", [PREPARING, RUNNING, SHUTTING_DOWN, STOPPED])
    def test_without_instances_is_stopped(self, status):
        assert decide(wanted(status, running=False), [], NOW).status == STOPPED

    def test_error_stays_error_and_removes_instances(self):
        plan = decide(wanted(ERROR, running=False), [instance("a"), instance("b", observation.GONE)], NOW)
        assert (plan.status, plan.end, plan.discard) == (ERROR, ("a",), ("b",))


def test_a_start_whose_instances_are_lost_one_after_another_has_an_end():
    """Evicted while it loads, and the cluster makes the next one at once: none is ever missing, and each is new."""
    replaced = [instance(phase=observation.LOADING, started_at=NOW - 1)]
    lost = wanted(lost=60, start_requested_at=NOW - 600)
    assert decide(lost, replaced, NOW).status == ERROR
    assert decide(replace(lost, start_requested_at=NOW - 5), replaced, NOW).status == PREPARING


@pytest.mark.parametrize("code", ["model_unreachable", "cannot_start", "image_pull", "claim_missing"])
def test_what_keeps_a_program_from_beginning_ends_none_that_has_run(code):
    failed = [instance(phase=observation.BACKING_OFF, crashes=9, cause=Cause(code, "It says no."))]
    plan = decide(wanted(RUNNING, unready_since=NOW - 60), failed, NOW)
    assert (plan.status, plan.cause.code, plan.give_up) == (RUNNING, code, False)
    assert decide(wanted(), failed, NOW).status == ERROR, "a start fails by it"
