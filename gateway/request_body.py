"""What a body that was read whole tells: its deployment, whether its stream has to be asked for usage, how long an answer."""

from gateway import json_fields, multipart
from gateway.callers import Caller
from gateway.errors import GatewayError, bad_request
from gateway.framing import RequestHead
from gateway.json_fields import RequestFields
from gateway.routes import Route
from gateway.snapshot import Snapshot, Target
from gateway.usage import ask_for_usage

RESERVED_ANSWER = 1024
_NO_FIELDS = RequestFields()


def read(
    snapshot: Snapshot, route: Route, head: RequestHead, caller: Caller, body: bytes
) -> tuple[Target, bytes, bool, int]:
    """(deployment, the body to send, whether the answer's usage event is the gateway's alone, tokens to reserve for it).

    Raises GatewayError.
    """
    target = route.target
    fields = _NO_FIELDS
    if target is None:
        if not body:
            raise GatewayError(400, "model_missing", "This path needs a JSON body with the field “model”.")
        model, fields = model_of(body, head.content_type)
        target = snapshot.by_model(model, caller)
    elif route.tells_usage:
        try:
            fields = json_fields.of_request(body)
        except ValueError:
            # Its engine says what is wrong with it.
            fields = _NO_FIELDS
    if not route.tells_usage:
        return target, body, False, 0
    answer_tokens = longest_answer(fields) if route.answers_text else 0
    if b"completions" in route.plain_path:
        asking = ask_for_usage(body, fields)
        if asking is not None:
            return target, asking, True, answer_tokens
    return target, body, False, answer_tokens


def longest_answer(fields: RequestFields) -> int:
    """How many tokens to reserve for an answer: what the request allows, at most RESERVED_ANSWER."""
    for given in (fields.max_completion_tokens, fields.max_tokens, fields.max_output_tokens):
        value = json_fields.value_of(given)
        if type(value) is int and value > 0:
            return min(value, RESERVED_ANSWER)
    return RESERVED_ANSWER


def model_of(body: bytes, content_type: bytes) -> tuple[str, RequestFields]:
    """(the model that an OpenAI-style body names, the fields of a JSON body: none of a form's)."""
    if content_type[:19].lower() == b"multipart/form-data":
        found = multipart.field(body, content_type, b"model")
        if found is None:
            raise bad_request("The form has no field “model”.", "model_missing")
        return found.decode("utf-8", "replace"), _NO_FIELDS
    model = None
    fields = _NO_FIELDS
    try:
        fields = json_fields.of_request(body)
        model = json_fields.value_of(fields.model)
    except json_fields.NotAnObjectError:
        pass
    except ValueError as error:
        raise bad_request(f"The body is not JSON: {error}.", "body_not_json") from None
    if not isinstance(model, str) or not model:
        raise bad_request(
            "The body needs a field “model” with the id of a deployment, for example “demo/chat”.", "model_missing"
        )
    return model, fields
