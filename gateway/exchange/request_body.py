"""What a body that was read whole tells: its deployment, whether its stream has to be asked for usage, how long an answer."""

from dataclasses import dataclass

from gateway.access.callers import Caller
from gateway.bodies import json_fields
from gateway.bodies.json_fields import PlainRequest, RequestFields
from gateway.bodies.model import USUAL_MODELS, model_of, renamed
from gateway.bodies.stream_options import ask_for_usage
from gateway.errors import GatewayError
from gateway.exchange.plan import Plan
from gateway.http.framing import RequestHead
from gateway.routing.snapshot import Snapshot
from gateway.routing.target import Target

RESERVED_ANSWER = 1024
_NO_FIELDS = RequestFields()


@dataclass(frozen=True, slots=True)
class Read:
    """`body` as it goes to the instance, `asking` what goes in its place where its stream has to be asked for usage. `asked_name` of
    a model that the instance serves under another one. `answer_tokens` to reserve."""

    target: Target
    body: bytes
    asking: bytes | None = None
    answer_tokens: int = 0
    asked_name: str = ""


def read(snapshot: Snapshot, plan: Plan, target: Target | None, head: RequestHead, caller: Caller, body: bytes) -> Read:
    """`target` where the head names it. Raises GatewayError."""
    plain = json_fields.plain_request(body) if target is None else None
    if target is None and plain is not None and plain.model and not plain.stream:
        # As most are: one look at the body.
        target = snapshot.by_model(plain.model, caller)
        if target.served_name in ("", plain.model):
            return Read(target, body, None, _longest_plainly(plain) if plan.tells_usage and plan.answers_text else 0)
        target = None
    fields, asked_name = _NO_FIELDS, ""
    if target is None:
        if not body:
            raise GatewayError(400, "model_missing", "This path needs a JSON body with the field “model”.")
        model, fields = model_of(body, head.content_type, otherwise=USUAL_MODELS.get(plan.plain_path, ""))
        target = snapshot.by_model(model, caller)
        if target.served_name not in ("", model):
            asked_name = model
    elif plan.tells_usage or plan.model is not None:
        try:
            fields = json_fields.of_request(body)
        except ValueError:
            # Its engine says what is wrong with it.
            fields = _NO_FIELDS
        if plan.model is not None and target.served_name not in ("", json_fields.value_of(fields.model)):
            asked_name = plan.model
    asking = None
    if b"completions" in plan.plain_path and plan.tells_usage and not target.streams_tell:
        asking = ask_for_usage(body, fields)
    if asked_name:
        body = renamed(body, head.content_type, target.served_name)
        asking = asking and renamed(asking, head.content_type, target.served_name)
    answer_tokens = longest_answer(fields) if plan.tells_usage and plan.answers_text else 0
    return Read(target, body, asking, answer_tokens, asked_name)


def _longest_plainly(plain: PlainRequest) -> int:
    given = plain.max_completion_tokens or plain.max_tokens or plain.max_output_tokens
    return min(given, RESERVED_ANSWER) if given and given > 0 else RESERVED_ANSWER


def longest_answer(fields: RequestFields) -> int:
    """How many tokens to reserve for an answer: what the request allows, at most RESERVED_ANSWER."""
    for given in (fields.max_completion_tokens, fields.max_tokens, fields.max_output_tokens):
        value = json_fields.value_of(given)
        if type(value) is int and value > 0:
            return min(value, RESERVED_ANSWER)
    return RESERVED_ANSWER
