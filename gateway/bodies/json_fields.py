"""The few fields of a JSON body or event that the gateway goes by, read in one pass and without building the document.

What isn't asked for is skipped where it stands: a body of nothing but brackets costs neither time nor memory that differs
from that of text.
"""

from typing import Any

import msgspec
import numpy as np
import orjson
from msgspec import Raw

_NOTHING = Raw()
# What a field of ours may be at most to be looked into, in bytes.
LONGEST_VALUE = 4096


class RequestFields(msgspec.Struct, gc=False):
    model: Raw = _NOTHING
    stream: Raw = _NOTHING
    stream_options: Raw = _NOTHING
    max_completion_tokens: Raw = _NOTHING
    max_tokens: Raw = _NOTHING
    max_output_tokens: Raw = _NOTHING


class EventFields(msgspec.Struct, gc=False):
    """Of an event of a stream: its usage at the top for chats and completions, below `response` for responses, and below
    `message` for messages."""

    usage: Raw = _NOTHING
    choices: Raw = _NOTHING
    response: Raw = _NOTHING
    message: Raw = _NOTHING


class NotAnObjectError(ValueError):
    """It is JSON, but no object: nothing is missing from it that it could have had."""


_request, _event = msgspec.json.Decoder(RequestFields), msgspec.json.Decoder(EventFields)


def of_request(body: bytes) -> RequestFields:
    """Raises ValueError that says what is wrong with it, NotAnObjectError where it is another kind of JSON."""
    try:
        return _request.decode(body)
    except msgspec.ValidationError:
        raise NotAnObjectError from None
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def of_event(payload: bytes) -> EventFields | None:
    try:
        return _event.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        return None


def is_given(raw: Raw) -> bool:
    return raw is not _NOTHING


def value_of(raw: Raw) -> Any:
    """None for what isn't there, is longer than LONGEST_VALUE, or isn't JSON after all."""
    if raw is _NOTHING or memoryview(raw).nbytes > LONGEST_VALUE:
        return None
    try:
        return orjson.loads(memoryview(raw))
    except orjson.JSONDecodeError:
        return None


def replaced(body: bytes, raw: Raw, value: bytes) -> bytes | None:
    """`body` with `value` in the place of its field `raw`; None where that place can't be told."""
    found = bytes(raw)
    # It is a view into the body, which doesn't say where.
    start = int(np.frombuffer(raw, np.uint8).ctypes.data) - int(np.frombuffer(body, np.uint8).ctypes.data)
    end = start + len(found)
    if not 0 <= start <= len(body) - len(found) or body[start:end] != found:
        return None
    return body[:start] + value + body[end:]
