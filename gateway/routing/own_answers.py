"""What the gateway answers itself: its health, and which models there are."""

from dataclasses import dataclass
from operator import itemgetter
from urllib.parse import unquote_to_bytes

import orjson

from gateway.access.callers import ANONYMOUS, Caller
from gateway.errors import GatewayError
from gateway.http.framing import RequestHead
from gateway.routing import cross_origin, model_paths
from gateway.routing.routes import path_of
from gateway.routing.snapshot import Snapshot
from gateway.routing.target import RUNNING, Target


@dataclass(frozen=True)
class OwnAnswer:
    body: bytes
    content_type: bytes = b"application/json"


# What load balancers ask, and what load tools do.
HEALTH = (b"/healthz", b"/health")
MODELS, MODEL = b"/v1/models", b"/v1/models/"
# All that the gateway answers itself; everything else is a deployment's.
PATHS = (*HEALTH, MODELS, MODEL)
_HEALTHY = OwnAnswer(b"ok\n", b"text/plain")


def to(head: RequestHead, snapshot: Snapshot, caller: Caller) -> OwnAnswer | None:
    """The gateway's own answer to a request; None for one that a deployment answers. Raises a 404 for no such model,
    a 405 for what isn't reading."""
    path = path_of(head).partition(b"?")[0]
    if path in HEALTH:
        return _HEALTHY
    if path.startswith(b"/openai/") and (place := model_paths.of(path)) is not None:
        path = place[0]
    if path != MODELS and not path.startswith(MODEL):
        return None
    if head.method not in (b"GET", b"HEAD"):
        raise GatewayError(405, "method_not_allowed", "Models are read with GET.", headers=((b"allow", b"GET, HEAD"),))
    # Clients escape the slash of a model's id.
    model = unquote_to_bytes(path[len(MODEL) :]).decode("utf-8", "replace")
    return _model(model, snapshot, caller) if model else _models(snapshot, caller, cross_origin.page(snapshot, head))


def _models(snapshot: Snapshot, caller: Caller, page: bytes) -> OwnAnswer:
    """`page`: the origin of a page that may read this answer; it is told of what it may call."""
    aliases = snapshot.by_alias.get(caller.organization_id, {})
    named = [*((target.api_id, target) for target in snapshot.targets), *sorted(aliases.items(), key=itemgetter(0))]
    running = [
        _description(name, target, caller)
        for name, target in named
        if target.status == RUNNING and caller.may_call(target) and (not page or cross_origin.allows(target, page))
    ]
    return OwnAnswer(orjson.dumps({"object": "list", "data": running}))


def _model(model: str, snapshot: Snapshot, caller: Caller) -> OwnAnswer:
    target = snapshot.by_model(model, caller)
    aliases = snapshot.by_alias.get(caller.organization_id, {})
    name = model if aliases.get(model) is target else target.api_id
    return OwnAnswer(orjson.dumps(_description(name, target, caller)))


_PRICES = ("currency", "input_per_million", "output_per_million", "cached_input_per_million")


def _description(name: str, target: Target, caller: Caller) -> dict[str, object]:
    """As OpenAI's API describes a model, with what clients read of others beside it: its context by both names for it, what
    an alias stands for, and prices of a million tokens for who has a key."""
    owner = target.api_id.partition("/")[0]
    told: dict[str, object] = {"id": name, "object": "model", "created": target.created, "owned_by": owner}
    if name != target.api_id:
        told["root"] = target.api_id
    if target.context_length:
        told |= {"max_model_len": target.context_length, "context_length": target.context_length}
    if target.kinds:
        told["kinds"] = target.kinds
    if target.price and caller is not ANONYMOUS:
        told["pricing"] = dict(zip(_PRICES, target.price, strict=False))
    return told
