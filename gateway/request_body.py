"""What a body that was read whole tells: which deployment it is for, and whether its stream has to be asked for usage."""

import re

import orjson

from gateway.callers import Caller
from gateway.errors import GatewayError, bad_request
from gateway.framing import RequestHead
from gateway.routes import Route
from gateway.snapshot import Snapshot, Target
from gateway.usage import ask_for_usage

_MULTIPART_MODEL = re.compile(rb'name="model"\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]*)\r\n')


def read(
    snapshot: Snapshot, route: Route, head: RequestHead, caller: Caller, body: bytes
) -> tuple[Target, bytes, bool]:
    """(deployment, the body to send, whether the answer's usage event is the gateway's alone). Raises GatewayError."""
    target = route.target
    parsed: dict[str, object] | None = None
    if target is None:
        if not body:
            raise GatewayError(400, "model_missing", "This path needs a JSON body with the field “model”.")
        model, parsed = model_of(body, head.content_type.lower())
        target = snapshot.by_model(model, caller)
    elif route.tells_usage:
        try:
            loaded = orjson.loads(body)
            parsed = loaded if isinstance(loaded, dict) else None
        except orjson.JSONDecodeError:
            parsed = None
    if parsed is not None and route.tells_usage and b"completions" in route.path:
        asking = ask_for_usage(body, parsed)
        if asking is not None:
            return target, asking, True
    return target, body, False


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
