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
        ({"state": ended(1), "restartCount": 5}, observation.FAILED, "model_unreachable", False),
        ({"state": ended(0)}, observation.STARTING, None, True),
    ],
)
def test_how_far_a_models_files_are(fetching, phase, cause, is_fetched):
    found = instance_of(pod(fetching), [])
    assert (found.phase, found.cause and found.cause.code) == (phase, cause)
    steps = {step.name: step.at is not None for step in found.steps}
    assert list(steps) == ["scheduled", "model_fetched", "image_pulled", "started", "ready"]
    assert steps["model_fetched"] is is_fetched


def test_a_model_that_is_not_fetched_has_no_step_for_it():
    plain = pod({})
    del plain["status"]["initContainerStatuses"]
    assert [step.name for step in instance_of(plain, []).steps] == ["scheduled", "image_pulled", "started", "ready"]
