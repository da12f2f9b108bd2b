"""The APIs that clients speak at an address: in whose words they are told of errors, in answers and within streams."""

import re
from typing import Any

import orjson

from gateway.errors import GatewayError

_OWN_ADDRESS = re.compile(rb"^(?:http://[^/]*)?(?:/[^/?]+/[^/?]+)?(/v[12]/[a-z_/]+)")
_MESSAGES_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip


class Api:
    """OpenAI's, which most engines and clients speak, and whatever has no words of its own."""

    def body(self, error: GatewayError, request_id: str) -> bytes:
        """Of the answer that tells of `error`."""
        return orjson.dumps({"error": self._told(error, request_id)})

    def event(self, error: GatewayError, request_id: str) -> bytes:
        """The last one of a stream that breaks."""
        return b"data: %b\n\n" % self.body(error, request_id)

    def line(self, error: GatewayError, request_id: str) -> bytes:
        """The same where each line is a document."""
        return orjson.dumps({"error": error.message, "code": error.code, "request_id": request_id}) + b"\n"

    def _told(self, error: GatewayError, request_id: str) -> dict[str, Any]:
        kind = "invalid_request_error" if error.status < 500 else "server_error"
        told = {"message": error.message, "type": kind, "code": error.code, "request_id": request_id}
        return told | (error.details or {})


class Responses(Api):
    """OpenAI's responses, whose events carry their type."""

    def event(self, error: GatewayError, request_id: str) -> bytes:
        told = {"type": "error", "code": error.code, "message": error.message, "param": None, "request_id": request_id}
        return b"event: error\ndata: %b\n\n" % orjson.dumps(told)


class Messages(Api):
    """Anthropic's."""

    def body(self, error: GatewayError, request_id: str) -> bytes:
        kind = _MESSAGES_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        told = {"type": kind, "message": error.message, "code": error.code, **(error.details or {})}
        return orjson.dumps({"type": "error", "error": told, "request_id": request_id})

    def event(self, error: GatewayError, request_id: str) -> bytes:
        return b"event: error\ndata: %b\n\n" % self.body(error, request_id)


class Cohere(Api):
    """Cohere's second version."""

    def body(self, error: GatewayError, request_id: str) -> bytes:
        return orjson.dumps({"id": request_id, "message": error.message, "code": error.code, **(error.details or {})})


OPENAI = Api()
_BY_PATH = ((b"/v1/responses", Responses()), (b"/v1/messages", Messages()), (b"/v2/rerank", Cohere()))


def of(target: bytes) -> Api:
    """The API of a request by what it asks for, on /v1 or below a deployment's address."""
    found = _OWN_ADDRESS.match(target)
    if found is not None:
        for prefix, api in _BY_PATH:
            if found[1].startswith(prefix):
                return api
    return OPENAI
