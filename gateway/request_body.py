"""What a body that was read whole tells: its deployment, whether its stream has to be asked for usage, how long an answer."""

import re

import orjson

from gateway.callers import Caller
from gateway.errors import GatewayError, bad_request
from gateway.framing import RequestHead
from gateway.routes import Route
from gateway.snapshot import Snapshot, Target
from gateway.usage import ask_for_usage

RESERVED_ANSWER = 1024
_MULTIPART_MODEL = re.compile(rb'name=(?:"model"|model)\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]*)\r\n')


def read(
    snapshot: Snapshot, route: Route, head: RequestHead, caller: Caller, body: bytes
) -> tuple[Target, bytes, bool, int]:
    """(deployment, the body to send, whether the answer's usage event is the gateway's alone, tokens to reserve for it).

    Raises GatewayError.
    """
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
    if not route.tells_usage:
        return target, body, False, 0
    answer_tokens = longest_answer(parsed or {}) if route.answers_text else 0
    if parsed is not None and b"completions" in route.path:
        asking = ask_for_usage(body, parsed)
        if asking is not None:
            return target, asking, True, answer_tokens
    return target, body, False, answer_tokens


def longest_answer(parsed: dict[str, object]) -> int:
    """How many tokens to reserve for an answer: what the request allows, at most RESERVED_ANSWER."""
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        value = parsed.get(name)
        if type(value) is int and value > 0:
            return min(value, RESERVED_ANSWER)
    return RESERVED_ANSWER


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
