"""Which deployment a request is for, by its path or by the model in its body."""

import re
from dataclasses import dataclass

import orjson

from gateway.errors import GatewayError, bad_request
from gateway.snapshot import Snapshot, Target

OPENAI_PREFIX = b"/v1/"
# Paths whose answers carry token usage; only these bodies are read on a deployment's own address.
USAGE_PATHS = (b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/v1/responses")
_MULTIPART_MODEL = re.compile(rb'name="model"\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]*)\r\n')


@dataclass(frozen=True)
class Route:
    """`upstream_path` is what the instance is asked, query included. `target` is None until the body tells it."""

    upstream_path: bytes
    target: Target | None
    is_openai: bool


def resolve(snapshot: Snapshot, raw_path: bytes) -> Route:
    """The route of a request target in origin form. Raises a 404 that says how addresses look."""
    path, _, query = raw_path.partition(b"?")
    if path.startswith(OPENAI_PREFIX):
        return Route(raw_path, None, is_openai=True)
    parts = path.split(b"/", 3)
    if len(parts) < 3 or parts[0]:
        raise GatewayError(
            404, "not_found", "Nothing is here. Addresses are /v1/… with a model, or /{endpoint}/{deployment}/…."
        )
    key = (parts[1].decode("latin-1"), parts[2].decode("latin-1"))
    target = snapshot.by_path.get(key)
    if target is None:
        raise GatewayError(
            404, "deployment_not_found", f"There is no deployment at /{key[0]}/{key[1]}, or you may not use it."
        )
    rest = b"/" + (parts[3] if len(parts) > 3 else b"")
    return Route(rest + (b"?" + query if query else b""), target, is_openai=rest in USAGE_PATHS)


def model_of(body: bytes, content_type: bytes) -> tuple[str, dict[str, object] | None]:
    """(the model that an OpenAI-style body names, the parsed JSON body or None for a form)."""
    if content_type.startswith(b"multipart/form-data"):
        found = _MULTIPART_MODEL.search(body)
        if not found:
            raise bad_request("The form has no field “model”.", "model_missing")
        return found.group(1).decode("utf-8", "replace"), None
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"The body is not JSON: {error}.", "body_not_json") from None
    model = parsed.get("model") if isinstance(parsed, dict) else None
    if not isinstance(model, str) or not model:
        raise bad_request(
            "The body needs a field “model” with the id of a deployment, for example “demo/chat”.", "model_missing"
        )
    return model, parsed


def models_answer(snapshot: Snapshot) -> bytes:
    """The list of models that the caller may use, as OpenAI's API gives it."""
    data = [
        {"id": target.api_id, "object": "model", "created": target.created, "owned_by": target.api_id.partition("/")[0]}
        for target in snapshot.targets
        if target.status == "running"
    ]
    return orjson.dumps({"object": "list", "data": data})


def model_answer(snapshot: Snapshot, model: str) -> bytes:
    target = snapshot.by_model(model)
    return orjson.dumps(
        {"id": target.api_id, "object": "model", "created": target.created, "owned_by": target.api_id.partition("/")[0]}
    )
