"""The model that an OpenAI-style body names."""

import orjson

from gateway.bodies import json_fields, multipart
from gateway.bodies.json_fields import RequestFields
from gateway.errors import bad_request

_NO_FIELDS = RequestFields()
# What OpenAI takes where a request names none: an alias of it is what an organization moderates with.
USUAL_MODELS = {b"/v1/moderations": "omni-moderation-latest"}


def model_of(body: bytes, content_type: bytes, *, otherwise: str = "") -> tuple[str, RequestFields]:
    """(the model that an OpenAI-style body names, the fields of a JSON body: none of a form's). `otherwise`: what it means
    where it names none."""
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
    if model is None and otherwise and fields is not _NO_FIELDS:
        return otherwise, fields
    if not isinstance(model, str) or not model:
        raise bad_request(
            "The body needs a field “model” with the id of a deployment, for example “demo/chat”.", "model_missing"
        )
    return model, fields


def renamed(body: bytes, content_type: bytes, name: str) -> bytes:
    """The same body with this model instead of another, or of none; as it was where its place can't be told."""
    if content_type[:19].lower() == b"multipart/form-data":
        place = multipart.find(body, content_type, b"model")
        return body if place is None else body[: place[0]] + name.encode() + body[place[1] :]
    try:
        fields = json_fields.of_request(body)
    except ValueError:
        return body
    if not json_fields.is_given(fields.model):
        start = body.index(b"{") + 1
        rest = body[start:]
        return body[:start] + b'"model":' + orjson.dumps(name) + (b"" if rest.lstrip()[:1] == b"}" else b",") + rest
    return json_fields.replaced(body, fields.model, orjson.dumps(name)) or body
