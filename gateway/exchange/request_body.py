"""What a body that was read whole tells: its deployment, whether its stream has to be asked for usage, how long an answer."""

from gateway.access.callers import Caller
from gateway.bodies import json_fields
from gateway.bodies.json_fields import RequestFields
from gateway.bodies.model import model_of
from gateway.bodies.stream_options import ask_for_usage
from gateway.errors import GatewayError
from gateway.exchange.plan import Plan
from gateway.http.framing import RequestHead
from gateway.routing.snapshot import Snapshot
from gateway.routing.target import Target

RESERVED_ANSWER = 1024
_NO_FIELDS = RequestFields()


def read(
    snapshot: Snapshot, plan: Plan, head: RequestHead, caller: Caller, body: bytes
) -> tuple[Target, bytes | None, int]:
    """(deployment, the body that asks for usage where the client's doesn't and has to, tokens to reserve for the answer).

    Raises GatewayError.
    """
    target = plan.target
    fields = _NO_FIELDS
    if target is None:
        if not body:
            raise GatewayError(400, "model_missing", "This path needs a JSON body with the field “model”.")
        model, fields = model_of(body, head.content_type)
        target = snapshot.by_model(model, caller)
    elif plan.tells_usage:
        try:
            fields = json_fields.of_request(body)
        except ValueError:
            # Its engine says what is wrong with it.
            fields = _NO_FIELDS
    if not plan.tells_usage:
        return target, None, 0
    answer_tokens = longest_answer(fields) if plan.answers_text else 0
    if b"completions" in plan.plain_path and not target.streams_tell:
        return target, ask_for_usage(body, fields), answer_tokens
    return target, None, answer_tokens


def longest_answer(fields: RequestFields) -> int:
    """How many tokens to reserve for an answer: what the request allows, at most RESERVED_ANSWER."""
    for given in (fields.max_completion_tokens, fields.max_tokens, fields.max_output_tokens):
        value = json_fields.value_of(given)
        if type(value) is int and value > 0:
            return min(value, RESERVED_ANSWER)
    return RESERVED_ANSWER
