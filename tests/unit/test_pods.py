"""What is read out of a pod, as the API server tells it."""

import pytest

from runtimes import observation
from runtimes.kubernetes.manifest import CONTAINER, FETCHING
from runtimes.kubernetes.pods import instance_of

STARTED, FINISHED = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"
RUNNING = {"running": {"startedAt": STARTED}}


def ended(code: int) -> dict:
    return {"terminated": {"exitCode": code, "finishedAt": FINISHED, "message": "nothing lies there"}}


def pod(fetching: dict) -> dict:
    return {
        "metadata": {"uid": "a-b", "name": "chat-1", "creationTimestamp": STARTED},
        "status": {
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": STARTED}],
            "initContainerStatuses": [{"name": FETCHING, **fetching}],
            "containerStatuses": [{"name": CONTAINER, "state": {"waiting": {"reason": "PodInitializing"}}}],
        },
    }


@pytest.mark.parametrize(
    ("fetching", "phase", "cause", "is_fetched"),
    [
        ({"state": {"waiting": {"reason": "PodInitializing"}}}, observation.STARTING, None, False),
        ({"state": RUNNING}, observation.FETCHING, None, False),
        ({"state": RUNNING, "lastState": ended(1)}, observation.FETCHING, "model_unreachable", False),
        ({"state": ended(1), "restartCount": 1}, observation.BACKING_OFF, "model_unreachable", False),
        ({"state": ended(1), "restartCount": 5}, observation.BACKING_OFF, "model_unreachable", False),
        ({"state": ended(0)}, observation.STARTING, None, True),
    ],
)
def test_how_far_a_models_files_are(fetching, phase, cause, is_fetched):
    found = instance_of(pod(fetching), [], 0.0)
    assert (found.phase, found.cause and found.cause.code) == (phase, cause)
    steps = {step.name: step.at is not None for step in found.steps}
    assert list(steps) == ["scheduled", "model_fetched", "image_pulled", "started", "ready"]
    assert steps["model_fetched"] is is_fetched


def test_a_model_that_is_not_fetched_has_no_step_for_it():
    plain = pod({})
    del plain["status"]["initContainerStatuses"]
    assert [step.name for step in instance_of(plain, [], 0.0).steps] == [
        "scheduled",
        "image_pulled",
        "started",
        "ready",
    ]


def crashing(state: dict, restarts: int, **last: dict) -> dict:
    return {
        "metadata": {"uid": "a-b", "name": "chat-1", "creationTimestamp": STARTED},
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": CONTAINER, "state": state, "lastState": last, "restartCount": restarts}],
        },
    }


def test_ends_are_counted_the_same_while_it_is_down_and_when_it_runs_again():
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    assert instance_of(crashing(ended(1), 2), [], 0.0).ends == 3
    assert instance_of(crashing(waiting, 2, **ended(1)), [], 0.0).ends == 3
    assert instance_of(crashing(RUNNING, 3, **ended(1)), [], 0.0).ends == 3
    assert instance_of(crashing(RUNNING, 0), [], 0.0).ends == 0


def test_a_command_that_is_not_there_stays_that_while_the_cluster_waits():
    refused = {
        "terminated": {"reason": "StartError", "exitCode": 128, "message": 'exec: "x": no such file or directory'}
    }
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    causes = [
        instance_of(crashing(refused, 1), [], 0.0).cause,
        instance_of(crashing(waiting, 1, **refused), [], 0.0).cause,
    ]
    assert [cause.code for cause in causes] == ["command_not_found"] * 2 and causes[0] == causes[1]


def event(reason: str, message: str, first: str, last: str) -> dict:
    return {"reason": reason, "message": message, "firstTimestamp": first, "lastTimestamp": last}


def test_evidence_keeps_its_order_however_often_the_cluster_tries_again():
    pulling = pod({})
    del pulling["status"]["initContainerStatuses"]
    pulling["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "ErrImagePull"}}
    tried = [event("Failed", "no such tag", "T1", "T5"), event("Failed", "Error: ErrImagePull", "T2", "T3")]
    again = [event("Failed", "Error: ErrImagePull", "T2", "T9"), event("Failed", "no such tag", "T1", "T8")]
    assert instance_of(pulling, tried, 0.0).cause == instance_of(pulling, again, 0.0).cause


def test_a_probes_own_port_is_no_news():
    told = []
    for port in (40112, 40998):
        refused = f"Liveness probe failed: read tcp 10.0.0.1:{port}->10.0.0.9:8000: connection reset by peer"
        told.append(instance_of(crashing(RUNNING, 0), [event("Unhealthy", refused, "T1", "T2")], 0.0).cause)
    assert told[0] == told[1] and "10.0.0.9:8000" in told[0].evidence[0]


def test_a_pod_that_was_thrown_out_before_it_ran_has_ended_all_the_same():
    gone = {
        "metadata": {"uid": "a-b", "name": "chat-1", "creationTimestamp": STARTED},
        "status": {"phase": "Failed", "reason": "Evicted", "message": "The node had condition: [DiskPressure]."},
    }
    found = instance_of(gone, [], 0.0)
    assert (found.phase, found.cause.code) == (observation.GONE, "evicted") and found.ended_at


@pytest.mark.parametrize(
    "said", ["toomanyrequests: 429 Too Many Requests", "dial tcp: lookup x: no such host", "i/o timeout"]
)
def test_a_registry_that_is_away_is_not_a_wrong_tag(said):
    pulling = pod({})
    del pulling["status"]["initContainerStatuses"]
    pulling["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "ErrImagePull", "message": said}}
    cause = instance_of(pulling, [], 0.0).cause
    assert cause.code == "registry_unreachable" and cause.is_outside
