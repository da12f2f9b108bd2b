"""What the gateway answers itself: its health, and which models there are."""

from dataclasses import dataclass

import orjson

from gateway.callers import Caller
from gateway.framing import RequestHead
from gateway.snapshot import RUNNING, Snapshot, Target


@dataclass(frozen=True)
class OwnAnswer:
    body: bytes
    content_type: bytes = b"application/json"


HEALTH, MODELS, MODEL = b"/healthz", b"/v1/models", b"/v1/models/"
# All that the gateway answers itself; everything else is a deployment's.
PATHS = (HEALTH, MODELS, MODEL)
_HEALTHY = OwnAnswer(b"ok\n", b"text/plain")


def to(head: RequestHead, snapshot: Snapshot, caller: Caller) -> OwnAnswer | None:
    """The gateway's own answer to a request; None for one that a deployment answers. Raises a 404 for no such model."""
    path = head.target.partition(b"?")[0]
    if path == HEALTH:
        return _HEALTHY
    if head.method not in (b"GET", b"HEAD") or not path.startswith(MODELS):
        return None
    return _models(snapshot, caller) if path == MODELS else _model(path, snapshot, caller)


def _models(snapshot: Snapshot, caller: Caller) -> OwnAnswer:
    running = [
        _description(target) for target in snapshot.targets if target.status == RUNNING and caller.may_call(target)
    ]
    return OwnAnswer(orjson.dumps({"object": "list", "data": running}))


def _model(path: bytes, snapshot: Snapshot, caller: Caller) -> OwnAnswer | None:
    if not path.startswith(MODEL):
        return None
    return OwnAnswer(orjson.dumps(_description(snapshot.by_model(path[len(MODEL) :].decode("latin-1"), caller))))


def _description(target: Target) -> dict[str, object]:
    """As OpenAI's API describes a model."""
    owner = target.api_id.partition("/")[0]
    return {"id": target.api_id, "object": "model", "created": target.created, "owned_by": owner}
