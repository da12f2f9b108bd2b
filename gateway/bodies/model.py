"""The model that an OpenAI-style body names."""

from gateway.bodies import json_fields, multipart
from gateway.bodies.json_fields import RequestFields
from gateway.errors import bad_request

_NO_FIELDS = RequestFields()


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
